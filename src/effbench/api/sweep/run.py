"""Sweep: a whole matrix of models x resolutions x precisions x targets, resumed where it was left, one table.

Every graph is made once: the first cell of a graph goes ahead of the others, and where the graph itself fails, they
fail with its reason and without another try.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from effbench import deploy, process
from effbench.api.export import failures
from effbench.api.export.run import at_hand, reduced
from effbench.api.export.stage import Notify, memory_bytes, memory_share, silent
from effbench.api.profile.run import BUDGET_S, ROUNDS, profile
from effbench.api.sweep import jobs
from effbench.api.sweep.jobs import Job, Journal
from effbench.codec import from_json, to_json
from effbench.errors import UsageError
from effbench.schema import Cell, Measurement
from effbench.store import Store
from effbench.store import home as home_of

STAGE_BYTES = 6 << 30
"""What one stage may need in the worst case seen; so many run at a time as fit."""
SHARED_STAGES = ("graph", "precision")
"""Stages whose failure is that of every cell of the graph."""


@dataclass(frozen=True)
class Sweep:
    """What a sweep knows: a cell per job that ended, the jobs that did not run yet, and the latencies measured."""

    cells: tuple[Cell, ...]
    not_run: tuple[Job, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    unmeasured: tuple[Cell, ...] = ()
    done_now: int = 0
    interrupted: bool = False


def sweep(
    models: Sequence[str],
    targets: Sequence[str] = (),
    resolutions: Sequence[str | int] = (224,),
    precisions: Sequence[str] = (),
    *,
    batch: int = 1,
    weights: str | None = None,
    seed: int = 0,
    images: str | None = None,
    allow_fallback: bool = False,
    measure: bool = True,
    threads: int = 1,
    rounds: int = ROUNDS,
    budget_s: float = BUDGET_S,
    workers: int | None = None,
    time_limit_s: float = jobs.CELL_LIMIT_S,
    memory_limit_bytes: int | None = None,
    reduce_s: float = failures.REDUCE_S,
    retry: bool = False,
    out: str | Path | None = None,
    notify: Notify = silent,
) -> Sweep:
    """Export, verify and measure every cell of a matrix; what was recorded by an earlier sweep is not done again.

    Args:
        models: Names, ``.onnx`` files or factories.
        targets: None means those at hand.
        resolutions: Pixels, or height x width.
        precisions: None means each target's default.
        batch: Images per inference.
        weights: A .safetensors file, for a single model.
        seed: Of untrained weights.
        images: A folder for int8 and a16w8, or ``synthetic``.
        allow_fallback: Accept operators that another unit takes over, and record them.
        measure: Profile the cells that are ok and can be measured here, interleaved.
        threads: Of the runtime, when measured.
        rounds: Fresh processes per artifact.
        budget_s: Seconds of measuring per artifact.
        workers: Cells at a time; None means as many as cores and memory allow.
        time_limit_s: For each cell, all its stages together.
        memory_limit_bytes: For each stage; None shares the machine's memory between the workers.
        reduce_s: How long to look for a smaller graph for each kind of failed conversion; 0 looks for none.
        retry: Do again what failed or was unavailable in an earlier sweep.
        out: The folder to write below.
        notify: Called with one line per step.

    Returns:
        The matrix. An interrupt keeps what ended, and says what did not run.

    Raises:
        UsageError: A name that means nothing; nothing was done then.
    """
    home = home_of(out)
    if not models:
        raise UsageError("No model is named.", hint="effbench sweep regla_m, or a suite in effbench.toml.")
    workers = workers or default_workers()
    planned = jobs.plan(
        models,
        list(targets) or at_hand(),
        resolutions,
        list(precisions) or [None],
        batch=batch,
        weights=weights,
        seed=seed,
        images=images,
        allow_fallback=allow_fallback,
        time_limit_s=time_limit_s,
        memory_limit_bytes=memory_limit_bytes or memory_share(workers),
        out=str(home),
    )
    journal = Journal(home)
    found, waiting = split(planned, journal.read(), retry)
    notify(f"{len(planned)} cells, {len(found)} of them recorded already, {workers} at a time")
    run = Run(waiting, journal, notify, len(planned))
    interrupted = run.go(workers)
    found |= run.ended
    cells = [found[key] for job in planned if (key := jobs.identity(job)) in found]
    if run.ended and not interrupted:
        cells = _reduced(cells, set(map(id, run.ended.values())), reduce_s, notify)
    left = tuple(job for job in planned if jobs.identity(job) not in found)
    measured = _measured(cells, threads, rounds, budget_s, home, notify) if measure and not interrupted else None
    kept = _stored(cells, threads, home) if measure else ()
    more = {"unmeasured": measured.cells, "interrupted": measured.interrupted} if measured else {}
    return Sweep(tuple(cells), left, kept, done_now=len(run.ended), **{"interrupted": interrupted, **more})


def default_workers() -> int:
    """Return how many cells to make at a time: one per core, as far as memory goes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = memory_bytes()
    return max(1, cores if memory is None else min(cores, memory // STAGE_BYTES))


def split(
    planned: Sequence[Job], recorded: Mapping[str, Cell], retry: bool = False
) -> tuple[dict[str, Cell], list[Job]]:
    """Tell what is recorded from what is to be done; an artifact that was removed since is made again."""
    found: dict[str, Cell] = {}
    waiting = []
    for job in planned:
        key = jobs.identity(job)
        cell = recorded.get(key)
        kept = cell is not None and (Path(cell.artifact).is_dir() if cell.status.made else not retry)
        if cell is not None and kept:
            found[key] = replace(cell, cached=True)
        else:
            waiting.append(job)
    return found, waiting


class Run:
    """Jobs on threads, each in children of its own; one per graph goes ahead."""

    def __init__(self, waiting: Sequence[Job], journal: Journal, notify: Notify, total: int) -> None:
        self.waiting, self.journal, self.notify, self.total = deque(waiting), journal, notify, total
        self.ended: dict[str, Cell] = {}
        self._before = total - len(waiting)
        self._made: set[tuple[str, ...]] = set()
        self._broken: dict[tuple[str, ...], Cell] = {}

    def go(self, workers: int, run: Callable[[Job], dict[str, Any]] = jobs.run) -> bool:
        """Run everything; returns whether the user interrupted, and leaves nothing running."""
        running: dict[Future[dict[str, Any]], Job] = {}
        with ThreadPoolExecutor(workers) as pool:
            try:
                while self.waiting or running:
                    while len(running) < workers and (job := self._next(list(running.values()))) is not None:
                        running[pool.submit(run, job)] = job
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        self._end(running.pop(future), from_json(Cell, future.result(), "a job's answer"))
            except BaseException as error:
                for future in running:
                    future.cancel()
                process.kill_all()
                if isinstance(error, KeyboardInterrupt):
                    return True
                raise
        return False

    def _next(self, running: Sequence[Job]) -> Job | None:
        """Return the first job whose graph is made, or is to be made by it alone."""
        busy = {key for job in running for key in graphs(job) if key not in self._made}
        for job in list(self.waiting):
            broken = next((self._broken[key] for key in graphs(job) if key in self._broken), None)
            if broken is not None:
                self.waiting.remove(job)
                self._end(job, jobs.like(job, broken))
            elif not busy & set(graphs(job)):
                self.waiting.remove(job)
                return job
        return None

    def _end(self, job: Job, cell: Cell) -> None:
        self.journal.append(job, to_json(cell))
        self.ended[jobs.identity(job)] = cell
        self._made |= set(graphs(job))
        stage = _failed_stage(cell)
        if stage in SHARED_STAGES:
            self._broken.setdefault(graphs(job)[SHARED_STAGES.index(stage)], cell)
        done = self._before + len(self.ended)
        what = f"{cell.model} {job['resolution']} px {cell.precision} {cell.target}"
        self.notify(f"{done}/{self.total}  {what}: {cell.verdict}{f': {cell.reason}' if cell.reason else ''}")


def graphs(job: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the graphs a job needs: that in fp32 first, then the one with its precision inside."""
    first = jobs.group(job)
    return [first] if job["precision"] == "fp32" else [first, (*first, job["precision"])]


def _failed_stage(cell: Cell) -> str | None:
    return str(failures.read(Path(cell.record))["job"]["op"]) if cell.record else None


def _reduced(cells: Sequence[Cell], new: set[int], limit_s: float, notify: Notify) -> list[Cell]:
    """Reduce the failures of this sweep, one of each kind."""
    fresh = [cell for cell in cells if id(cell) in new]
    done = iter(reduced(fresh, limit_s, notify))
    return [next(done) if id(cell) in new else cell for cell in cells]


def _measurable(cells: Sequence[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell.status.made and deploy.get(cell.target).measurable() is None]


def _measured(cells: Sequence[Cell], threads: int, rounds: int, budget_s: float, home: Path, notify: Notify) -> Any:
    """Profile what has no rounds enough in the store, all artifacts interleaved; None where nothing is left to do."""
    enough = {
        one.digest
        for one in Store(home)
        if one.settings.get("threads") == str(threads) and len(one.samples.rounds) >= rounds
    }
    names = dict.fromkeys(cell.artifact for cell in _measurable(cells) if cell.digest not in enough)
    if not names:
        return None
    return profile(list(names), threads=threads, rounds=rounds, budget_s=budget_s, out=home, notify=notify)


def _stored(cells: Sequence[Cell], threads: int, home: Path) -> tuple[Measurement, ...]:
    """Return the newest measurement of each cell."""
    wanted = {cell.digest for cell in cells if cell.digest}
    newest = {
        one.digest: one
        for one in Store(home)
        if one.digest in wanted and one.device == "local" and one.settings.get("threads") == str(threads)
    }
    return tuple(newest.values())
