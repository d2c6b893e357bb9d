"""The policy of a gate comes from its base: a change cannot raise its own limits, or name the device it is measured on.

Thresholds, budgets, devices, how models are exported, and what is declared of them are those of the base's
``effbench.toml``. The change may add models and folders of modules; every other difference is reported and not applied.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from effbench.api.compare.budgets import FILES, Suite, check_device_names, parse
from effbench.api.compare.worktree import commit_of, top_of
from effbench.errors import UsageError
from effbench.profiles import devices

ADDED = (("suite", "models"), ("gate", "path"))
"""Lists that the change may extend."""
NO_FILE = "the base has no suite: that of the working tree applies"


@dataclass(frozen=True)
class Policy:
    """The suite that applies, what the change would have changed in it, and whether it is the base's."""

    suite: Suite
    changes: tuple[str, ...] = ()
    of_base: bool = False

    def in_force(self) -> AbstractContextManager[None]:
        """Take the devices from the base, inside a ``with`` statement."""
        if not self.of_base:
            return nullcontext()
        return devices.declared_by(self.suite.devices, str(self.suite.path))


def policy_of(folder: Path, base: str | None, own: Suite) -> Policy:
    """Return the policy of a gate in a folder.

    Args:
        folder: Of the working tree.
        base: A git ref; None means that the base is no tree, and the policy that of the folder.
        own: The suite of the folder.

    Raises:
        DataError: The base's file is not TOML.
        UsageError: A key of it is unknown, or its suite names a file as a device.
    """
    check_device_names(own)
    if base is None:
        return Policy(own)
    suite = None
    with contextlib.suppress(UsageError):  # no repository, no such ref: the gate itself reports that
        top = top_of(folder)
        suite = _suite_at(commit_of(base, top), base, top, folder)
    if suite is None:
        return Policy(own, (NO_FILE,) if own.path is not None else ())
    check_device_names(suite)
    changes = tuple(_changes("", _document(suite), _document(own)))
    for table, key in ADDED:
        entries = getattr(suite, table)
        extra = [item for item in getattr(own, table).get(key, ()) if item not in entries.get(key, ())]
        if extra:
            added: dict[str, Any] = {table: {**entries, key: [*entries.get(key, ()), *extra]}}
            suite = replace(suite, **added)
    return Policy(suite, changes, of_base=True)


def _suite_at(commit: str, base: str, top: Path, folder: Path) -> Suite | None:
    relative = folder.resolve().relative_to(top.resolve())
    for name in FILES:
        place = (relative / name).as_posix()
        shown = subprocess.run(["git", "show", f"{commit}:{place}"], cwd=top, capture_output=True, check=False)
        if shown.returncode == 0 and (suite := parse(Path(f"{base}:{place}"), shown.stdout)) is not None:
            return suite
    return None


def _document(suite: Suite) -> dict[str, Any]:
    budgets = {str(index): {**item.selectors, **item.limits} for index, item in enumerate(suite.budgets, start=1)}
    return {"suite": suite.suite, "gate": suite.gate, "budget": budgets, "devices": suite.devices, "model": suite.model}


def _changes(key: str, base: Any, change: Any) -> Iterator[str]:
    """Yield a line for each value that the change has differently."""
    if isinstance(base, Mapping) and isinstance(change, Mapping):
        for name in sorted({*base, *change}):
            yield from _changes(f"{key}.{name}" if key else name, base.get(name), change.get(name))
        return
    if base == change:
        return
    if isinstance(base, list) and isinstance(change, list) and tuple(key.split(".")) in ADDED:
        removed = [item for item in base if item not in change]
        if removed:
            yield f"{key}: {_shown(removed)} removed by the change; compared all the same"
        return
    yield f"{key}: {_shown(base)} in the base, {_shown(change)} in the change; the base's applies"


def _shown(value: Any) -> str:
    return "absent" if value is None else str(value)[:120]
