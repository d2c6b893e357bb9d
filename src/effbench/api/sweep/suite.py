"""The request of `effbench sweep`, from flags and a suite, and its result as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from effbench.api.compare.budgets import check_device_names, read_suite, read_suite_file
from effbench.api.export.stage import Notify, silent
from effbench.api.keywords import build
from effbench.api.sweep.request import SweepRequest
from effbench.api.sweep.run import Sweep
from effbench.errors import DataError, UsageError
from effbench.profiles.devices import allowed
from effbench.reports import write_tables
from effbench.reports.matrix import Matrix, render
from effbench.schema import Measurement
from effbench.statistics import percentiles
from effbench.store import home as home_of


def arguments(names: Sequence[str], flags: Mapping[str, Any], folder: Path = Path()) -> dict[str, Any]:
    """Combine flags with a suite; a flag wins.

    Args:
        names: Models, and at most one suite file (``.toml``).
        flags: The options that the user set, by the names of the fields of a request.
        folder: Its ``effbench.toml`` or ``pyproject.toml`` is read if no suite is named.

    Returns:
        Values by the names of the fields of `SweepRequest` or, with devices, of a lab's request.

    Raises:
        DataError: A suite is not TOML, or there are two.
        UsageError: A key is unknown.
    """
    files = [name for name in names if name.endswith(".toml")]
    if len(files) > 1:
        raise DataError(f"{' and '.join(files)}: one suite at a time.")
    suite = read_suite_file(Path(files[0])) if files else read_suite(folder)
    named = [name for name in names if name not in files]
    models = named or suite.suite.get("models", [])
    if suite.path is not None and not files and not named:
        allowed.check(suite.path, {"suite": suite.suite, "devices": suite.devices}, "suite.models")
    check_device_names(suite)
    values = {**suite.suite, **flags, "models": models}
    if "devices" in values:
        values["devices"] = [name for text in values["devices"] for name in str(text).split(",") if name]
    return values


def sweep_request(values: Mapping[str, Any], notify: Notify = silent) -> SweepRequest:
    """Build the request of a sweep on this machine from `arguments`.

    Raises:
        UsageError: A value is not one of a sweep on this machine.
    """
    local = {name: value for name, value in values.items() if name != "devices"}
    return build(SweepRequest, {**local, "notify": notify}, "option of sweep:")


def over_devices(values: Mapping[str, Any]) -> bool:
    """Return whether a sweep runs over devices, rather than on this machine alone.

    Raises:
        UsageError: An option of a sweep over devices was given without devices, or the other way round.
    """
    devices = values.get("devices", ())
    for key in ("scheduler", "store"):
        if key in values and not devices:
            raise UsageError(f"--{key} belongs to a sweep over devices.", hint="Add --devices NAME,NAME.")
    if set(devices) <= {"local"} and "scheduler" not in values and "store" not in values:
        return False
    for key, option in (("measure", "--no-profile"), ("retry", "--retry")):
        if values.get(key, key == "measure") != (key == "measure"):
            hint = "A sweep over devices measures, and runs again every cell that did not end as ok."
            raise UsageError(f"{option} does not go with --devices.", hint=hint)
    return True


def table(sweep: Sweep) -> Matrix:
    """Return a sweep as a table; latencies stand in the cells, with their trust grade."""
    latencies = {measurement.digest: _latency(measurement) for measurement in sweep.measurements}
    return Matrix(sweep.cells, [job.label for job in sweep.not_run], latencies)


def _latency(measurement: Measurement) -> str:
    from effbench.profiles.trust import grade_of

    p50 = percentiles.estimate([item.samples_ns for item in measurement.samples.rounds], 0.5)
    trust, _ = grade_of(measurement)
    return "" if p50 is None else f"{p50.value / 1e6:.2f} ms ({trust})"


def write(matrix: Matrix, formats: Sequence[str], out: str | None) -> list[Path]:
    """Write the table as ``matrix.md``, ``.csv`` or ``.json`` below the output folder.

    Raises:
        UsageError: A format is unknown.
        DataError: The folder cannot be written.
    """
    return write_tables("matrix", lambda form: render(matrix, form), formats, home_of(out))
