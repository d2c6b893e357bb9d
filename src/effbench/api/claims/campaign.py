"""A measurement campaign for claims and scaling laws: artifacts measured in passes, kept in a store and reused.

A pass measures every artifact once, in a fresh process, in random order; a pair adds one round of two artifacts that
alternate in one process. Measurements of the same artifact on the same machine that a store already holds count, so
an interrupted campaign continues.
"""

from __future__ import annotations

import math
import os
import random
import secrets
import time
import warnings
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
from effbench.store import BadLineWarning, Store, append_line, read_lines

PASSES = 8
"""Two more than an interval needs, so that a lost round costs no verdict."""

ROUND_S = 2.0
"""Of one artifact in one pass, start-up included: the time goes into many artifacts, not into many samples of one."""

PAIR_S, MIN_PAIRS = 1.5, 5


@dataclass
class Point:
    """One model or part at one size on one target, with the rounds measured so far."""

    model: str
    px: int
    target: str
    artifact: Artifact | None = None
    failure: str = ""
    rounds: list[Round] = field(default_factory=list)
    states: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its name in progress lines and reasons."""
        return f"{self.model} at {self.px} px on {self.target}"


@dataclass
class PointPair:
    """Two points that alternate; ``logs`` holds the logarithm of B's latency over A's for each round."""

    a: Point
    b: Point
    logs: list[float] = field(default_factory=list)
    lost: str = ""

    @property
    def name(self) -> str:
        """Its name in progress lines and reasons."""
        return f"{self.b.model} over {self.a.model} at {self.a.px} px on {self.a.target}"

    @property
    def failure(self) -> str:
        """The reason why it cannot be measured, or an empty string."""
        return self.a.failure or self.b.failure or self.lost


class Campaign:
    """The points and pairs to measure, and their measurements so far.

    Args:
        home: The folder of artifacts and measurements.
        threads: Of the runtime.
        notify: Called with one line per step.
    """

    def __init__(self, home: Path, threads: int = 1, notify: Notify = silent) -> None:
        self.home, self.threads, self.notify = home, threads, notify
        self.points: dict[tuple[str, int, str], Point] = {}
        self.in_passes: set[tuple[str, int, str]] = set()
        self.pairs: dict[tuple[str, str, int, str], PointPair] = {}
        self._conditions_of: dict[str, dict[str, Any]] = {}

    def point(self, model: str, px: int, target: str) -> Point:
        """Return a point, added if it is new; `prepare` exports it."""
        return self.points.setdefault((model, px, target), Point(model, px, target))

    def add(self, model: str, px: int, target: str) -> Point:
        """Return a point that every pass measures."""
        self.in_passes.add((model, px, target))
        return self.point(model, px, target)

    def pair(self, a: str, b: str, px: int, target: str) -> PointPair:
        """Return the pair B over A, added if it is new."""
        points = self.point(a, px, target), self.point(b, px, target)
        return self.pairs.setdefault((a, b, px, target), PointPair(*points))

    def prepare(self) -> None:
        """Export the points that have no artifact, and read their measurements from the store."""
        missing = [point for point in self.points.values() if point.artifact is None and not point.failure]
        with ThreadPoolExecutor(max(1, min(os.cpu_count() or 1, 2))) as pool:
            list(pool.map(self._export, _by_export(missing)))
        self._read_store()

    def _export(self, points: Sequence[Point]) -> None:
        model, px = points[0].model, points[0].px
        try:
            argument, side = model_argument(model, px) if model in parts() else (model, px)
            cells = export(argument, [point.target for point in points], [side], out=self.home, notify=self.notify)
        except EffbenchError as error:
            for point in points:
                point.failure = error.message
            return
        for point, cell in zip(points, cells, strict=True):
            if cell.has_artifact:
                point.artifact = bundle.load(Path(cell.artifact), check_files=False)
            else:
                point.failure = cell.reason

    def _read_store(self) -> None:
        by_digest: dict[str, Point] = {}
        for point in self.points.values():
            point.rounds, point.states = [], []
            if point.artifact is not None:
                by_digest[point.artifact.digest] = point
        for measurement in Store(self.home):
            if measurement.digest in by_digest and self._counts(measurement):
                self._add_rounds(by_digest[measurement.digest], measurement)
        for pair in self.pairs.values():
            pair.logs = []
        by_digests = {_digests(pair): pair for pair in self.pairs.values() if not pair.failure}
        for location, line in read_lines(self.home / "pairs.jsonl"):
            try:
                digests, conditions, ratio = (str(line["a"]), str(line["b"])), line["conditions"], line["log_ratio"]
                stored = by_digests.get(digests)
                if stored is not None and conditions == self._conditions(stored):
                    stored.logs.append(float(ratio))
            except (KeyError, TypeError, ValueError):
                warnings.warn(BadLineWarning(f"{location}: not the record of a pair; it is skipped."), stacklevel=2)

    def _add_rounds(self, point: Point, measurement: Measurement) -> None:
        point.rounds += measurement.samples.rounds
        point.states += [(measurement.before, measurement.after)] * len(measurement.samples.rounds)

    def _counts(self, measurement: Measurement) -> bool:
        """Return whether an earlier measurement was made under the present conditions."""
        now = self._machine(measurement.subject.target)
        return (
            all(measurement.before.get(key) == now.get(key) for key in Measurement.MUST_MATCH)
            and measurement.settings.get("threads") == str(self.threads)
            and measurement.samples.protocol == "back-to-back"
        )

    def _machine(self, target: str) -> dict[str, Any]:
        """Return the environment that an earlier measurement must match."""
        if target not in self._conditions_of:
            observed = environment.observe(deploy.get(target).packages)
            self._conditions_of[target] = {key: observed.get(key) for key in Measurement.MUST_MATCH}
        return self._conditions_of[target]

    def _conditions(self, pair: PointPair) -> dict[str, Any]:
        return {**self._machine(pair.a.target), "threads": self.threads}

    def run(self, passes: int = PASSES, minutes: float | None = None) -> bool:
        """Measure until all have their passes or the time is over; returns whether the user interrupted."""
        deadline = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
        try:
            for index in range(passes):
                for step in _shuffled(self._unmeasured(index)):
                    if time.monotonic() >= deadline:
                        self.notify(
                            f"{minutes:g} min are over in pass {index + 1} of {passes}; run it again to continue"
                        )
                        return False
                    self._measure(step, index, passes)
        except KeyboardInterrupt:
            return True
        return False

    def _unmeasured(self, index: int) -> Iterator[Point | PointPair]:
        """Yield what has no measurement of a pass yet."""
        for key in self.in_passes:
            point = self.points[key]
            if not point.failure and len(point.rounds) <= index:
                yield point
        for pair in self.pairs.values():
            if not pair.failure and len(pair.logs) <= index:
                yield pair

    def _measure(self, step: Point | PointPair, index: int, passes: int) -> None:
        if isinstance(step, PointPair):
            self._measure_pair(step)
            result = f"ratio {math.exp(step.logs[-1]):.3f}" if step.logs else step.lost
        else:
            self._measure_point(step)
            result = f"{median_ms(step.rounds[-1]):.3f} ms" if step.rounds else step.failure
        self.notify(f"pass {index + 1}/{passes}  {step.name}  {result}")

    def _measure_point(self, point: Point) -> None:
        assert point.artifact is not None
        result = profile([str(point.artifact.folder)], threads=self.threads, rounds=1, budget_s=ROUND_S, out=self.home)
        if result.interrupted:
            raise KeyboardInterrupt
        for measurement in result.measurements:
            self._add_rounds(point, measurement)
        if not result.measurements:
            point.failure = next((cell.reason for cell in result.cells), "no measurement")

    def _measure_pair(self, pair: PointPair) -> None:
        a, b = _artifacts(pair)
        settings = RoundSettings(threads=self.threads, round_seconds=PAIR_S, min_pairs=MIN_PAIRS)
        try:
            log_ratio = log_ratios(run_round(a, b, settings, secrets.randbits(31))).typical
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


def _artifacts(pair: PointPair) -> tuple[Artifact, Artifact]:
    assert pair.a.artifact is not None
    assert pair.b.artifact is not None
    return pair.a.artifact, pair.b.artifact


def _digests(pair: PointPair) -> tuple[str, str]:
    a, b = _artifacts(pair)
    return a.digest, b.digest


def median_ms(item: Round) -> float:
    """Return the median latency of a round, in milliseconds."""
    samples = sorted(item.samples_ns)
    middle = len(samples) // 2
    return (samples[middle] + samples[~middle]) / 2e6


def _by_export(points: Iterable[Point]) -> list[list[Point]]:
    """Group points that one export makes: the targets of a model at one size."""
    groups: dict[tuple[str, int], list[Point]] = {}
    for point in points:
        groups.setdefault((point.model, point.px), []).append(point)
    return list(groups.values())


def _shuffled(steps: Iterable[Point | PointPair]) -> list[Point | PointPair]:
    shuffled = list(steps)
    random.shuffle(shuffled)
    return shuffled


def check_name(name: str) -> None:
    """Refuse a name that is neither a part nor a model that `effbench.api.export.source.resolve` accepts.

    Raises:
        UsageError: With near misses.
    """
    valid = {**parts(), **models.models()}
    if name not in valid and not name.endswith(".onnx") and ":" not in name:
        raise unknown_name(name, valid, "mixer, block or model")
