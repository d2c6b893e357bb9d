"""Import what other tools measured: a vendor's file, tied to an artifact and a device, kept as *imported*."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from uuid import uuid4

from effbench.api.devices import kits
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
    settings: dict[str, str] | None = None,
    out: str | Path | None = None,
) -> list[Measurement]:
    """Read a kit's result, or files of another tool as one measurement of an artifact on a device, and store it.

    Args:
        files: Each is one round: one run of the tool in a process of its own.
        artifact: Whose files were run (a kit's result knows that itself); its digest ties the figures to fidelity and
            accuracy.
        device: A name that `effbench devices` lists, or a device file.
        form: The format, one of `vendors.readers`; None tells it from the file.
        threads: Of the runtime, where the file does not tell.
        settings: Further conditions, shown with the figures (power mode, delegate).
        out: The folder with the store.

    Raises:
        UsageError: An unknown artifact, device or format.
        DataError: A file cannot be read, or its figures are no latency.
    """
    home = home_of(out)
    texts = {Path(name): _text(Path(name)) for name in files}
    if all(kits.is_result(text) for text in texts.values()):
        return [one for path, text in texts.items() for one in kits.bring_home(text, str(path), home)]
    if artifact is None or device is None:
        hint = "Add --artifact NAME and --device NAME; only a kit's result knows them itself."
        raise UsageError("Whose figures are these, and on what device?", hint=hint)
    found, used = find_artifact(artifact, home), devices.get(device)
    readings = [_read(path, text, form) for path, text in texts.items()]
    if len({(reader, reading.scope) for reader, reading in readings}) > 1:
        raise DataError("The files come from different tools; import them one tool at a time.")
    (tool, first) = readings[0]
    known = {"batch": str(found.subject.batch), "tool": tool, **first.settings, **(settings or {})}
    if threads is not None:
        known["threads"] = str(threads)
    one = Measurement(
        digest=found.digest,
        subject=found.subject,
        device=used.name,
        settings=known,
        samples=Samples(
            tuple(_round(reading) for _, reading in readings), scope=first.scope, aggregate=first.aggregate
        ),
        before={"cpu_model": used.soc or used.description, "runtime": tool},
        after={},
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        run=uuid4().hex[:12],
        placement={**found.placement, **first.placement},
        origin=ORIGIN,
        notes=(*_notes(found, first), *(f"{Path(name).name}: {file_sha256(Path(name))[:12]}" for name in files)),
    )
    Store(home).append(one)
    return [one]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}.") from error


def _read(path: Path, text: str, form: str | None) -> tuple[str, Reading]:
    reader, reading = vendors.read(text, str(path), form)
    return reader.name, reading


def _round(reading: Reading) -> Round:
    return Round(reading.samples_ns, reading.warmup, True, reading.load_ms, reading.first_ms, 0, dict(reading.observed))


def _notes(artifact: Artifact, reading: Reading) -> tuple[str, ...]:
    unfit = () if artifact.fidelity else ("the artifact was never verified: is it still the same model?",)
    return (*reading.notes, *unfit)
