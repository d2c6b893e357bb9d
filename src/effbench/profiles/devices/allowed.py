"""What a project file may not do until its user allows it: start programs, connect to hosts, name code.

``effbench.toml`` comes with a repository, and the command that reads it was not told about it. `effbench allow` shows
these parts and stores their hash in a file of the user; a change of one of them has to be allowed again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from effbench.codec import fingerprint
from effbench.errors import DataError, UsageError

CONFIG, PROJECT = "EFFBENCH_CONFIG", "EFFBENCH_ALLOW_PROJECT"
"""Environment variables: the folder of the user's files, and ``1`` to allow every project file."""
ALLOWED = "allowed.txt"
SENSITIVE = ("transport", "connection", "options")
"""Keys of ``[devices.NAME]``: a connection names a command, a host, a key or files that are run on a phone; an option
of a target can name an interpreter."""


def config_folder() -> Path:
    """Return the folder of the user's files: EFFBENCH_CONFIG, else ``~/.config/effbench``."""
    return Path(os.environ.get(CONFIG) or "~/.config/effbench").expanduser()


def sensitive_parts(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a project file that need to be allowed; empty if there are none."""
    devices, suite = data.get("devices", {}), data.get("suite", {})
    parts: dict[str, Any] = {}
    for name, entry in devices.items() if isinstance(devices, dict) else ():
        chosen = {key: entry[key] for key in SENSITIVE if key in entry} if isinstance(entry, dict) else {}
        if chosen:
            parts[f"devices.{name}"] = chosen
    models = suite.get("models", []) if isinstance(suite, dict) else []
    # A .pt2 file is read by torch, which runs code over what the file names: it counts as a factory.
    named = models if isinstance(models, list) else []
    factories = [name for name in named if ":" in str(name) or PurePath(str(name)).suffix.lower() == ".pt2"]
    return {**parts, **({"suite.models": factories} if factories else {})}


def is_allowed(path: Path, data: Mapping[str, Any]) -> bool:
    """Return whether the sensitive parts of a project file are allowed as they are now."""
    parts = sensitive_parts(data)
    return not parts or os.environ.get(PROJECT) == "1" or _line(path, parts) in _lines()


def check(path: Path, data: Mapping[str, Any], part: str) -> None:
    """Refuse a part of a project file that is sensitive and not allowed.

    Raises:
        UsageError: It names the part and the command that allows it.
    """
    if part in sensitive_parts(data) and not is_allowed(path, data):
        raise UsageError(
            f"{path}: [{part}] could start programs or connect to hosts, and you have not allowed it.",
            hint="Read that part, then run: effbench allow",
        )


def allow(path: Path, data: Mapping[str, Any]) -> None:
    """Allow the sensitive parts of a project file as they are now.

    Raises:
        DataError: The user's file cannot be written.
    """
    file, line = config_folder() / ALLOWED, _line(path, sensitive_parts(data))
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if line not in _lines():
            with file.open("a") as stream:
                stream.write(f"{line}\n")
    except OSError as error:
        raise DataError(f"Cannot write {file}: {error.strerror}.", hint=f"{CONFIG} names another folder.") from error


def _line(path: Path, parts: Mapping[str, Any]) -> str:
    return f"{fingerprint(parts)}  {path.resolve()!s}".replace("\n", " ")


def _lines() -> set[str]:
    try:
        return set((config_folder() / ALLOWED).read_text(errors="replace").splitlines())
    except OSError:
        return set()
