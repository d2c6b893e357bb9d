"""The result of a kit's run, stored as measurements.

Its signature has to hold (`effbench.device.signature`), and the machine that it names may contradict no fact of the
device. Returned outputs are judged here (`returned`). A result that is imported again adds nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from effbench import reading
from effbench.api.devices import returned
from effbench.api.devices.returned import DeviceCheck
from effbench.api.remote import RoundAnswer, check_clock
from effbench.codec import fingerprint, from_json, to_json
from effbench.deploy.artifact import bundle
from effbench.device.signature import Chain
from effbench.errors import DataError, MeasurementError, UsageError
from effbench.profiles import devices
from effbench.schema import FORMAT_VERSION, Artifact, Fidelity, Measurement, Samples
from effbench.store import Store, write_atomically

ID = re.compile(r"[0-9a-f]{16}")
UNCHECKED = DeviceCheck("its outputs were not verified on the device")
FORCE = "--force keeps it, with a mark that every table shows."


@dataclass(frozen=True)
class KitRecord:
    """What a home remembers of a kit that it wrote: its key, its device, and the digests of its artifacts."""

    id: str
    key: str
    device: str
    digests: tuple[str, ...]


@dataclass(frozen=True)
class KitHead:
    """The first line of a result: which kit ran, when, and on which device by its own account."""

    kit: str
    device: str
    time: str
    threads: int = 1
    mac: str = ""


@dataclass(frozen=True)
class KitLine:
    """One answer of a result: to the verification of an artifact, or to one round; or the error that came instead."""

    artifact: str = ""
    digest: str = ""
    op: str = ""
    outputs: str = ""
    """SHA-256 of the file with the outputs that were verified; it is `device.agent_kit.OUTPUTS` / NAME.npz."""
    seconds: float = 0.0
    answer: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    lines: int = 0
    mac: str = ""


def remember(home: Path, record: KitRecord) -> None:
    """Keep the record of a kit below a home; who can read that folder could sign results of the kit."""
    path = _path(home, record.id)
    write_atomically(path, json.dumps(to_json(record), indent=1) + "\n")
    path.chmod(0o600)


def is_result(text: str) -> bool:
    """Return whether a text is the result of a kit's run."""
    return text.startswith("{") and '"kit"' in text.partition("\n")[0]


def import_result(text: str, location: str, home: Path, *, force: bool = False) -> list[Measurement]:
    """Store each round of a kit's run as it was measured, tied to the artifact's digest; what is stored already, once.

    Args:
        text: The file that the run wrote.
        location: Its path, for messages; returned outputs lie beside it.
        home: The folder with the artifacts, the store, and the record of the kit.
        force: Keep a result without a valid signature, or from another machine than the device's; it is marked.

    Raises:
        DataError: The file is damaged or was altered, is about artifacts that are not here, or is of another machine.
    """
    rows = [reading.json_value(row, f"{location}:{at}") for at, row in enumerate(text.splitlines(), start=1)]
    head, lines = _parsed(rows, location)
    doubts = _signature_doubts(rows, head, home, location)
    if doubts and not force:
        raise DataError(doubts[0], hint=FORCE)
    artifacts = {artifact.digest: artifact for artifact in bundle.artifacts(home, skip=True)}
    run = fingerprint(rows)[:12]
    rounds: dict[str, list[Measurement]] = {}
    checks: dict[str, DeviceCheck] = {}
    for at, line in enumerate(lines, start=2):
        position = f"{location}:{at}"
        if line.lines or line.error:
            continue
        if line.digest not in artifacts:
            raise DataError(f"{position}: {line.artifact[:80]} is not below {home}.", hint="Set --out to its home.")
        artifact = artifacts[line.digest]
        if line.op == "verify":
            claim = from_json(Fidelity, line.answer.get("fidelity"), position)
            checked = returned.check(claim, artifact, home, Path(location).parent, line.outputs)
            if checked.doubts and not force:
                raise DataError(checked.doubts[0], hint=FORCE)
            checks[line.digest] = checked
            continue
        answer = RoundAnswer.of(line.answer, position)
        try:
            check_clock(answer.round.samples_ns, answer.agent_s, line.seconds)
        except MeasurementError as error:
            raise DataError(f"{position}: {error.message}.", hint=error.hint) from error
        contradictions = _other_machine(head.device, answer, position, force)
        checked = checks.get(line.digest, UNCHECKED)
        measured = _measurement(artifact, answer, head, run)
        measured = replace(
            measured,
            subject=checked.of(measured.subject),
            notes=("measured by a kit", checked.note),
            doubts=(*doubts, *checked.doubts, *contradictions),
        )
        rounds.setdefault(artifact.digest, []).append(measured)
    failures = tuple(f"{line.artifact}: {line.error}" for line in lines if line.error)
    if not rounds:
        raise DataError(f"{location}: no round was measured. {'; '.join(failures)}")
    for group in rounds.values():
        Store(home).append_missing(group)
    return [_joined(group, failures) for group in rounds.values()]


def _path(home: Path, kit: str) -> Path:
    return home / "kits" / f"{kit}.json"


def _parsed(rows: Sequence[Any], location: str) -> tuple[KitHead, list[KitLine]]:
    if not rows or not isinstance(rows[0], dict):
        raise DataError(f"{location}: not the result of a kit.")
    head = from_json(KitHead, rows[0], f"{location}:1")
    plain = ({"format": FORMAT_VERSION, **row} if isinstance(row, dict) else row for row in rows[1:])
    return head, [from_json(KitLine, row, f"{location}:{at}") for at, row in enumerate(plain, start=2)]


def _signature_doubts(rows: Sequence[dict[str, Any]], head: KitHead, home: Path, location: str) -> tuple[str, ...]:
    """Return why a result may not be what a kit of this home wrote."""
    path = _path(home, head.kit)
    if not ID.fullmatch(head.kit) or not path.exists():
        return (f"{location}: {home} has written no kit '{head.kit[:40]}', so nothing shows that it is unaltered.",)
    record = from_json(KitRecord, reading.json_file(path), str(path))
    chain = Chain(record.key)
    for at, row in enumerate(rows, start=1):
        if not chain.holds(row):
            return (f"{location}:{at}: this line is not as the kit wrote it (its signature does not match).",)
    if record.device != head.device:
        return (f"{location}: the kit was for '{record.device}', not '{head.device}'.",)
    if rows[-1].get("lines") != len(rows) - 1:
        return (f"{location}: the end is missing: the run was interrupted, or lines were left out.",)
    return ()


def _other_machine(device: str, answer: RoundAnswer, position: str, force: bool) -> tuple[str, ...]:
    try:
        contradictions = devices.get(device).contradictions({**answer.after, **answer.before})
    except UsageError:  # a device that this home does not know contradicts nothing
        return ()
    if contradictions and not force:
        raise DataError(f"{position}: {contradictions[0]}", hint=FORCE)
    return contradictions


def _joined(rounds: list[Measurement], failures: tuple[str, ...]) -> Measurement:
    samples = Samples(tuple(item for measurement in rounds for item in measurement.samples.rounds))
    return replace(rounds[0], samples=samples, notes=(*rounds[0].notes, *failures))


def _measurement(artifact: Artifact, answer: RoundAnswer, head: KitHead, run: str) -> Measurement:
    computed = answer.compute_precision or artifact.subject.compute_precision
    return Measurement(
        digest=artifact.digest,
        subject=replace(artifact.subject, compute_precision=computed, batch=answer.batch),
        device=head.device,
        settings={"batch": str(answer.batch), "threads": str(head.threads), "tool": "effbench kit"},
        samples=Samples((answer.round,), answer.protocol),
        before=answer.before,
        after=answer.after,
        time=head.time,
        run=run,
        placement=artifact.placement,
        origin="imported",
    )
