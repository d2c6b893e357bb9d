"""Campaign for claims and scaling laws: artifacts measured in passes, kept in a store and found there again.

A pass measures every artifact once, in a fresh process, in random order; a pair adds one round of two artifacts that
alternate in one process. What a store holds already for the same artifact on the same machine counts, so that a run
that was stopped goes on where it was.
"""

from __future__ import annotations

import math
import os
import random
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from effbench import deploy, models
from effbench.api.compare.rounds import RoundSettings, run_round
from effbench.api.export.run import export
from effbench.api.export.stage import Notify, silent
from effbench.api.profile.run import profile
from effbench.codec import canonical
from effbench.deploy.artifact import bundle
from effbench.errors import EffbenchError, unknown_name
from effbench.models.parts import model_argument, parts
from effbench.profiles import environment
from effbench.profiles.paired import log_ratios
from effbench.schema import Artifact, Measurement, Round
from effbench.store import Store, append_line, read_lines

PASSES = 8
"""Two more than an interval needs, so that a lost round costs no verdict."""

ROUND_S = 2.0
"""Of one artifact in one pass, start-up included; a pass is spread over many artifacts, not over many samples."""

PAIR_S, MIN_PAIRS = 1.5, 5


@dataclass
class Point:
    """One model or part at one size on one target, and the rounds it has so far."""

    what: str
    px: int
    target: str
    artifact: Artifact | None = None
    failure: str = ""
    rounds: list[Round] = field(default_factory=list)
    states: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What progress and reasons call it."""
        return f"{self.what} at {self.px} px on {self.target}"


@dataclass
class PointPair:
    """Two points against each other; logarithms of B's latency over A's, one per round."""

    a: Point
    b: Point
    logs: list[float] = field(default_factory=list)
    lost: str = ""

    @property
    def name(self) -> str:
        """What progress and reasons call it."""
        return f"{self.b.what} over {self.a.what} at {self.a.px} px on {self.a.target}"

    @property
    def failure(self) -> str:
        """Why it cannot be measured, or nothing."""
        return self.a.failure or self.b.failure or self.lost


class Campaign:
    """What is to be measured, and how far that is.

    Args:
        home: Artifacts and measurements lie below it.
        threads: Of the runtime.
        notify: Called with one line per step.
    """

    def __init__(self, home: Path, threads: int = 1, notify: Notify = silent) -> None:
        self.home, self.threads, self.notify = home, threads, notify
        self.points: dict[tuple[str, int, str], Point] = {}
        self.passed: set[tuple[str, int, str]] = set()
        self.pairs: dict[tuple[str, str, int, str], PointPair] = {}
        self._now: dict[str, dict[str, Any]] = {}

    def point(self, what: str, px: int, target: str) -> Point:
        """Return a point, new or known; it is exported by `prepare`."""
        return self.points.setdefault((what, px, target), Point(what, px, target))

    def measured(self, what: str, px: int, target: str) -> Point:
        """Return a point that takes part in every pass."""
        self.passed.add((what, px, target))
        return self.point(what, px, target)

    def pair(self, a: str, b: str, px: int, target: str) -> PointPair:
        """Return the pair B over A."""
        sides = self.point(a, px, target), self.point(b, px, target)
        return self.pairs.setdefault((a, b, px, target), PointPair(*sides))

    def prepare(self) -> None:
        """Export what is not there yet, and read what the store holds of it."""
        todo = [point for point in self.points.values() if point.artifact is None and not point.failure]
        with ThreadPoolExecutor(max(1, min(os.cpu_count() or 1, 2))) as pool:
            list(pool.map(self._export, _by_export(todo)))
        self._recall()

    def _export(self, group: Sequence[Point]) -> None:
        what, px = group[0].what, group[0].px
        try:
            argument, side = model_argument(what, px) if what in parts() else (what, px)
            cells = export(argument, [point.target for point in group], [side], out=self.home, notify=self.notify)
        except EffbenchError as error:
            for point in group:
                point.failure = error.message
            return
        for point, cell in zip(group, cells, strict=True):
            if cell.status.made:
                point.artifact = bundle.load(Path(cell.artifact), check_files=False)
            else:
                point.failure = cell.reason

    def _recall(self) -> None:
        by_digest: dict[str, Point] = {}
        for point in self.points.values():
            point.rounds, point.states = [], []
            if point.artifact is not None:
                by_digest[point.artifact.digest] = point
        for measured in Store(self.home):
            if measured.digest in by_digest and self._fits(measured):
                self._take(by_digest[measured.digest], measured)
        for pair in self.pairs.values():
            pair.logs = []
        known = {_digests(pair): pair for pair in self.pairs.values() if not pair.failure}
        for _, line in read_lines(self.home / "pairs.jsonl"):
            pair_ = known.get((line["a"], line["b"]))
            if pair_ is not None and line["conditions"] == self._conditions(pair_):
                pair_.logs.append(float(line["log_ratio"]))

    def _take(self, point: Point, measured: Measurement) -> None:
        point.rounds += measured.samples.rounds
        point.states += [(measured.before, measured.after)] * len(measured.samples.rounds)

    def _fits(self, measured: Measurement) -> bool:
        now = self._machine(measured.subject.target)
        same = all(measured.before.get(key) == now.get(key) for key in Measurement.MUST_MATCH)
        return (
            same and measured.settings["threads"] == str(self.threads) and measured.samples.protocol == "back-to-back"
        )

    def _machine(self, target: str) -> dict[str, Any]:
        """Return what has to be equal before an earlier measurement counts."""
        if target not in self._now:
            seen = environment.observe(deploy.get(target).packages)
            self._now[target] = {key: seen.get(key) for key in Measurement.MUST_MATCH}
        return self._now[target]

    def _conditions(self, pair: PointPair) -> dict[str, Any]:
        return {**self._machine(pair.a.target), "threads": self.threads}

    def run(self, passes: int = PASSES, minutes: float | None = None) -> bool:
        """Measure until all have their passes or the time is over; returns whether the user interrupted."""
        deadline = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
        try:
            for index in range(passes):
                for step in _shuffled(self._open(index)):
                    if time.monotonic() >= deadline:
                        self.notify(f"{minutes:g} min are over in pass {index + 1} of {passes}; run it again to go on")
                        return False
                    self._step(step, index, passes)
        except KeyboardInterrupt:
            return True
        return False

    def _open(self, index: int) -> Iterator[Point | PointPair]:
        for key in self.passed:
            point = self.points[key]
            if not point.failure and len(point.rounds) <= index:
                yield point
        for pair in self.pairs.values():
            if not pair.failure and len(pair.logs) <= index:
                yield pair

    def _step(self, step: Point | PointPair, index: int, passes: int) -> None:
        if isinstance(step, PointPair):
            self._pair_round(step)
            found = f"ratio {math.exp(step.logs[-1]):.3f}" if step.logs else step.lost
        else:
            self._round(step)
            found = f"{median_ms(step.rounds[-1]):.3f} ms" if step.rounds else step.failure
        self.notify(f"pass {index + 1}/{passes}  {step.name}  {found}")

    def _round(self, point: Point) -> None:
        assert point.artifact is not None
        made = profile([str(point.artifact.folder)], threads=self.threads, rounds=1, budget_s=ROUND_S, out=self.home)
        if made.interrupted:
            raise KeyboardInterrupt
        for measured in made.measurements:
            self._take(point, measured)
        if not made.measurements:
            point.failure = next((cell.reason for cell in made.cells), "no measurement")

    def _pair_round(self, pair: PointPair) -> None:
        a, b = _sides(pair)
        setting = RoundSettings(threads=self.threads, round_seconds=PAIR_S, min_pairs=MIN_PAIRS)
        try:
            log_ratio = log_ratios(run_round(a, b, setting, secrets.randbits(31))).typical
        except EffbenchError as error:
            pair.lost = error.message
            return
        line = {
            "a": a.digest,
            "b": b.digest,
            "conditions": self._conditions(pair),
            "log_ratio": log_ratio,
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        append_line(self.home / "pairs.jsonl", canonical(line))
        pair.logs.append(log_ratio)


def _sides(pair: PointPair) -> tuple[Artifact, Artifact]:
    assert pair.a.artifact is not None
    assert pair.b.artifact is not None
    return pair.a.artifact, pair.b.artifact


def _digests(pair: PointPair) -> tuple[str, str]:
    a, b = _sides(pair)
    return a.digest, b.digest


def median_ms(item: Round) -> float:
    """Return the median latency of a round."""
    samples = sorted(item.samples_ns)
    middle = len(samples) // 2
    return (samples[middle] + samples[~middle]) / 2e6


def _by_export(points: Iterable[Point]) -> list[list[Point]]:
    """Group points that one export makes: the targets of a model at a size."""
    groups: dict[tuple[str, int], list[Point]] = {}
    for point in points:
        groups.setdefault((point.what, point.px), []).append(point)
    return list(groups.values())


def _shuffled(steps: Iterable[Point | PointPair]) -> list[Point | PointPair]:
    found = list(steps)
    random.shuffle(found)
    return found


def check_name(name: str) -> None:
    """Refuse what is neither a part nor a model nor something that `effbench.api.export.source.resolve` takes.

    Raises:
        UsageError: With near misses.
    """
    known = {**parts(), **models.models()}
    if name not in known and not name.endswith(".onnx") and ":" not in name:
        raise unknown_name(name, known, "mixer, block or model")
