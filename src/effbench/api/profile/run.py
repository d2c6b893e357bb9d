"""Profile: rounds in fresh processes, artifacts interleaved between rounds in random order, raw samples kept."""

from __future__ import annotations

import math
import random
import time
import uuid
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from effbench import deploy, process
from effbench.api.export import failures
from effbench.api.export.stage import Notify
from effbench.api.keywords import from_fields
from effbench.api.profile import clocks, references
from effbench.api.profile.request import ROUNDS, Keep, ProfileRequest
from effbench.api.profile.select import Selection
from effbench.api.remote import Remote, RoundAnswer, device_of, lost
from effbench.deploy.artifact import bundle
from effbench.device import AGENT
from effbench.errors import EffbenchError, UnavailableError, UsageError, counted
from effbench.profiles.protocol import COOL_LIMIT_S, Protocol
from effbench.schema import DEFAULT_THREADS, Artifact, Cell, Measurement, Samples
from effbench.store import Store
from effbench.store import home as home_of

SAMPLES = 120
"""Wanted over all rounds, so that a p90 can be stated; where the budget does not allow them, the budget wins."""
MIN_SECONDS = 0.3
GIVE_UP = 3
"""So many rounds lost to the connection one after the other, and the device is given up."""


@dataclass(frozen=True)
class Profile:
    """The measurements of one `profile` call, and a cell for every artifact that has none."""

    measurements: tuple[Measurement, ...]
    cells: tuple[Cell, ...]
    messages: tuple[str, ...] = ()
    interrupted: bool = False


@dataclass
class _Conditions:
    """The conditions of all rounds; ``start_c`` is the temperature before the first, once it is known."""

    protocol: Protocol
    cool_down: bool
    rounds: int
    threads: int
    budget_s: float
    keep: Keep
    home: Path
    force: bool = False
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    start_c: float | None = None

    @property
    def limit_s(self) -> float:
        """How long a round may take before it is given up."""
        cooling_s = COOL_LIMIT_S if self.cool_down else 0
        return max(120.0, 4 * self.budget_s) + 60 * (self.protocol.minutes or 0) + cooling_s

    @property
    def job(self) -> dict[str, Any]:
        """The part of a job that is the same in all rounds."""
        cool_to_c = self.start_c if self.cool_down else None
        return {**asdict(self.protocol), "threads": self.threads, "cool_to_c": cool_to_c}

    def began(self, before: dict[str, Any]) -> None:
        """Take the temperature before the first round for the one to come back to.

        Raises:
            UnavailableError: The machine tells no temperature.
        """
        if self.cool_down and self.start_c is None:
            if before.get("temperature_c") is None:
                text = "This machine tells no temperature: nothing says when it has cooled down."
                raise UnavailableError(text, hint="Leave --cool-down out.")
            self.start_c = float(before["temperature_c"])


@dataclass
class _Lane:
    """One artifact being measured."""

    artifact: Artifact
    batch: int | None = None
    placement: dict[str, Any] = field(default_factory=dict)
    rounds: list[Measurement] = field(default_factory=list)
    spent_s: float = 0.0
    failure: EffbenchError | None = None
    lost: list[EffbenchError] = field(default_factory=list)
    lost_in_a_row: int = 0
    job: dict[str, Any] = field(default_factory=dict)


@from_fields(ProfileRequest)
def profile(request: ProfileRequest) -> Profile:
    """Measure the latency of models or artifacts on a device.

    Arguments are the fields of `ProfileRequest`; returns and errors are those of `run_profile`.
    """
    return run_profile(request)


def run_profile(request: ProfileRequest) -> Profile:
    """Export what is missing, then measure all artifacts in interleaved rounds.

    Returns:
        The measurements, already in the store round by round; an interrupt keeps what was measured.

    Raises:
        UsageError: A name is neither a model's nor an artifact's.
        UnavailableError: The device cannot be used.
    """
    device, home = device_of(request.device), home_of(request.out)
    threads = request.threads or int(device.settings.get("threads", DEFAULT_THREADS))
    rounds = request.rounds or (ROUNDS if request.minutes is None else 1)
    messages: list[str] = []

    def say(text: str) -> None:
        messages.append(text)
        request.notify(text)

    lanes: list[_Lane] = []
    cells: list[Cell] = []
    for batch in request.batches:
        artifacts, failures_of_batch = Selection(request, home, device, say, batch).choose()
        lanes += [_Lane(artifact, batch) for artifact in artifacts if _takes(artifact, batch, len(request.batches))]
        cells += failures_of_batch
    if not lanes and not cells and len(request.batches) > 1:
        batches = ", ".join(map(str, request.batches))
        raise UsageError(f"No artifact takes a batch of {batches}.", hint="Name a model, or export with --batch.")
    record = Path(request.record) if request.record else None
    with Remote(device, record) as remote, clocks.locked(remote, request.lock_clocks, say):
        conditions = _Conditions(
            protocol=Protocol(request.rate_hz, request.minutes),
            cool_down=request.cool_down,
            rounds=rounds,
            threads=threads,
            budget_s=request.budget_s,
            keep=request.keep or Store(home).append,
            home=home,
            force=request.force,
        )
        interrupted = _measure(lanes, conditions, remote, request.notify)
    for lane in lanes:
        if lane.lost and not lane.rounds and lane.failure is None:
            lane.failure = lane.lost[-1]  # every round was lost, though too few for the device to be given up
        if lane.failure is not None:
            failures.keep(home, f"{lane.artifact.name}-measure", AGENT, lane.job, lane.failure)
    cells += [_cell_of_failure(lane) for lane in lanes if lane.failure is not None]
    measurements = tuple(_joined(lane) for lane in lanes if lane.rounds)
    return Profile(measurements, tuple(cells), tuple(messages), interrupted)


def _takes(artifact: Artifact, batch: int | None, several: int) -> bool:
    """Return whether an artifact is one to measure at a batch: of several, each artifact takes those that it can."""
    return several == 1 or artifact.fixed_batch in (None, batch)


def _measure(lanes: list[_Lane], conditions: _Conditions, remote: Remote, notify: Notify) -> bool:
    """Run all rounds; returns whether the user interrupted."""
    order = random.Random()
    try:
        for index in range(conditions.rounds):
            alive = [lane for lane in lanes if lane.failure is None]
            order.shuffle(alive)
            for lane in alive:
                _one_round(lane, index, conditions, remote)
                notify(_progress(lane, index + 1, conditions.rounds))
    except KeyboardInterrupt:
        return True
    return False


def _one_round(lane: _Lane, index: int, conditions: _Conditions, remote: Remote) -> None:
    start = time.monotonic()
    job = {
        "op": "measure",
        "min_samples": -(-SAMPLES // conditions.rounds),
        "min_seconds": MIN_SECONDS,
        "round_seconds": max(0.0, (conditions.budget_s - lane.spent_s) / (conditions.rounds - index)),
        "packages": deploy.get(lane.artifact.subject.target).packages,
        "check_promise": index == 0,
        # The other rounds start from cached files; with a single one there would be nothing to compare with.
        "cold_start": not lane.rounds and conditions.rounds > 1,
        "batch": lane.batch,
        **_description(lane.artifact),
        **conditions.job,
    }
    lane.job = job
    try:
        job["artifact"] = remote.place(lane.artifact)
        began = time.monotonic()
        event = process.single(remote.run(AGENT, job, time_limit_s=conditions.limit_s))
        with process.reading_answer(f"'{remote.device.name}'"):
            answer = RoundAnswer.of(event, "round")
        remote.check_clock(answer.round.samples_ns, answer.agent_s, time.monotonic() - began)
        conditions.began(answer.before)
        doubts = remote.contradictions({**answer.after, **answer.before}, conditions.force)
        with process.reading_answer(f"'{remote.device.name}'"):
            measurement = _measurement(remote.finished(lane.artifact), answer, conditions, remote)
        (measured,) = measurement.samples.rounds
        state = (remote.device.name, conditions.run, measurement.before, measured.observed)
        measurement = replace(measurement, doubts=doubts, before=references.with_best(conditions.home, *state))
        conditions.keep(measurement)
        lane.rounds.append(measurement)
        lane.lost_in_a_row = 0
    except EffbenchError as error:
        lane.lost.append(error)
        lane.lost_in_a_row += 1
        if not lost(error) or lane.lost_in_a_row >= GIVE_UP:
            lane.failure = error
    finally:
        lane.spent_s += time.monotonic() - start


def _description(artifact: Artifact) -> dict[str, Any]:
    """Return what a runner that is no agent has to know of an artifact: it cannot read a manifest."""
    shape = [side or 1 for side in artifact.inputs[0].shape]
    files = sorted(name for name in artifact.files if name != bundle.REFERENCE)
    description = {"target": artifact.subject.target, "entry": artifact.entry, "files": files}
    return {**description, "input_elements": math.prod(shape)}


def _measurement(artifact: Artifact, answer: RoundAnswer, conditions: _Conditions, remote: Remote) -> Measurement:
    computed = answer.compute_precision or artifact.subject.compute_precision
    return Measurement(
        digest=artifact.digest,
        subject=replace(artifact.subject, compute_precision=computed, batch=answer.batch),
        device=remote.device.name,
        settings={"threads": str(conditions.threads), "batch": str(answer.batch), **clocks.setting(remote)},
        samples=Samples((answer.round,), answer.protocol, aggregate=answer.aggregate),
        before=answer.before,
        after=answer.after,
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        run=conditions.run,
        placement=artifact.placement,
        origin=remote.origin,
        notes=answer.notes,
    )


def _joined(lane: _Lane) -> Measurement:
    rounds = lane.rounds
    together = tuple(item for measured in rounds for item in measured.samples.rounds)
    return replace(
        rounds[0],
        samples=replace(rounds[0].samples, rounds=together),
        after=rounds[-1].after,
        notes=(*rounds[0].notes, *_lost(lane)),
    )


def _lost(lane: _Lane) -> tuple[str, ...]:
    """Say how many rounds were lost on the way, and to what."""
    reasons = Counter(error.message for error in lane.lost)
    return tuple(f"{counted(count, 'round')} lost: {reason}" for reason, count in reasons.items())


def _progress(lane: _Lane, index: int, rounds: int) -> str:
    if lane.lost_in_a_row:
        return f"{lane.artifact.name}: {lane.lost[-1].message}"
    samples = sorted(lane.rounds[-1].samples.rounds[0].samples_ns)
    median = samples[len(samples) // 2] / 1e6
    return f"round {index}/{rounds}  {lane.artifact.name}  {median:.3f} ms (median of {len(samples)})"


def _cell_of_failure(lane: _Lane) -> Cell:
    subject, error = lane.artifact.subject, lane.failure
    assert error is not None
    key = (subject.model, subject.shapes, subject.storage_precision, subject.target)
    return Cell.of(*key, error, artifact=str(lane.artifact.folder))
