"""The curve of a sustained round, and the time from which latency stays higher: the start of throttling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from effbench.errors import MissingDependencyError
from effbench.schema import Round, Samples

Floats = npt.NDArray[np.float64]

POINTS = 120
"""Points of a curve: enough to locate a step within a percent of the round, few enough for a median in each."""

SAMPLES_A_POINT = 5
"""The fewest samples whose median survives two outliers."""

RISE = 0.03
"""A lasting rise of at least this much is throttling; a smaller drift is not distinguishable from noise of the host."""

PENALTY = 8.0
"""Penalty of a change point, in noise variances times the log of the number of points.

Twice the usual 2 to 4: the noise of a shared machine is autocorrelated.
"""


@dataclass(frozen=True)
class Curve:
    """Median latency along a round: the mean time of each segment in seconds, and its median in milliseconds."""

    time_s: tuple[float, ...]
    median_ms: tuple[float, ...]


@dataclass(frozen=True)
class Level:
    """From ``at_s`` on, latency stays above its level at the start."""

    at_s: float
    before_ms: float
    after_ms: float

    @property
    def rise(self) -> float:
        """The rise relative to the start."""
        return self.after_ms / self.before_ms - 1


def is_sustained(samples: Samples) -> bool:
    """Say whether rounds were measured under the sustained protocol: only then do they hold a trace."""
    return any(item.trace for item in samples.rounds)


def curve(round_: Round, points: int = POINTS) -> Curve:
    """Return the medians of segments of equal duration; segments with too few samples are joined."""
    ends = _end_times_s(round_)
    values = np.asarray(round_.samples_ns, dtype=np.float64) / 1e6
    count = max(1, min(points, len(values) // SAMPLES_A_POINT))
    edges = np.searchsorted(ends, np.linspace(0, ends[-1], count + 1)[1:-1])
    cuts, last = [], 0
    for edge in edges:
        if edge - last >= SAMPLES_A_POINT and len(values) - edge >= SAMPLES_A_POINT:
            cuts.append(int(edge))
            last = int(edge)
    middles = [float(np.mean(part)) for part in np.split(ends, cuts)]
    return Curve(tuple(middles), tuple(float(np.median(part)) for part in np.split(values, cuts)))


def _end_times_s(round_: Round) -> Floats:
    """Return when each sample ended: from the trace if there is one, else as if they ran back to back."""
    lengths = np.cumsum(np.asarray(round_.samples_ns, dtype=np.float64)) / 1e9
    trace = round_.trace
    if len(trace.get("samples", ())) < 2:
        return lengths
    marks, times = np.array(trace["samples"]), np.array(trace["time_s"])
    marks = np.append(marks, len(lengths))
    rest = lengths[-1] - lengths[int(marks[-2]) - 1] if marks[-2] > 0 else lengths[-1]
    wall_s = round_.observed.get("wall_s", 0.0)
    times = np.append(times, max(times[-1] + rest, wall_s))
    return np.asarray(np.interp(np.arange(1, len(lengths) + 1), marks, times), dtype=np.float64)


def throttling(series: Curve) -> Level | None:
    """Return the step from which latency stays at least `RISE` above its start, or None.

    The levels are those of an optimal partition of the log medians (PELT); a slow segment that recovers is not
    throttling.

    Raises:
        MissingDependencyError: ruptures is not installed.

    Source: Killick, Fearnhead, Eckley 2012, JASA 107:1590 (PELT).
    """
    try:
        import ruptures
    except ImportError as error:
        raise MissingDependencyError("Finding where throttling starts", "ruptures", "sustained") from error
    logs = np.log(np.array(series.median_ms))
    if len(logs) < 10:
        return None
    noise = float(np.median(np.abs(np.diff(logs)))) * 1.4826 / np.sqrt(2)
    penalty = PENALTY * max(noise, 1e-4) ** 2 * np.log(len(logs))
    search: Any = ruptures.Pelt(model="l2", min_size=3, jump=1)
    ends = [int(end) for end in search.fit(logs[:, None]).predict(pen=penalty)]
    starts = [0, *ends[:-1]]
    levels = [float(np.median(logs[start:end])) for start, end in zip(starts, ends, strict=True)]
    above = [level - levels[0] >= np.log1p(RISE) for level in levels]
    first = next((index for index in range(1, len(levels)) if all(above[index:])), None)
    if first is None:
        return None
    start = starts[first]
    at_s = (series.time_s[start - 1] + series.time_s[start]) / 2
    return Level(at_s, float(np.exp(levels[0])), float(np.exp(np.median(logs[start:]))))
