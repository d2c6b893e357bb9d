"""Profile: rounds in fresh processes, artifacts interleaved between rounds in random order, raw samples kept."""

from __future__ import annotations

import math
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from effbench import deploy
from effbench.api.export.stage import AGENT, Notify, silent
from effbench.api.profile import clocks
from effbench.api.profile.clocks import Ask
from effbench.api.profile.select import Choice
from effbench.api.remote import Remote, device_of, lost
from effbench.codec import from_json
from effbench.deploy.artifact import bundle
from effbench.errors import EffbenchError, UnavailableError, UsageError
from effbench.profiles.protocol import COOL_LIMIT_S, Protocol
from effbench.schema import Artifact, Cell, InputShapes, Measurement, Round, Samples
from effbench.store import Store
from effbench.store import home as home_of

ROUNDS = 10
"""Enough for an interval whose unit is the round (six are the least) with some to spare."""
BUDGET_S = 20.0
SAMPLES = 120
"""Wanted over all rounds, so that a p90 can be stated; where the budget does not allow them, the budget wins."""
MIN_SECONDS = 0.3
GIVE_UP = 3
"""So many rounds lost to the connection one after the other, and the device is given up."""

Keep = Callable[[Measurement], None]


@dataclass(frozen=True)
class Profile:
    """What one `profile` call gave: measurements, and a cell for everything asked for that has none."""

    measurements: tuple[Measurement, ...]
    cells: tuple[Cell, ...]
    said: tuple[str, ...] = ()
    interrupted: bool = False


@dataclass
class _How:
    """The protocol of all rounds; ``start_c`` is the temperature before the first, once it is known."""

    protocol: Protocol
    cool_down: bool
    rounds: int
    start_c: float | None = None

    @property
    def extra_s(self) -> float:
        """How much longer than its budget a round may take."""
        return 60 * (self.protocol.minutes or 0) + (COOL_LIMIT_S if self.cool_down else 0)

    @property
    def job(self) -> dict[str, Any]:
        """What the agent has to know."""
        return {**asdict(self.protocol), "cool_to_c": self.start_c if self.cool_down else None}

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
    placement: dict[str, Any] = field(default_factory=dict)
    rounds: list[Measurement] = field(default_factory=list)
    spent_s: float = 0.0
    failure: EffbenchError | None = None
    lost: list[EffbenchError] = field(default_factory=list)
    lost_in_a_row: int = 0


def profile(
    names: Sequence[str] = (),
    resolutions: Sequence[str | int] = (),
    *,
    targets: Sequence[str] = (),
    threads: int | None = None,
    batch: int = 1,
    device: str = "local",
    budget_s: float = BUDGET_S,
    rounds: int | None = None,
    rate_hz: float | None = None,
    minutes: float | None = None,
    cool_down: bool = False,
    precision: str | None = None,
    images: str | Path | None = None,
    weights: str | None = None,
    seed: int = 0,
    record: str | Path | None = None,
    keep: Keep | None = None,
    lock_clocks: Ask | None = None,
    out: str | Path | None = None,
    notify: Notify = silent,
) -> Profile:
    """Measure the latency of models or artifacts on a device.

    Args:
        names: Models (exported first where needed), or artifacts. None means every artifact exported so far; with no
            artifact at all, `DEFAULT_MODEL` for the targets at hand.
        resolutions: Pixels; none means 224 for models, and for artifacts whatever they were exported at.
        targets: None means those at hand.
        threads: Intra-operator threads of the runtime; None means the device's setting, or 1.
        batch: Images per inference.
        device: A name that `effbench devices` lists, or a device file; ``local`` is this machine.
        budget_s: Wall-clock seconds per artifact, start-up of the processes included.
        rounds: Fresh processes per artifact; fewer than 6 give no interval. None means `ROUNDS`, or one long round
            where ``minutes`` are given.
        rate_hz: Inferences a second, as a camera would ask for them; None means back to back.
        minutes: How long each round lasts, whatever the budget; None means as long as the budget allows.
        cool_down: Wait before each round until the temperature is back where it was before the first.
        precision: None takes each target's default.
        images: A folder for models that are exported in int8 or a16w8, as for `export`.
        weights: A .safetensors file for models that are exported.
        seed: Of untrained weights.
        record: Write the exchange with the device to this file, for the transport ``replay``.
        keep: Where each round goes as it ends; None means the store of the folder.
        lock_clocks: Lock the device's clocks if this agrees to the changes that it is shown; None locks none.
        out: The folder to write below.
        notify: Called with one line per step.

    Returns:
        The measurements, already in the store round by round; an interrupt keeps what was measured.
    """
    chosen = rounds if rounds is not None else (ROUNDS if minutes is None else 1)
    how = _How(Protocol(rate_hz, minutes), cool_down, chosen)
    used = device_of(device)
    threads = int(used.settings.get("threads", 1)) if threads is None else threads
    _check(threads, batch, budget_s, how.rounds)
    home = home_of(out)
    sizes = [InputShapes.parse(text) for text in resolutions]
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        notify(text)

    choice = Choice(home, sizes, targets, batch, precision, images, weights, seed, used, notify, say)
    artifacts, cells = choice.choose(names)
    lanes = [_Lane(artifact) for artifact in artifacts]
    with Remote(used, Path(record) if record else None) as remote, clocks.locked(remote, lock_clocks, say):
        interrupted = _measure(lanes, threads, batch, remote, budget_s, how, keep or Store(home).append, notify)
    cells += [_cell_of_failure(lane) for lane in lanes if lane.failure is not None]
    measured = tuple(_joined(lane) for lane in lanes if lane.rounds)
    return Profile(measured, tuple(cells), tuple(said), interrupted)


def _check(threads: int, batch: int, budget_s: float, rounds: int) -> None:
    for label, value in (("--threads", threads), ("--batch", batch), ("--rounds", rounds)):
        if value < 1:
            raise UsageError(f"{label} {value} is too few.", hint="Give 1 or more.")
    if budget_s <= 0:
        raise UsageError(f"--budget {budget_s:g} s leaves no time to measure.", hint="Give seconds above zero.")


def _measure(
    lanes: list[_Lane],
    threads: int,
    batch: int,
    remote: Remote,
    budget_s: float,
    how: _How,
    keep: Keep,
    notify: Notify,
) -> bool:
    """Run all rounds; returns whether the user interrupted."""
    run = uuid.uuid4().hex[:12]
    order = random.Random()
    try:
        for index in range(how.rounds):
            alive = [lane for lane in lanes if lane.failure is None]
            order.shuffle(alive)
            for lane in alive:
                _one_round(lane, index, how, threads, batch, remote, budget_s, keep, run)
                notify(_progress(lane, index + 1, how.rounds))
    except KeyboardInterrupt:
        return True
    return False


def _one_round(
    lane: _Lane,
    index: int,
    how: _How,
    threads: int,
    batch: int,
    remote: Remote,
    budget_s: float,
    keep: Keep,
    run: str,
) -> None:
    start = time.monotonic()
    job = {
        "op": "measure",
        "threads": threads,
        "batch": batch,
        "min_samples": -(-SAMPLES // how.rounds),
        "min_seconds": MIN_SECONDS,
        "round_seconds": max(0.0, (budget_s - lane.spent_s) / (how.rounds - index)),
        "packages": deploy.get(lane.artifact.subject.target).packages,
        "check_promise": index == 0,
        **_told(lane.artifact),
        **how.job,
    }
    try:
        job["artifact"] = remote.place(lane.artifact)
        began = time.monotonic()
        (answer,) = remote.run(AGENT, job, time_limit_s=max(120.0, 4 * budget_s) + how.extra_s)
        remote.check_clock(answer["round"]["samples_ns"], answer, time.monotonic() - began)
        how.began(answer["before"])
        measured = _measurement(remote.finished(lane.artifact), answer, threads, remote, run)
        keep(measured)
        lane.rounds.append(measured)
        lane.lost_in_a_row = 0
    except EffbenchError as error:
        lane.lost.append(error)
        lane.lost_in_a_row += 1
        if not lost(error) or lane.lost_in_a_row >= GIVE_UP:
            lane.failure = error
    finally:
        lane.spent_s += time.monotonic() - start


def _told(artifact: Artifact) -> dict[str, Any]:
    """Return what a runner that is no agent has to know of an artifact: it cannot read a manifest."""
    shape = [side or 1 for side in artifact.inputs[0].shape]
    files = sorted(name for name in artifact.files if name != bundle.REFERENCE)
    known = {"target": artifact.subject.target, "entry": artifact.entry, "files": files}
    return {**known, "input_elements": math.prod(shape)}


def _measurement(artifact: Artifact, answer: dict[str, Any], threads: int, remote: Remote, run: str) -> Measurement:
    round_ = from_json(Round, answer["round"], "the agent's answer")
    computed = answer["compute_precision"] or artifact.subject.compute_precision
    return Measurement(
        digest=artifact.digest,
        subject=replace(artifact.subject, compute_precision=computed, batch=answer["batch"]),
        device=remote.device.name,
        settings={"threads": str(threads), "batch": str(answer["batch"]), **clocks.setting(remote)},
        samples=Samples((round_,), answer["protocol"], aggregate=answer.get("aggregate", "")),
        before=answer["before"],
        after=answer["after"],
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        run=run,
        placement=artifact.placement,
        origin=remote.origin,
        notes=tuple(answer.get("notes", ())),
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
    return tuple(f"{count} round(s) lost: {reason}" for reason, count in reasons.items())


def _progress(lane: _Lane, done: int, rounds: int) -> str:
    if lane.lost_in_a_row:
        return f"{lane.artifact.name}: {lane.lost[-1].message}"
    samples = sorted(lane.rounds[-1].samples.rounds[0].samples_ns)
    median = samples[len(samples) // 2] / 1e6
    return f"round {done}/{rounds}  {lane.artifact.name}  {median:.3f} ms (median of {len(samples)})"


def _cell_of_failure(lane: _Lane) -> Cell:
    subject, error = lane.artifact.subject, lane.failure
    assert error is not None
    key = (subject.model, subject.shapes, subject.storage_precision, subject.target)
    return Cell.of(*key, error, artifact=str(lane.artifact.folder))
