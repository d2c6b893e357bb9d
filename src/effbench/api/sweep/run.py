"""Sweep: a matrix of models x resolutions x precisions x targets, resumed where it stopped, in one table.

Every graph is exported once: the first cell of a graph runs before the others. If the graph itself fails, the others
fail with its reason and are not tried.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from effbench import deploy, process
from effbench.api.export import failures
from effbench.api.export.dependencies.builds import is_current
from effbench.api.export.run import at_hand, reduced
from effbench.api.export.source import places_of, resolve
from effbench.api.export.stage import Notify, memory_bytes, memory_share
from effbench.api.export.verification import first_graph
from effbench.api.keywords import from_fields
from effbench.api.profile.run import Profile, profile
from effbench.api.sweep import jobs
from effbench.api.sweep.jobs import CellJob, Journal
from effbench.api.sweep.request import SweepRequest
from effbench.deploy.artifact import bundle
from effbench.errors import DataError
from effbench.schema import Cell, Measurement
from effbench.store import Store
from effbench.store import home as home_of

STAGE_BYTES = 6 << 30
"""What one stage may need in the worst case seen; so many run at a time as fit."""
SHARED_STAGES = ("graph", "precision")
"""Stages whose failure is that of every cell of the graph."""


@dataclass(frozen=True)
class Sweep:
    """The result of a sweep: a cell per job that ended, the jobs that did not run, and the latencies.

    ``ended_now`` counts the cells of this call; the others were recorded by earlier ones. ``unmeasured`` holds a cell
    for each artifact whose measurement failed.
    """

    cells: tuple[Cell, ...]
    not_run: tuple[CellJob, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    unmeasured: tuple[Cell, ...] = ()
    ended_now: int = 0
    interrupted: bool = False


@from_fields(SweepRequest)
def sweep(request: SweepRequest) -> Sweep:
    """Export, verify and measure every cell of a matrix; a cell that an earlier sweep recorded is not made again.

    Arguments are the fields of `SweepRequest`; returns and errors are those of `run_sweep`.
    """
    return run_sweep(request)


def run_sweep(request: SweepRequest) -> Sweep:
    """Run a sweep.

    Returns:
        The matrix. After an interrupt it holds the cells that ended, and names the jobs that did not run.

    Raises:
        UsageError: A name is unknown; nothing was done then.
    """
    home, notify = home_of(request.out), request.notify
    workers = request.workers or default_workers()
    planned = jobs.plan(
        request.models,
        list(request.targets) or at_hand(),
        request.resolutions,
        list(request.precisions) or [None],
        batch=request.batch,
        weights=request.weights,
        seed=request.seed,
        images=request.images,
        allow_fallback=request.allow_fallback,
        time_limit_s=request.time_limit_s,
        memory_limit_bytes=request.memory_limit_bytes or memory_share(workers),
        out=str(home),
    )
    journal = Journal(home)
    cells_by_id, waiting = split(planned, journal.read(), request.retry)
    notify(f"{len(planned)} cells, {len(cells_by_id)} of them recorded already, {workers} at a time")
    run = Run(waiting, journal, notify, len(planned))
    interrupted = run.go(workers)
    cells_by_id |= run.ended
    cells = [cells_by_id[key] for job in planned if (key := jobs.identity(job)) in cells_by_id]
    if run.ended and not interrupted:
        cells = _reduced(cells, set(map(id, run.ended.values())), request.reduce_s, notify)
    not_run = tuple(job for job in planned if jobs.identity(job) not in cells_by_id)
    profiled = _profiled(cells, request, home) if request.measure and not interrupted else None
    return Sweep(
        tuple(cells),
        not_run,
        _newest_measurements(cells, request.threads, home) if request.measure else (),
        unmeasured=profiled.cells if profiled else (),
        ended_now=len(run.ended),
        interrupted=profiled.interrupted if profiled else interrupted,
    )


def default_workers() -> int:
    """Return how many cells to make at a time: one per core, as far as memory goes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = memory_bytes()
    return max(1, cores if memory is None else min(cores, memory // STAGE_BYTES))


def split(
    planned: Sequence[CellJob], recorded: Mapping[str, Cell], retry: bool = False
) -> tuple[dict[str, Cell], list[CellJob]]:
    """Return the recorded cells by identity, and the jobs to run.

    A cell runs again if its artifact was removed, or if anything changed that its factory's graph depends on.
    """
    cells: dict[str, Cell] = {}
    waiting = []
    for job in planned:
        key = jobs.identity(job)
        cell = recorded.get(key)
        if cell is not None and (_is_valid(job, cell) if cell.has_artifact else not retry):
            cells[key] = replace(cell, cached=True)
        else:
            waiting.append(job)
    return cells, waiting


def _is_valid(job: CellJob, cell: Cell) -> bool:
    if not Path(cell.artifact).is_dir():
        return False
    source = resolve(job.model, job.weights, job.seed)
    if source.path is not None or source.backbone.family != "user":
        return True  # its identity covers all that it depends on
    try:
        return is_current(first_graph(bundle.load(Path(cell.artifact), check_files=False)), places_of(source))
    except DataError:  # the graph was removed
        return False


class Run:
    """Jobs on threads, each in child processes; of the jobs that share a graph, one goes first."""

    def __init__(self, waiting: Sequence[CellJob], journal: Journal, notify: Notify, total: int) -> None:
        self.waiting, self.journal, self.notify, self.total = deque(waiting), journal, notify, total
        self.ended: dict[str, Cell] = {}
        self._before = total - len(waiting)
        self._finished: set[tuple[str, ...]] = set()
        self._broken: dict[tuple[str, ...], Cell] = {}

    def go(self, workers: int, run: Callable[[CellJob], Cell] = jobs.run_cell) -> bool:
        """Run everything; returns whether the user interrupted, and leaves nothing running."""
        running: dict[Future[Cell], CellJob] = {}
        with ThreadPoolExecutor(workers) as pool:
            try:
                while self.waiting or running:
                    while len(running) < workers and (job := self._next(list(running.values()))) is not None:
                        running[pool.submit(run, job)] = job
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        self._end(running.pop(future), future.result())
            except BaseException as error:
                for future in running:
                    future.cancel()
                process.kill_all()
                if isinstance(error, KeyboardInterrupt):
                    return True
                raise
        return False

    def _next(self, running: Sequence[CellJob]) -> CellJob | None:
        """Return the first job whose graph exists, or that alone will export it."""
        busy = {key for job in running for key in graphs(job) if key not in self._finished}
        for job in list(self.waiting):
            broken = next((self._broken[key] for key in graphs(job) if key in self._broken), None)
            if broken is not None:
                self.waiting.remove(job)
                self._end(job, jobs.like(job, broken))
            elif not busy & set(graphs(job)):
                self.waiting.remove(job)
                return job
        return None

    def _end(self, job: CellJob, cell: Cell) -> None:
        self.journal.append(job, cell)
        self.ended[jobs.identity(job)] = cell
        self._finished |= set(graphs(job))
        stage = _failed_stage(cell)
        if stage in SHARED_STAGES:
            self._broken.setdefault(graphs(job)[SHARED_STAGES.index(stage)], cell)
        done = self._before + len(self.ended)
        name = f"{cell.model} {cell.shapes.label} {cell.precision} {cell.target}"
        self.notify(f"{done}/{self.total}  {name}: {cell.verdict}{f': {cell.reason}' if cell.reason else ''}")


def graphs(job: CellJob) -> list[tuple[str, ...]]:
    """Return the graphs that a job needs: the fp32 graph first, then the one in the job's precision."""
    return [job.graph] if job.precision == "fp32" else [job.graph, (*job.graph, job.precision)]


def _failed_stage(cell: Cell) -> str | None:
    return str(failures.read(Path(cell.record))["job"]["op"]) if cell.record else None


def _reduced(cells: Sequence[Cell], new: set[int], limit_s: float, notify: Notify) -> list[Cell]:
    """Reduce the failures of this sweep, one of each kind."""
    fresh = [cell for cell in cells if id(cell) in new]
    reductions = iter(reduced(fresh, limit_s, notify))
    return [next(reductions) if id(cell) in new else cell for cell in cells]


def _profiled(cells: Sequence[Cell], request: SweepRequest, home: Path) -> Profile | None:
    """Profile the artifacts that lack rounds in the store, interleaved; None if there are none."""
    complete = {
        measurement.digest
        for measurement in Store(home)
        if measurement.settings.get("threads") == str(request.threads)
        and len(measurement.samples.rounds) >= request.rounds
    }
    measurable = [cell for cell in cells if cell.has_artifact and deploy.get(cell.target).measurable() is None]
    names = dict.fromkeys(cell.artifact for cell in measurable if cell.digest not in complete)
    if not names:
        return None
    return profile(
        list(names),
        threads=request.threads,
        rounds=request.rounds,
        budget_s=request.budget_s,
        out=home,
        notify=request.notify,
    )


def _newest_measurements(cells: Sequence[Cell], threads: int, home: Path) -> tuple[Measurement, ...]:
    """Return the newest local measurement of each cell."""
    digests = {cell.digest for cell in cells if cell.digest}
    newest = {
        measurement.digest: measurement
        for measurement in Store(home)
        if measurement.digest in digests
        and measurement.device == "local"
        and measurement.settings.get("threads") == str(threads)
    }
    return tuple(newest.values())
