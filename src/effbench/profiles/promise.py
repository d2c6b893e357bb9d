"""The check of a session's promise: it returns only when its outputs are readable on the host."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from effbench.profiles.measure import Array, Call, Clock, Feeds, Sleep, time_one

EARLY_RETURN = "early return"
"""The flag of a session whose outputs were not final when it returned."""

_TRIES = 3
_LAZY_SHARE = 0.25
_LAZY_FLOOR_NS = 100_000


def check_promise(
    session: Call,
    feeds_a: Feeds,
    feeds_b: Feeds,
    *,
    settle_seconds: float = 0.1,
    clock: Clock = time.perf_counter_ns,
    sleep: Sleep = time.sleep,
) -> tuple[str, ...]:
    """Return `EARLY_RETURN` for a session whose outputs are not final when it returns, else nothing.

    Three tests, on inferences that alternate between two inputs:

    - outputs are copied at once and compared with the same arrays ``settle_seconds`` (or two latencies, if longer)
      later: any change means that the session was still writing;
    - outputs for b right after a are compared with those for b after b: a session that returns the results of the
      previous call, or a stale copy of its buffer, returns those for a;
    - the first copy of the outputs is timed against a second one: outputs that wait for the result on first access
      make it slower by a quarter of the latency, every time.

    The second test cannot judge a session whose outputs are equal for both inputs. The first does not see work that
    ends after the settling time. A session that returns early is fast, and its work may end by chance before the
    check, so there are three tries. For a slow session one try suffices, of about twelve latencies.
    """
    latency_s = 1e-9 * time_one(session, feeds_a, clock)
    settle = max(settle_seconds, 2 * latency_s)
    lazy = True
    for _ in range(_TRIES if settle == settle_seconds else 1):
        references = []
        for feeds in (feeds_a, feeds_b):
            outputs, fresh, waited = _touch(session, feeds, clock)
            lazy = lazy and waited
            sleep(settle)
            if not _same(fresh, _copy(outputs)):
                return (EARLY_RETURN,)
            second = session(feeds)
            sleep(settle)
            references.append((fresh, _copy(second)))
        if _is_stale(*references):
            return (EARLY_RETURN,)
    # One slow copy may be an interruption.
    for _ in range(2 * (_TRIES - 1)):
        lazy = lazy and _touch(session, feeds_a, clock)[2]
    return (EARLY_RETURN,) if lazy else ()


def _touch(session: Call, feeds: Feeds, clock: Clock) -> tuple[Mapping[str, Any], list[Array], bool]:
    """Run once; return the outputs, an immediate copy of them, and whether that copy waited for the result."""
    start = clock()
    outputs = session(feeds)
    returned = clock()
    fresh = _copy(outputs)
    touched = clock()
    _copy(outputs)
    wait_ns = (touched - returned) - (clock() - touched)
    return outputs, fresh, wait_ns > max(_LAZY_FLOOR_NS, _LAZY_SHARE * (returned - start))


def _is_stale(a: tuple[list[Array], list[Array]], b: tuple[list[Array], list[Array]]) -> bool:
    # Threads may sum in a different order each time, so outputs are stale if they are nearer to the other input's.
    (_, settled_a), (fresh_b, settled_b) = a, b
    return _distance(fresh_b, settled_b) > 0.5 * _distance(settled_a, settled_b) > 0


def _copy(outputs: Mapping[str, Any]) -> list[Array]:
    return [np.array(outputs[name]) for name in outputs]


def _same(left: list[Array], right: list[Array]) -> bool:
    return all(x.tobytes() == y.tobytes() for x, y in zip(left, right, strict=True))


def _distance(left: list[Array], right: list[Array]) -> float:
    pairs = zip(left, right, strict=True)
    return max(
        (float(np.max(np.abs(np.nan_to_num(a) * 1.0 - np.nan_to_num(b)), initial=0)) for a, b in pairs), default=0
    )
