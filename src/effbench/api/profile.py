"""Profile: rounds in fresh processes, artifacts interleaved between rounds in random order, raw samples kept."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from effbench import deploy, models, process
from effbench.api.export import AGENT, Notify, at_hand, export, find_artifact, silent
from effbench.codec import from_json
from effbench.deploy import bundle
from effbench.errors import EffbenchError, UnavailableError, UsageError
from effbench.profiles.protocol import COOL_LIMIT_S, Protocol
from effbench.schema import Artifact, Cell, Measurement, Round, Samples, parse_resolution, resolution_text
from effbench.store import Store
from effbench.store import home as home_of

DEFAULT_MODEL = "regla_m"
ROUNDS = 10
"""Enough for an interval whose unit is the round (six are the least) with some to spare."""
BUDGET_S = 20.0
SAMPLES = 120
"""Wanted over all rounds, so that a p90 can be stated; where the budget does not allow them, the budget wins."""
MIN_SECONDS = 0.3


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


def profile(
    names: Sequence[str] = (),
    resolutions: Sequence[str | int] = (),
    *,
    targets: Sequence[str] = (),
    threads: int = 1,
    batch: int = 1,
    device: str = "local",
    budget_s: float = BUDGET_S,
    rounds: int | None = None,
    rate_hz: float | None = None,
    minutes: float | None = None,
    cool_down: bool = False,
    precision: str | None = None,
    weights: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    notify: Notify = silent,
) -> Profile:
    """Measure the latency of models or artifacts on a device.

    Args:
        names: Models (exported first where needed), or artifacts. None means every artifact exported so far; with no
            artifact at all, `DEFAULT_MODEL` for the targets at hand.
        resolutions: Pixels; none means 224 for models, and for artifacts whatever they were exported at.
        targets: None means those at hand.
        threads: Intra-operator threads of the runtime.
        batch: Pictures per inference.
        device: ``local`` is this machine.
        budget_s: Wall-clock seconds per artifact, start-up of the processes included.
        rounds: Fresh processes per artifact; fewer than 6 give no interval. None means `ROUNDS`, or one long round
            where ``minutes`` are given.
        rate_hz: Inferences a second, as a camera would ask for them; None means back to back.
        minutes: How long each round lasts, whatever the budget; None means as long as the budget allows.
        cool_down: Wait before each round until the temperature is back where it was before the first.
        precision: None takes each target's default.
        weights: A .safetensors file for models that are exported.
        seed: Of untrained weights.
        out: The folder to write below.
        notify: Called with one line per step.

    Returns:
        The measurements, already in the store round by round; an interrupt keeps what was measured.
    """
    chosen = rounds if rounds is not None else (ROUNDS if minutes is None else 1)
    how = _How(Protocol(rate_hz, minutes), cool_down, chosen)
    _check(threads, batch, budget_s, how.rounds, device)
    home = home_of(out)
    sizes = [parse_resolution(text) for text in resolutions]
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        notify(text)

    choice = _Choice(home, sizes, targets, batch, precision, weights, seed, notify, say)
    artifacts, cells = choice.choose(names)
    lanes = [_Lane(artifact) for artifact in artifacts]
    interrupted = _measure(lanes, threads, batch, device, budget_s, how, Store(home), notify)
    cells += [_cell_of_failure(lane) for lane in lanes if lane.failure is not None]
    measured = tuple(_joined(lane.rounds) for lane in lanes if lane.rounds)
    return Profile(measured, tuple(cells), tuple(said), interrupted)


def _check(threads: int, batch: int, budget_s: float, rounds: int, device: str) -> None:
    from effbench.profiles import devices

    devices.get(device)
    for label, value in (("--threads", threads), ("--batch", batch), ("--rounds", rounds)):
        if value < 1:
            raise UsageError(f"{label} {value} is too few.", hint="Give 1 or more.")
    if budget_s <= 0:
        raise UsageError(f"--budget {budget_s:g} s leaves no time to measure.", hint="Give seconds above zero.")


@dataclass(frozen=True)
class _Choice:
    """Decides what is measured when the user says little."""

    home: Path
    sizes: list[tuple[int, int]]
    targets: Sequence[str]
    batch: int
    precision: str | None
    weights: str | None
    seed: int
    notify: Notify
    say: Notify

    def choose(self, names: Sequence[str]) -> tuple[list[Artifact], list[Cell]]:
        if names:
            return self._named(names)
        known = self._exported()
        if not known:
            where = " and ".join(f"{resolution_text(size)} px" for size in self.sizes or [(224, 224)])
            wanted = list(self.targets) or at_hand()
            self.say(f"Nothing is exported yet: exporting {DEFAULT_MODEL} at {where} for {', '.join(wanted)}.")
            return self._export(DEFAULT_MODEL, self.sizes or [(224, 224)], wanted)
        chosen: list[Artifact] = []
        cells: list[Cell] = []
        for size in self.sizes:
            for artifact in known:
                subject = artifact.subject
                peers = [item for item in known if _kin(item) == _kin(artifact)]
                at_size = [item for item in peers if item.subject.resolution == size]
                if at_size:
                    chosen += [item for item in at_size if item not in chosen]
                elif artifact is peers[0]:
                    have = ", ".join(resolution_text(item.subject.resolution) for item in peers)
                    text = f"{subject.model} for {subject.target} exists at {have} px only"
                    self.say(f"{text}: exporting it at {resolution_text(size)} px.")
                    more, failed = self._export_again(artifact, size)
                    chosen += more
                    cells += failed
        return self._runnable(chosen or ([] if self.sizes else known), cells)

    def _exported(self) -> list[Artifact]:
        """Return the newest artifact of each name; older ones were made from other sources or options."""
        newest: dict[str, Artifact] = {}
        for artifact in bundle.artifacts(self.home):
            subject = artifact.subject
            if subject.target == "onnx" or (self.targets and subject.target not in self.targets):
                continue
            stem = artifact.name.rsplit("-", 1)[0]
            if stem not in newest or _made(artifact) > _made(newest[stem]):
                newest[stem] = artifact
        return list(newest.values())

    def _named(self, names: Sequence[str]) -> tuple[list[Artifact], list[Cell]]:
        artifacts: list[Artifact] = []
        cells: list[Cell] = []
        for name in names:
            if self._is_model(name):
                more, failed = self._export(name, self.sizes or [(224, 224)], list(self.targets) or at_hand())
                artifacts += more
                cells += failed
            else:
                artifacts.append(find_artifact(name, self.home))
        return self._runnable(artifacts, cells)

    def _is_model(self, name: str) -> bool:
        if name.endswith(".onnx") or name in models.models() or (":" in name and not Path(name).exists()):
            return True
        exported = any(item.name.startswith(name) for item in bundle.artifacts(self.home))
        if not exported and not Path(name).is_dir():
            models.get(name)  # says which names there are
        return False

    def _export_again(self, artifact: Artifact, size: tuple[int, int]) -> tuple[list[Artifact], list[Cell]]:
        subject = artifact.subject
        again = replace(self, seed=subject.weights.seed or 0, precision=subject.storage_precision, batch=subject.batch)
        if subject.family == "user" or subject.weights.kind != "untrained":
            reason = "made from a file; only its owner can say which"
            cell = Cell(
                subject.model,
                size,
                subject.storage_precision,
                subject.target,
                "unavailable",
                reason,
                f"effbench export {subject.model} --res {resolution_text(size)} --target {subject.target}",
                4,
            )
            return [], [cell]
        return again._export(subject.model, [size], [subject.target])

    def _export(
        self, model: str, sizes: list[tuple[int, int]], targets: list[str]
    ) -> tuple[list[Artifact], list[Cell]]:
        made = export(
            model,
            targets,
            [resolution_text(size) for size in sizes],
            precision=self.precision,
            batch=self.batch,
            weights=self.weights,
            seed=self.seed,
            out=self.home,
            notify=self.notify,
        )
        good = [cell for cell in made if cell.status == "ok"]
        return [bundle.load(Path(cell.artifact)) for cell in good], [cell for cell in made if cell.status != "ok"]

    def _runnable(self, artifacts: list[Artifact], cells: list[Cell]) -> tuple[list[Artifact], list[Cell]]:
        here: list[Artifact] = []
        for artifact in artifacts:
            subject = artifact.subject
            target = deploy.registered().get(subject.target)
            reason = target.measurable() if target else "this version has no such target"
            if reason is None:
                here.append(artifact)
            else:
                cells.append(
                    Cell(
                        subject.model,
                        subject.resolution,
                        subject.storage_precision,
                        subject.target,
                        "unavailable",
                        f"cannot run here: {reason}",
                        "effbench doctor",
                        4,
                        artifact=str(artifact.folder),
                    )
                )
        return here, cells


def _kin(artifact: Artifact) -> tuple[Any, ...]:
    subject = artifact.subject
    return (subject.model, subject.target, subject.storage_precision, subject.batch, subject.weights)


def _made(artifact: Artifact) -> float:
    return (artifact.folder / bundle.MANIFEST).stat().st_mtime


def _measure(
    lanes: list[_Lane],
    threads: int,
    batch: int,
    device: str,
    budget_s: float,
    how: _How,
    store: Store,
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
                _one_round(lane, index, how, threads, batch, device, budget_s, store, run)
                notify(_progress(lane, index + 1, how.rounds))
    except KeyboardInterrupt:
        return True
    return False


def _one_round(
    lane: _Lane, index: int, how: _How, threads: int, batch: int, device: str, budget_s: float, store: Store, run: str
) -> None:
    start = time.monotonic()
    job = {
        "op": "measure",
        "artifact": str(lane.artifact.folder.resolve()),
        "threads": threads,
        "batch": batch,
        "min_samples": -(-SAMPLES // how.rounds),
        "min_seconds": MIN_SECONDS,
        "round_seconds": max(0.0, (budget_s - lane.spent_s) / (how.rounds - index)),
        "packages": deploy.get(lane.artifact.subject.target).packages,
        "check_promise": index == 0,
        **how.job,
    }
    try:
        (answer,) = process.run(AGENT, job, time_limit_s=max(120.0, 4 * budget_s) + how.extra_s)
        how.began(answer["before"])
        measured = _measurement(lane.artifact, answer, threads, device, run)
        store.append(measured)
        lane.rounds.append(measured)
    except EffbenchError as error:
        lane.failure = error
    finally:
        lane.spent_s += time.monotonic() - start


def _measurement(artifact: Artifact, answer: dict[str, Any], threads: int, device: str, run: str) -> Measurement:
    round_ = from_json(Round, answer["round"], "the agent's answer")
    computed = answer["compute_precision"] or artifact.subject.compute_precision
    return Measurement(
        digest=artifact.digest,
        subject=replace(artifact.subject, compute_precision=computed, batch=answer["batch"]),
        device=device,
        settings={"threads": str(threads), "batch": str(answer["batch"])},
        samples=Samples((round_,), answer["protocol"]),
        before=answer["before"],
        after=answer["after"],
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        run=run,
        placement=artifact.placement,
    )


def _joined(rounds: list[Measurement]) -> Measurement:
    together = tuple(item for measured in rounds for item in measured.samples.rounds)
    return replace(rounds[0], samples=replace(rounds[0].samples, rounds=together), after=rounds[-1].after)


def _progress(lane: _Lane, done: int, rounds: int) -> str:
    if lane.failure is not None:
        return f"{lane.artifact.name}: {lane.failure.message}"
    samples = sorted(lane.rounds[-1].samples.rounds[0].samples_ns)
    median = samples[len(samples) // 2] / 1e6
    return f"round {done}/{rounds}  {lane.artifact.name}  {median:.3f} ms (median of {len(samples)})"


def _cell_of_failure(lane: _Lane) -> Cell:
    subject, error = lane.artifact.subject, lane.failure
    assert error is not None
    return Cell(
        subject.model,
        subject.resolution,
        subject.storage_precision,
        subject.target,
        "unavailable" if isinstance(error, UnavailableError) else "failed",
        error.message,
        error.hint or "",
        type(error).exit_code,
        artifact=str(lane.artifact.folder),
    )
