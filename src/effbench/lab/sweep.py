"""A sweep over devices: cells x devices as jobs, rounds stored as they end and fetched at the end."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

from effbench import drafts, process
from effbench.api.export.run import at_hand, targets_of
from effbench.api.export.stage import Notify, memory_share, silent
from effbench.api.profile.request import BUDGET_S, ROUNDS
from effbench.api.remote import device_of
from effbench.api.sweep import jobs as cells
from effbench.api.sweep.run import default_workers
from effbench.codec import fingerprint, from_json, plain, to_json
from effbench.errors import DataError, EffbenchError, UsageError
from effbench.lab import job as answers
from effbench.lab.cluster import Cluster, is_local
from effbench.lab.engine import JobEngine, JobOutcome, Pool
from effbench.lab.job import OK, UNSUPPORTED, LabJob
from effbench.lab.measure import FUNCTION, checked, export_for, has_rounds, rounds_of
from effbench.lab.results import Results
from effbench.lab.threads import Threads
from effbench.schema import DEFAULT_BATCH, DEFAULT_RESOLUTION, Device, InputShapes, Measurement, Resolution
from effbench.store import Store
from effbench.store import home as home_of

FETCH_S = 300.0
"""The longest wait for another sweep that copies rounds."""

JOB_LIMIT_S = 600.0
"""Time limit of a job beyond its export and four times its budget, for connections and for finishing a bundle."""


@dataclass(frozen=True)
class LabSweep:
    """The result of a sweep over devices: outcomes of all jobs, measurements, and the devices that were set aside."""

    outcomes: tuple[JobOutcome, ...]
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    """Measurements by the ``run`` of an outcome."""
    set_aside: Mapping[str, str] = field(default_factory=dict)
    not_run: tuple[LabJob, ...] = ()
    interrupted: bool = False


@dataclass(frozen=True)
class LabRequest:
    """Which cells to export and measure on which devices, and how.

    Attributes:
        models: Names, ``.onnx`` files or factories.
        devices: Names that `effbench devices` lists; with a scheduler, also on the hosts of the workers.
        targets: None means each device's first one, and for this machine those at hand.
        resolutions: Pixels, or height x width.
        precisions: None means those of each device's profile, or the target's default.
        scheduler: The address of a Dask scheduler; None runs everything from this process.
        store: A folder or an fsspec address for rounds and results; None means ``lab`` below ``out``.
        batch: Images per inference.
        weights: A .safetensors file, for a single model.
        seed: Of untrained weights.
        images: A folder to calibrate int8 and a16w8 with, or ``synthetic``.
        allow_fallback: Accept operators that another unit takes over, and record them.
        threads: Of the runtime; None means each device's setting, or 1.
        rounds: Fresh processes per artifact and device.
        budget_s: Seconds of measuring per artifact and device.
        rate_hz: Inferences a second; None means back to back.
        workers: Exports at a time here; None means as many as cores and memory allow.
        time_limit_s: For each export.
        memory_limit_bytes: For each stage of an export here.
        out: The folder to write below.
        notify: Called with one line per step.

    Raises:
        UsageError: No model or no device is named.
    """

    models: Sequence[str]
    devices: Sequence[str]
    targets: Sequence[str] = ()
    resolutions: Sequence[Resolution] = (DEFAULT_RESOLUTION,)
    precisions: Sequence[str] = ()
    _: KW_ONLY
    scheduler: str | None = None
    store: str | None = None
    batch: int = DEFAULT_BATCH
    weights: str | None = None
    seed: int = 0
    images: str | None = None
    allow_fallback: bool = False
    threads: int | None = None
    rounds: int = ROUNDS
    budget_s: float = BUDGET_S
    rate_hz: float | None = None
    workers: int | None = None
    time_limit_s: float = cells.CELL_LIMIT_S
    memory_limit_bytes: int | None = None
    out: str | Path | None = None
    notify: Notify = silent

    def __post_init__(self) -> None:
        if not self.models or not self.devices:
            raise UsageError("Name models and devices.", hint="effbench sweep regla_m --devices orin,pixel")


def run_lab_sweep(request: LabRequest) -> LabSweep:
    """Export and measure every cell on every device: each device one job at a time, all devices at once.

    Returns:
        The outcome of every job; an interrupt keeps all rounds that ended.

    Raises:
        UsageError: A name is unknown; nothing was done then.
        UnavailableError: A device cannot be driven, or no scheduler answers.
    """
    home, scheduler = home_of(request.out), request.scheduler
    if scheduler and request.store is None and not is_local(scheduler):
        hint = "Name a folder that all hosts share, or an fsspec address: --store s3://bucket/lab"
        raise UsageError("Workers on other hosts cannot read this machine's folder.", hint=hint)
    address = request.store or str((home / "lab").absolute())
    workers = request.workers or default_workers()
    limit = None if scheduler else request.memory_limit_bytes or memory_share(workers)
    plan = _Plan(request, address, None if scheduler else str(home.absolute()), limit)
    for device in map(device_of, dict.fromkeys(request.devices)):
        plan.add(device)
    recorded = Results(f"{address}/jobs").keys()
    count = len(plan.jobs.keys() & recorded)
    request.notify(f"{len(plan.jobs)} jobs on {len(set(request.devices))} devices, {count} done already")
    pool = _pool(scheduler, tuple(dict.fromkeys(request.devices)))
    try:
        return _Run(plan, pool, address, home, request.notify).go(recorded, 0 if scheduler else workers)
    finally:
        pool.close()


def _pool(scheduler: str | None, devices: tuple[str, ...]) -> Pool:
    if scheduler is None:
        return Threads(devices)
    return Cluster(scheduler, devices)


class _Plan:
    """The jobs, and the outcomes that are known before anything is done."""

    def __init__(self, request: LabRequest, address: str, out: str | None, memory_limit_bytes: int | None) -> None:
        self._request, self._address, self._out, self._limit = request, address, out, memory_limit_bytes
        names = ("rounds", "budget_s", "threads", "rate_hz")
        self._protocol: dict[str, Any] = {name: getattr(request, name) for name in names}
        self.jobs: dict[str, LabJob] = {}
        self.refused: list[JobOutcome] = []
        self.devices: dict[str, Device] = {}

    def add(self, device: Device) -> None:
        """Add every cell for one device; each target has the precisions of the request, or that of the profile."""
        request = self._request
        self.devices[device.name] = device
        local = device.transport == "local"
        for target in list(request.targets) or (at_hand() if local else targets_of(device)):
            planned = cells.plan(
                request.models,
                [target],
                request.resolutions,
                list(request.precisions) or [device.precisions.get(target)],
                batch=request.batch,
                weights=request.weights,
                seed=request.seed,
                images=request.images,
                allow_fallback=request.allow_fallback,
                time_limit_s=request.time_limit_s,
                memory_limit_bytes=self._limit,
            )
            for cell in planned:
                job = self._job(device, cell)
                if local or target in device.targets:
                    self.jobs.setdefault(job.key, job)
                else:
                    reason = f"'{device.name}' runs {', '.join(device.targets)}, not {target}"
                    self.refused.append(JobOutcome(job, UNSUPPORTED, None, reason))

    def _job(self, device: Device, cell: cells.CellJob) -> LabJob:
        declared = {key: value for key, value in plain(device).items() if key in ("precisions", "options", "settings")}
        same = {"cell": cells.identity(cell), "device": device.name, "declared": declared, "protocol": self._protocol}
        key = fingerprint(same)[:24]
        arguments: dict[str, Any] = {"cell": to_json(cell), "device": device.name, "protocol": self._protocol}
        arguments |= {"address": self._address, "key": key, "out": self._out}
        limit = cell.time_limit_s + max(120.0, 4 * float(self._protocol["budget_s"])) + JOB_LIMIT_S
        return LabJob(device.name, FUNCTION, arguments, limit, key)


class _Run:
    """One sweep under way."""

    def __init__(self, plan: _Plan, pool: Pool, address: str, home: Path, notify: Notify) -> None:
        self._plan, self._address, self._home, self._notify = plan, address, home, notify
        self._engine = JobEngine(pool, f"{address}/jobs", notify, usable=has_rounds)
        self._ended: dict[str, JobOutcome] = {}
        self._total = len(plan.jobs)

    def go(self, recorded: set[str], workers: int) -> LabSweep:
        """Export missing artifacts here (``workers`` at a time; 0 leaves it to a scheduler's workers), then measure.

        Nothing is measured on this machine while it exports, since that would distort the latencies.
        """
        interrupted = False
        try:
            for outcome in self._export(recorded, workers) if workers else ():
                self._end(outcome)
            remaining = [job for job in self._plan.jobs.values() if job.key not in self._ended]
            for outcome in self._engine.run(remaining):
                self._end(outcome)
        except KeyboardInterrupt:
            process.kill_all()
            interrupted = True
        runs = [outcome_.result["run"] for outcome_ in self._ended.values() if outcome_.status == OK]
        measured = fetch_rounds(self._address, runs, self._home)
        not_run = tuple(job for key, job in self._plan.jobs.items() if key not in self._ended)
        outcomes = (*self._ended.values(), *self._plan.refused)
        return LabSweep(outcomes, measured, dict(self._engine.set_aside), not_run, interrupted)

    def _export(self, recorded: set[str], workers: int) -> Iterator[JobOutcome]:
        """Yield the outcome of each job whose export fails; one cell of each graph is exported before the others."""
        missing = [job for job in self._plan.jobs.values() if job.key not in recorded]
        first = {_cell(job).graph: job for job in reversed(missing)}
        for batch in (list(first.values()), [job for job in missing if job not in first.values()]):
            with ThreadPoolExecutor(workers) as pool:
                try:
                    for outcome in pool.map(self._export_one, batch):
                        if outcome is not None:
                            yield outcome
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    process.kill_all()
                    raise

    def _export_one(self, job: LabJob) -> JobOutcome | None:
        try:
            export_for(_cell(job), self._plan.devices[job.device], str(self._home))
        except EffbenchError as error:
            return JobOutcome(job, answers.status(error), None, error.message, error.hint or "")
        self._notify(f"exported {title(job)}")
        return None

    def _end(self, outcome: JobOutcome) -> None:
        outcome = checked(outcome)
        self._ended[outcome.job.key] = outcome
        text = "done already" if outcome.cached else outcome.status
        reason = f": {outcome.reason}" if outcome.reason else ""
        self._notify(f"{len(self._ended)}/{self._total}  {title(outcome.job)}: {text}{reason}")


def title(job: LabJob) -> str:
    """Return a job in words."""
    cell = _cell(job)
    return f"{job.device}: {cell.model} {InputShapes.parse(cell.resolution).label} {cell.precision} {cell.target}"


def _cell(job: LabJob) -> cells.CellJob:
    return from_json(cells.CellJob, job.arguments["cell"], "job")


@contextlib.contextmanager
def _fetching(home: Path) -> Iterator[None]:
    """Hold the lock under which rounds are copied into the store of a folder."""
    from filelock import Timeout

    try:
        with drafts.file_lock(home / "lab.lock", FETCH_S):
            yield
    except Timeout:
        text = f"{home}: another sweep has been copying rounds for {FETCH_S:g} s."
        raise DataError(text, hint="Nothing was lost; run it again.") from None
    except OSError as error:
        raise DataError(f"Cannot write {home}: {error.strerror}.", hint="Choose another with --out.") from error


def fetch_rounds(address: str, runs: Sequence[str], home: Path) -> dict[str, Measurement]:
    """Copy the missing rounds of runs into the store of a folder; return one measurement per run.

    Raises:
        DataError: A round cannot be read, or the folder cannot be written.
    """
    if not runs:
        return {}
    store = Store(home)
    with _fetching(home):
        present = Counter({measurement.run: len(measurement.samples.rounds) for measurement in store})
        for run in runs:
            rounds = [
                from_json(Measurement, data, f"{address}/rounds/{run}/{name}") for name, data in rounds_of(address, run)
            ]
            if not rounds:
                hint = "Workers on other hosts need a --store that all of them and this machine share."
                raise DataError(f"{address} has no rounds of run {run}, though its job is done.", hint=hint)
            if any(measurement.run != run for measurement in rounds):
                raise DataError(f"{address}/rounds/{run} holds rounds of another run.")
            for measurement in rounds[present[run] :]:
                store.append(measurement)
    return {measurement.run: measurement for measurement in store if measurement.run in set(runs)}
