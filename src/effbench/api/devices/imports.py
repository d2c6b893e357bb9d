"""Import what other tools measured: their files, tied to an artifact and a device, kept as *imported*."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

from effbench import reading
from effbench.api.devices import kit_results
from effbench.api.devices.request import ImportRequest
from effbench.api.export.verification import find_artifact
from effbench.api.keywords import from_fields
from effbench.codec import file_sha256, fingerprint
from effbench.errors import DataError, UsageError
from effbench.profiles import devices, vendors
from effbench.profiles.vendors import Reading
from effbench.schema import Artifact, Device, Measurement, Round, Samples
from effbench.store import Store
from effbench.store import home as home_of

ORIGIN = "imported"


@from_fields(ImportRequest)
def imported(request: ImportRequest) -> list[Measurement]:
    """Read a kit's result, or files of another tool as one measurement of an artifact on a device, and store it once.

    Arguments are the fields of `ImportRequest`.

    Raises:
        UsageError: An unknown artifact, device or format.
        DataError: A file cannot be read, its figures are no latency, or a kit's result was altered.
    """
    home = home_of(request.out)
    texts = {Path(name): reading.file_text(Path(name)) for name in request.files}
    if all(kit_results.is_result(text) for text in texts.values()):
        results = [
            kit_results.import_result(text, str(path), home, force=request.force) for path, text in texts.items()
        ]
        return [measurement for result in results for measurement in result]
    if request.artifact is None or request.device is None:
        hint = "Add --artifact NAME and --device NAME; only a kit's result names them itself."
        raise UsageError("Which artifact was measured, and on what device?", hint=hint)
    measurement = _measurement(texts, find_artifact(request.artifact, home), devices.get(request.device), request)
    Store(home).append_missing([measurement])
    return [measurement]


def _measurement(texts: Mapping[Path, str], artifact: Artifact, device: Device, request: ImportRequest) -> Measurement:
    readings = [vendors.read(text, str(path), request.form) for path, text in texts.items()]
    if len({(reader.name, item.scope) for reader, item in readings}) > 1:
        raise DataError("The files come from different tools; import them one tool at a time.")
    (reader, first) = readings[0]
    conditions = {"batch": str(artifact.subject.batch), "tool": reader.name, **first.settings}
    conditions |= request.settings or {}
    if request.threads is not None:
        conditions["threads"] = str(request.threads)
    content = [file_sha256(path) for path in texts]
    return Measurement(
        digest=artifact.digest,
        subject=artifact.subject,
        device=device.name,
        settings=conditions,
        samples=Samples(tuple(_round(item) for _, item in readings), scope=first.scope, aggregate=first.aggregate),
        before={"cpu_model": device.soc or device.description, "runtime": reader.name},
        after={},
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        run=fingerprint([content, artifact.digest, device.name, conditions])[:12],
        placement={**artifact.placement, **first.placement},
        origin=ORIGIN,
        notes=(
            *_notes(artifact, first),
            *(f"{path.name}: {sha[:12]}" for path, sha in zip(texts, content, strict=True)),
        ),
    )


def _round(item: Reading) -> Round:
    return Round(item.samples_ns, item.warmup, True, item.load_ms, item.first_ms, 0, dict(item.observed))


def _notes(artifact: Artifact, item: Reading) -> tuple[str, ...]:
    unverified = () if artifact.fidelity else ("the artifact was never verified: is it still the same model?",)
    return (*item.notes, *unverified)
