"""What one sweep is asked to do: the record that the Python function, the command line and a suite share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from effbench.api.export import failures
from effbench.api.export.request import check_precisions
from effbench.api.export.stage import Notify, silent
from effbench.api.profile.request import BUDGET_S, ROUNDS
from effbench.api.sweep.jobs import CELL_LIMIT_S
from effbench.errors import UsageError
from effbench.schema import DEFAULT_BATCH, DEFAULT_RESOLUTION, DEFAULT_THREADS, Resolution


@dataclass(frozen=True)
class SweepRequest:
    """Which cells to export, verify and measure, and how.

    Attributes:
        models: Names, ``.onnx`` files or factories.
        targets: None means every target that runs on this machine.
        resolutions: Pixels, or height x width.
        precisions: None means each target's default.
        batch: Images per inference.
        weights: A .safetensors file, for a single model.
        seed: Of untrained weights.
        images: A folder to calibrate int8 and a16w8 with and to verify them, or ``synthetic``.
        allow_fallback: Accept operators that another unit takes over, and record them.
        measure: Profile the cells that can be measured here, interleaved.
        threads: Of the runtime, when measured.
        rounds: Fresh processes per artifact.
        budget_s: Seconds of measuring per artifact.
        workers: Cells at a time; None means as many as cores and memory allow.
        time_limit_s: For each cell, all its stages together.
        memory_limit_bytes: For each stage; None shares the machine's memory between the workers.
        reduce_s: How long to look for a smaller graph for each kind of failed conversion; 0 looks for none.
        retry: Run again the cells that failed or were unavailable in an earlier sweep.
        out: The folder to write below.
        notify: Called with one line per step.

    Raises:
        UsageError: No model is named, or a field has an invalid value.
    """

    models: Sequence[str]
    targets: Sequence[str] = ()
    resolutions: Sequence[Resolution] = (DEFAULT_RESOLUTION,)
    precisions: Sequence[str] = ()
    _: KW_ONLY
    batch: int = DEFAULT_BATCH
    weights: str | None = None
    seed: int = 0
    images: str | None = None
    allow_fallback: bool = False
    measure: bool = True
    threads: int = DEFAULT_THREADS
    rounds: int = ROUNDS
    budget_s: float = BUDGET_S
    workers: int | None = None
    time_limit_s: float = CELL_LIMIT_S
    memory_limit_bytes: int | None = None
    reduce_s: float = failures.REDUCE_S
    retry: bool = False
    out: str | Path | None = None
    notify: Notify = silent

    def __post_init__(self) -> None:
        if not self.models:
            raise UsageError("No model is named.", hint="effbench sweep regla_m, or a suite in effbench.toml.")
        check_precisions(self.precisions)
