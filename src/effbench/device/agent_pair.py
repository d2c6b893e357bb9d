"""The agent for `compare` and `gate`: one round of two artifacts against each other.

``python -m effbench.device.agent_pair`` serves two jobs: ``pair`` loads both artifacts in this process, ``turn`` loads
one of them and takes turns with another worker (`effbench.profiles.turns`).
"""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from effbench.device import agent

IMAGES = 5
"""Inputs used in turn, to show a latency that depends on the image. Few, since generating them takes time."""


def _feeds(artifact: Any, job: dict[str, Any]) -> list[dict[str, Any]]:
    batch = agent._batch(artifact, job.get("batch"))
    feeds = agent._inputs(artifact, batch, IMAGES if batch == 1 else 1)
    # A short round of a slow model has fewer pairs than there are images: each round begins with another one.
    start = int(job["seed"]) % len(feeds)
    return feeds[start:] + feeds[:start]


def _bounds(job: dict[str, Any], pair_s: float = 0.0) -> Any:
    """Return the length of the timed phase; what this process has taken so far is part of the round.

    Args:
        job: Of the round.
        pair_s: The time of both sides' first inferences.
    """
    from effbench.profiles.paired import PairBounds

    bounds = PairBounds(float(job["seconds"]), int(job["min_pairs"]), block=int(job.get("block", 1)))
    if job.get("round_s") is None:
        return bounds
    spent_s = (time.perf_counter_ns() - agent.STARTED_NS) / 1e9
    return replace(bounds, target_s=max(0.0, float(job["round_s"]) - spent_s), pair_s=pair_s)


def _input_key(artifact: Any) -> tuple[Any, ...]:
    """Return the properties that determine an artifact's inputs; sides that agree share them, to save time."""
    return artifact.inputs, artifact.preprocessing


def _first(session: Any, feeds: dict[str, Any]) -> float:
    from effbench.profiles.measure import time_one

    return time_one(session, feeds) / 1e6


def pair(job: dict[str, Any], emit: Any) -> None:
    """Load both artifacts in random order, warm up both, and time them in pairs; emit the round."""
    from effbench.codec import plain
    from effbench.profiles import environment
    from effbench.profiles.paired import measure_pairs

    order = random.Random(job["seed"])
    sides = [0, 1] if order.random() < 0.5 else [1, 0]
    loaded: dict[int, Any] = {}
    opened: dict[int, Any] = {}
    feeds: dict[int, Any] = {}
    first: dict[int, float] = {}
    for side in sides:
        emit({"event": "stage", "stage": f"load {'AB'[side]}"})
        loaded[side], opened[side] = agent._open({**job, **job["sides"][side]}, emit)
        emit({"event": "stage", "stage": f"first inference of {'AB'[side]}"})
        partner = loaded.get(1 - side)
        alike = partner is not None and _input_key(partner) == _input_key(loaded[side])
        feeds[side] = feeds[1 - side] if alike else _feeds(loaded[side], job)
        first[side] = _first(opened[side], feeds[side][0])
    emit({"event": "stage", "stage": "measure in pairs"})
    before = environment.counters()
    measured = measure_pairs(
        (opened[0], opened[1]),
        (feeds[0], feeds[1]),
        _bounds(job, sum(first.values()) / 1e3),
        order,
        settle=int(job.get("threads", 1)) > 1,
    )
    observed = environment.changes(before, environment.counters())
    answer = {"round": {**plain(measured), "observed": observed}, "first_ms": [first[0], first[1]]}
    answer["machine"] = environment.identity()
    emit({"event": "round", **answer, "agent_s": (time.perf_counter_ns() - agent.STARTED_NS) / 1e9})
    for session in opened.values():
        session.close()


def turn(job: dict[str, Any], emit: Any) -> None:
    """Load one artifact, warm it up, and time it in turns with the other side's worker; emit this side's half."""
    from effbench.profiles import environment
    from effbench.profiles.turns import Turns, measure_turns

    side = int(job["side"])
    emit({"event": "stage", "stage": f"load {'AB'[side]}"})
    artifact, session = agent._open({**job, **job["sides"][side]}, emit)
    feeds = _feeds(artifact, job)
    first_ms = _first(session, feeds[0])
    emit({"event": "stage", "stage": "measure in turns"})
    turns = Turns(Path(job["pipes"][side]), Path(job["pipes"][1 - side]), side)
    before = environment.counters()
    try:
        wall, wait, b_first = measure_turns(session, feeds, turns, _bounds(job), int(job["seed"]))
    finally:
        turns.close()
    observed = environment.changes(before, environment.counters())
    half = {"wall_ns": wall, "wait_ns": wait, "b_first": b_first, "observed": observed}
    emit({"event": "half", "half": half, "first_ms": first_ms})
    session.close()


def layers(job: dict[str, Any], emit: Any) -> None:
    """Time the layers of both artifacts with ONNX Runtime's profiler, in pairs; emit microseconds per layer."""
    from effbench.profiles.layers import measure_layers

    emit({"event": "stage", "stage": "time the layers"})
    start = time.perf_counter()
    models = [Path(side["model"]) for side in job["sides"]]
    timings = measure_layers(models, seed=int(job["seed"]), runs=int(job["runs"]), threads=int(job.get("threads", 1)))
    emit({"event": "layers", "layers": timings, "seconds": time.perf_counter() - start})


HANDLERS = {"pair": pair, "turn": turn, "layers": layers}


def main() -> None:
    """Serve one job."""
    from effbench.process import serve

    serve(HANDLERS)


if __name__ == "__main__":
    main()
