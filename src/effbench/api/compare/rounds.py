"""One paired round of two artifacts: in fresh processes here, or inside one agent on a device."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from effbench import drafts, process
from effbench.api.remote import Remote
from effbench.device import PAIR_AGENT
from effbench.errors import MeasurementError, UsageError
from effbench.profiles.paired import MIN_PAIRS, PairedRound
from effbench.profiles.turns import join_turns
from effbench.schema import Artifact

ROUND_LIMIT_S = 120.0


@dataclass(frozen=True)
class RoundSettings:
    """How rounds are run.

    ``workers`` is 1 (both sides in one process) or 2 (taking turns). ``round_seconds`` and ``min_pairs`` are the least
    length of the timed phase. About the time in which a process starts is best: starts and samples both add evidence.
    ``round_s`` is the time of a whole round beyond which it gets fewer pairs; a comparison sets it for each round from
    what is left of the budget. With ``plan_only``, a comparison ends after a few rounds. ``block`` is the number of
    inferences of one side in a row, with one worker.
    """

    threads: int = 1
    batch: int | None = None
    workers: int = 1
    budget_s: float = 60.0
    round_seconds: float = 0.5
    min_pairs: int = MIN_PAIRS
    round_s: float | None = None
    plan_only: bool = False
    block: int = 1
    quantile: float = 0.5
    python: tuple[tuple[str, ...], tuple[str, ...]] = ((sys.executable,), (sys.executable,))
    seed: int = field(default_factory=lambda: secrets.randbits(31))


MeasureRound = Callable[[Artifact, Artifact, RoundSettings, int], PairedRound]
"""Measures one round of A and B, under settings and a seed."""


def job_of(a: Artifact, b: Artifact, settings: RoundSettings, seed: int) -> dict[str, Any]:
    """Return the job of one round for `PAIR_AGENT`."""
    return {
        "op": "pair" if settings.workers == 1 else "turn",
        "sides": [{"artifact": str(item.folder.resolve())} for item in (a, b)],
        "threads": settings.threads,
        "batch": settings.batch,
        "seed": seed,
        "seconds": settings.round_seconds,
        "min_pairs": settings.min_pairs,
        "round_s": settings.round_s,
        "block": settings.block,
    }


def run_round(a: Artifact, b: Artifact, settings: RoundSettings, seed: int) -> PairedRound:
    """Measure one round in fresh processes.

    Raises:
        EffbenchError: A side could not be loaded, a worker was lost, or a sample is not a valid latency.
    """
    job = job_of(a, b, settings, seed)
    if settings.workers == 2:
        return _two_workers(job, settings)
    python = process.Python(settings.python[0])
    answer = process.single(process.run(PAIR_AGENT, job, time_limit_s=ROUND_LIMIT_S, python=python))
    return _paired(answer)


class DeviceRounds:
    """Measures rounds on a device, where one agent runs both sides.

    Args:
        remote: The device in use.
        force: Measure also where the machine that answers contradicts the device; ``doubts`` then holds how.
    """

    def __init__(self, remote: Remote, force: bool = False) -> None:
        self.remote, self.force = remote, force
        self.doubts: dict[str, None] = {}
        """Sentences, in their order."""

    def __call__(self, a: Artifact, b: Artifact, settings: RoundSettings, seed: int) -> PairedRound:
        """Measure one round of A and B, under settings and a seed.

        Raises:
            UsageError: There are two workers, or the machine contradicts the device.
            MeasurementError: The device's clock jumped, or its answer is malformed.
        """
        remote = self.remote
        if settings.workers == 2:
            text = "On a device both sides run in one process."
            raise UsageError(text, hint="Leave --workers and --base-python out.")
        job = {**job_of(a, b, settings, seed), "sides": [{"artifact": remote.place(item)} for item in (a, b)]}
        start = time.monotonic()
        answer = process.single(remote.run(PAIR_AGENT, job, time_limit_s=ROUND_LIMIT_S))
        measured = _paired(answer)
        with process.reading_answer(f"'{remote.device.name}'"):
            counted_s = float(answer.get("agent_s", 0.0))
            self.doubts |= dict.fromkeys(remote.contradictions({**answer.get("machine", {})}, self.force))
        remote.check_clock([*measured.a_ns, *measured.b_ns], counted_s, time.monotonic() - start)
        return measured


def _paired(answer: dict[str, Any]) -> PairedRound:
    with process.reading_answer("a paired round"):
        fields = {key: tuple(value) for key, value in answer["round"].items() if key != "observed"}
        return PairedRound(**fields, observed=answer["round"]["observed"])


def _two_workers(job: dict[str, Any], settings: RoundSettings) -> PairedRound:
    """Measure a round of two processes; by the seed, A or B is the one that leads."""
    process.require_posix("A comparison with two workers")
    if job["seed"] % 2 == 0:
        return _led_by_first(job, settings)
    swapped = replace(settings, python=settings.python[::-1])
    return _led_by_first({**job, "sides": job["sides"][::-1]}, swapped).swapped()


def _led_by_first(job: dict[str, Any], settings: RoundSettings) -> PairedRound:
    with drafts.scratch() as folder:
        pipes = [Path(folder) / name for name in ("a", "b")]
        for pipe in pipes:
            os.mkfifo(pipe)

        def serve(side: int) -> dict[str, Any]:
            own_job = {**job, "side": side, "pipes": [str(pipe) for pipe in pipes]}
            try:
                python = other_python(settings.python[side])
                answer = process.single(process.run(PAIR_AGENT, own_job, time_limit_s=ROUND_LIMIT_S, python=python))
                half: dict[str, Any] = answer["half"]
                return half
            except BaseException:
                _unblock(pipes)
                raise

        with ThreadPoolExecutor(2) as pool:
            halves = [pool.submit(serve, side) for side in (0, 1)]
            errors = [half.exception() for half in halves]
            # The worker that failed first is the cause; its partner's MeasurementError is only the consequence.
            for error in sorted((e for e in errors if e), key=lambda e: isinstance(e, MeasurementError)):
                raise error
            return join_turns(halves[0].result(), halves[1].result())


def _unblock(pipes: Sequence[Path]) -> None:
    """Release a worker that waits for the other to open its pipe."""
    for pipe in pipes:
        with contextlib.suppress(OSError):
            os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))


def other_python(command: tuple[str, ...]) -> process.Python:
    """Return an interpreter with this effbench; if it is not this one, then with no other package of this one."""
    return process.Python(command, None if command == (sys.executable,) else {"PYTHONPATH": ""})
