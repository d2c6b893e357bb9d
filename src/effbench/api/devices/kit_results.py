"""The result of a kit's run, stored as measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from effbench import reading
from effbench.api.remote import check_clock
from effbench.codec import from_json
from effbench.deploy.artifact import bundle
from effbench.errors import DataError
from effbench.schema import Artifact, Fidelity, Measurement, Round, Samples
from effbench.store import Store


def is_result(text: str) -> bool:
    """Return whether a text is the result of a kit's run."""
    return text.startswith("{") and '"kit"' in text.partition("\n")[0]


def import_result(text: str, location: str, home: Path) -> list[Measurement]:
    """Store each round of a kit's run as it was measured, tied to the artifact's digest.

    Args:
        text: The file that the run wrote.
        location: Its path, for messages.
        home: The folder with the artifacts and the store.

    Raises:
        DataError: The file is damaged, or about artifacts that are not here.
    """
    head, *lines = (
        reading.json_value(line, f"{location}:{number}") for number, line in enumerate(text.splitlines(), start=1)
    )
    artifacts = {artifact.digest: artifact for artifact in bundle.artifacts(home)}
    run = uuid4().hex[:12]
    rounds: dict[str, list[Measurement]] = {}
    for number, line in enumerate(lines, start=2):
        position = f"{location}:{number}"
        if line["digest"] not in artifacts:
            raise DataError(f"{position}: {line['artifact']} is not below {home}.", hint="Set --out to its home.")
        if "error" in line:
            continue
        artifact, answer = artifacts[line["digest"]], line["answer"]
        if line["op"] == "verify":
            fidelity = from_json(Fidelity, answer["fidelity"], position)
            if artifact.fidelity is None:
                artifacts[line["digest"]] = bundle.annotate(artifact, fidelity=fidelity)
            continue
        check_clock(answer["round"]["samples_ns"], answer.get("agent_s", 0.0), float(line["seconds"]))
        rounds.setdefault(artifact.digest, []).append(_measurement(artifact, answer, head, run, position))
    failures = tuple(f"{line['artifact']}: {line['error']}" for line in lines if "error" in line)
    if not rounds:
        raise DataError(f"{location}: no round was measured. {'; '.join(failures)}")
    for measurement in (item for group in rounds.values() for item in group):
        Store(home).append(measurement)
    return [_joined(group, failures) for group in rounds.values()]


def _joined(rounds: list[Measurement], notes: tuple[str, ...]) -> Measurement:
    samples = Samples(tuple(item for measurement in rounds for item in measurement.samples.rounds))
    return replace(rounds[0], samples=samples, notes=notes)


def _measurement(
    artifact: Artifact, answer: Mapping[str, Any], head: Mapping[str, Any], run: str, location: str
) -> Measurement:
    compute_precision = answer["compute_precision"] or artifact.subject.compute_precision
    return Measurement(
        digest=artifact.digest,
        subject=replace(artifact.subject, compute_precision=compute_precision, batch=answer["batch"]),
        device=str(head["device"]),
        settings={"batch": str(answer["batch"]), "threads": str(head.get("threads", 1)), "tool": "effbench kit"},
        samples=Samples((from_json(Round, answer["round"], location),), answer["protocol"]),
        before=answer["before"],
        after=answer["after"],
        time=str(head["time"]),
        run=run,
        placement=artifact.placement,
        origin="imported",
        notes=("measured by a kit",),
    )
