"""What `effbench sweep` is asked for, from flags and a suite, and its result as a table."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from effbench.api.compare.budgets import read_suite, read_suite_file
from effbench.api.export.stage import Notify, silent
from effbench.api.sweep.run import Sweep, sweep
from effbench.errors import DataError, UsageError
from effbench.reports.matrix import FORMATS, Matrix, render
from effbench.schema import Measurement
from effbench.statistics import percentiles
from effbench.store import home as home_of
from effbench.store import write_atomically

OF_A_SUITE = (
    "devices",
    "targets",
    "resolutions",
    "precisions",
    "batch",
    "threads",
    "seed",
    "images",
    "allow_fallback",
)
"""What a suite may say besides its models; a flag wins over it."""


def settings(names: Sequence[str], flags: Mapping[str, Any], folder: Path = Path()) -> dict[str, Any]:
    """Return the arguments of `sweep`: flags first, then a suite named or that of the folder.

    Args:
        names: Models, and at most one suite file (``.toml``).
        flags: What the user said, unset ones left out.
        folder: Whose ``effbench.toml`` or ``pyproject.toml`` is read where no suite is named.

    Raises:
        DataError: A suite is not TOML, or there are two.
        UsageError: A key that means nothing.
    """
    files = [name for name in names if name.endswith(".toml")]
    if len(files) > 1:
        raise DataError(f"{' and '.join(files)}: one suite at a time.")
    suite = read_suite_file(Path(files[0])) if files else read_suite(folder)
    chosen = {key: suite.suite[key] for key in OF_A_SUITE if key in suite.suite}
    models = [name for name in names if name not in files] or suite.suite.get("models", [])
    given = dict(flags)
    if "memory_limit_mib" in given:
        given["memory_limit_bytes"] = int(given.pop("memory_limit_mib") * 2**20)
    chosen |= {**given, "models": models}
    if "devices" in chosen:
        chosen["devices"] = [name for part in chosen["devices"] for name in str(part).split(",") if name]
    return chosen


def over_devices(chosen: Mapping[str, Any]) -> bool:
    """Tell whether a sweep is one over devices, rather than over this machine alone.

    Raises:
        UsageError: What belongs to devices was said without any, or the other way round.
    """
    devices = chosen.get("devices", ())
    for key in ("scheduler", "store"):
        if key in chosen and not devices:
            raise UsageError(f"--{key} belongs to a sweep over devices.", hint="Add --devices NAME,NAME.")
    if set(devices) <= {"local"} and "scheduler" not in chosen and "store" not in chosen:
        return False
    for key, said in (("measure", "--no-profile"), ("retry", "--retry")):
        if chosen.get(key, key == "measure") != (key == "measure"):
            hint = "A sweep over devices measures, and does again what did not end as ok."
            raise UsageError(f"{said} does not go with --devices.", hint=hint)
    return True


def run(chosen: Mapping[str, Any], notify: Notify = silent) -> Sweep:
    """Run `sweep` with the arguments that `settings` gave."""
    known = inspect.signature(sweep).parameters
    return sweep(**{key: value for key, value in chosen.items() if key in known}, notify=notify)


def table(found: Sweep) -> Matrix:
    """Return what a sweep knows as a table, latencies with their grade of trust beside the cells."""
    from effbench.api.sweep.jobs import label

    left = [label(job) for job in found.not_run]
    return Matrix(found.cells, left, {one.digest: _latency(one) for one in found.measurements})


def _latency(one: Measurement) -> str:
    from effbench.profiles.trust import grade

    p50 = percentiles.estimate([item.samples_ns for item in one.samples.rounds], 0.5)
    trust, _ = grade(one.samples, one.before, one.after)
    return "" if p50 is None else f"{p50.value / 1e6:.2f} ms ({trust})"


def write(matrix: Matrix, formats: Sequence[str], out: str | None) -> list[Path]:
    """Write the table as ``matrix.md``, ``.csv`` or ``.json`` below the output folder.

    Raises:
        UsageError: A format is unknown.
        DataError: The folder cannot be written.
    """
    files = []
    for form in formats:
        text = render(matrix, form)
        path = home_of(out) / f"matrix.{FORMATS.get(form, 'txt')}"
        write_atomically(path, text)
        files.append(path)
    return files
