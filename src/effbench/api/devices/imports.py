"""Import what other tools measured: their files, tied to an artifact and a device, kept as *imported*."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from uuid import uuid4

from effbench import reading
from effbench.api.devices import kit_results
from effbench.api.export.verification import find_artifact
from effbench.codec import file_sha256
from effbench.errors import DataError, UsageError
from effbench.profiles import devices, vendors
from effbench.profiles.vendors import Reading
from effbench.schema import Artifact, Measurement, Round, Samples
from effbench.store import Store
from effbench.store import home as home_of

ORIGIN = "imported"


def imported(
    files: Sequence[str | Path],
    artifact: str | None = None,
    device: str | None = None,
    *,
    form: str | None = None,
    threads: int | None = None,
    settings: Mapping[str, str] | None = None,
    out: str | Path | None = None,
) -> list[Measurement]:
    """Read a kit's result, or files of another tool as one measurement of an artifact on a device, and store it.

    Args:
        files: Each is one round: one run of the tool in a fresh process.
        artifact: Which artifact was measured (a kit's result names it); its digest ties the figures to fidelity and
            accuracy.
        device: A name that `effbench devices` lists, or a device file.
        form: The format, one of `vendors.readers`; None recognizes it from the file.
        threads: Of the runtime, if the file does not state them.
        settings: Further conditions, shown with the figures (power mode, delegate).
        out: The folder with the store.

    Raises:
        UsageError: An unknown artifact, device or format.
        DataError: A file cannot be read, or its figures are no latency.
    """
    home = home_of(out)
    texts = {Path(name): _text(Path(name)) for name in files}
    if all(kit_results.is_result(text) for text in texts.values()):
        results = [kit_results.import_result(text, str(path), home) for path, text in texts.items()]
        return [measurement for result in results for measurement in result]
    if artifact is None or device is None:
        hint = "Add --artifact NAME and --device NAME; only a kit's result names them itself."
        raise UsageError("Which artifact was measured, and on what device?", hint=hint)
    measurement = _measurement(texts, find_artifact(artifact, home), device, form, threads, settings or {})
    Store(home).append(measurement)
    return [measurement]


def _measurement(
    texts: Mapping[Path, str],
    artifact: Artifact,
    device_name: str,
    form: str | None,
    threads: int | None,
    settings: Mapping[str, str],
) -> Measurement:
    device = devices.get(device_name)
    readings = [_read(path, text, form) for path, text in texts.items()]
    if len({(reader, reading.scope) for reader, reading in readings}) > 1:
        raise DataError("The files come from different tools; import them one tool at a time.")
    (tool, first) = readings[0]
    conditions = {"batch": str(artifact.subject.batch), "tool": tool, **first.settings, **settings}
    if threads is not None:
        conditions["threads"] = str(threads)
    rounds = tuple(_round(reading) for _, reading in readings)
    return Measurement(
        digest=artifact.digest,
        subject=artifact.subject,
        device=device.name,
        settings=conditions,
        samples=Samples(rounds, scope=first.scope, aggregate=first.aggregate),
        before={"cpu_model": device.soc or device.description, "runtime": tool},
        after={},
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        run=uuid4().hex[:12],
        placement={**artifact.placement, **first.placement},
        origin=ORIGIN,
        notes=(*_notes(artifact, first), *(f"{path.name}: {file_sha256(path)[:12]}" for path in texts)),
    )


def _text(path: Path) -> str:
    return reading.file_text(path)


def _read(path: Path, text: str, form: str | None) -> tuple[str, Reading]:
    reader, reading = vendors.read(text, str(path), form)
    return reader.name, reading


def _round(item: Reading) -> Round:
    return Round(item.samples_ns, item.warmup, True, item.load_ms, item.first_ms, 0, dict(item.observed))


def _notes(artifact: Artifact, item: Reading) -> tuple[str, ...]:
    unverified = () if artifact.fidelity else ("the artifact was never verified: is it still the same model?",)
    return (*item.notes, *unverified)
