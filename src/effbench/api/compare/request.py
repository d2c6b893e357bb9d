"""The arguments of `compare`, `gate` and its noise: the records that Python functions and the command line share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from effbench.api.export.request import check_precisions
from effbench.api.export.stage import Notify, silent
from effbench.errors import UsageError, unknown_name
from effbench.schema import DEFAULT_RESOLUTION, Resolution
from effbench.statistics.sequential import Rules
from effbench.statistics.verdict import WHEN_INCONCLUSIVE

BUDGET_S = 60.0


@dataclass(frozen=True)
class CompareRequest:
    """Two sides to compare, and how.

    Attributes:
        a: The base: an artifact (a folder, or the beginning of its name), an .onnx file, or a model name.
        b: The candidate, likewise.
        resolutions: Pixels, for a side that is exported first; none means that of the other side's artifact, or 224.
        targets: Likewise; none means that of the other side's artifact, or ``ort``.
        threads: Intra-operator threads of the runtime.
        batch: Images per inference; None means the artifacts' own.
        device: Where to run; both sides alternate inside one agent there.
        budget_s: Wall-clock seconds per comparison.
        rules: Floor, margin, chance of a false alarm; None takes the defaults. The floor is raised to the noise of
            this machine where that was measured.
        workers: 1 (both sides in one process) or 2 (taking turns); None takes the number that the measured noise
            favours, or 1.
        base_python: Run A under this interpreter, so with its runtime version; two workers then.
        latency: Also measure B's latency, in separate runs.
        plan: Measure only a few rounds, and say how long verdicts take.
        inconclusive: ``code`` (exit 3), ``pass`` or ``fail``.
        seed: Of the order of sides; None draws one.
        record: Write the exchange with the device to this file.
        force: Measure on a device also where the machine that answers contradicts its profile; verdicts say so.
        out: The folder to write below (`store.home`).
        notify: Called with one line per step.

    Raises:
        UsageError: A field has an invalid value.
    """

    a: str
    b: str
    _: KW_ONLY
    resolutions: Sequence[Resolution] = ()
    targets: Sequence[str] = ()
    threads: int = 1
    batch: int | None = None
    device: str = "local"
    budget_s: float = BUDGET_S
    rules: Rules | None = None
    workers: int | None = None
    base_python: str | None = None
    latency: bool = False
    plan: bool = False
    inconclusive: str = "code"
    seed: int | None = None
    record: str | Path | None = None
    force: bool = False
    out: str | Path | None = None
    notify: Notify = silent

    def __post_init__(self) -> None:
        check_inconclusive(self.inconclusive)
        check_positive(budget=self.budget_s, threads=self.threads, batch=self.batch)


@dataclass(frozen=True)
class GateRequest:
    """The working tree, its base, and how to compare them; None means the value in ``effbench.toml``, else a default.

    Attributes:
        models: ``package.module:factory``, .onnx files of the tree, or registered names; none means the suite's.
        base: A git ref; it is exported from a separate worktree.
        baseline: Artifacts (a folder of one, or of many) or measurements instead of a git ref.
        resolutions: Pixels; none means the suite's, or 224.
        targets: None means the suite's, or ``ort``.
        precisions: None means the suite's, or each target's default.
        threads: Intra-operator threads of the runtime.
        batch: Images per inference.
        device: Where both sides run: here, or in pairs inside one agent there. Models are exported on this machine.
        budget_s: Wall-clock seconds per comparison.
        rules: Floor, margin, chance of a false alarm.
        workers: As in `CompareRequest`.
        base_python: Run the base under this interpreter.
        latency: Also measure the candidate's latency, in separate runs; a budget on latency measures it in any case.
        plan: As in `CompareRequest`.
        inconclusive: ``code`` (exit 3), ``pass`` or ``fail``.
        weights: A .safetensors file for both sides.
        seed: Of untrained weights.
        order_seed: Of the order of sides; None draws one.
        images: A folder of images that both sides are calibrated with in int8 and a16w8, or ``synthetic``.
        allow_fallback: Accept operators that another unit takes over, and record them.
        always_time: Time both sides even if they are identical; None means the value in ``effbench.toml``, else not.
        path: Further folders of the tree that hold modules, beside ``src`` and the tree itself.
        record: Write the exchange with the device to this file.
        force: As in `CompareRequest`.
        folder: The current folder; ``effbench.toml`` is read from it.
        out: The folder to write below (`store.home`).
        notify: Called with one line per step.

    Raises:
        UsageError: A field has an invalid value.
    """

    models: Sequence[str] = ()
    _: KW_ONLY
    base: str | None = None
    baseline: str | None = None
    resolutions: Sequence[Resolution] = ()
    targets: Sequence[str] = ()
    precisions: Sequence[str] = ()
    threads: int | None = None
    batch: int | None = None
    device: str | None = None
    budget_s: float | None = None
    rules: Rules | None = None
    workers: int | None = None
    base_python: str | None = None
    latency: bool = False
    plan: bool = False
    inconclusive: str | None = None
    weights: str | None = None
    seed: int | None = None
    order_seed: int | None = None
    images: str | Path | None = None
    allow_fallback: bool | None = None
    always_time: bool | None = None
    path: Sequence[str] = ()
    record: str | Path | None = None
    force: bool = False
    folder: str | Path = "."
    out: str | Path | None = None
    notify: Notify = silent

    def __post_init__(self) -> None:
        if self.inconclusive is not None:
            check_inconclusive(self.inconclusive)
        check_positive(budget=self.budget_s, threads=self.threads, batch=self.batch)
        check_precisions(self.precisions)


@dataclass(frozen=True)
class NoiseRequest:
    """The model that a machine's noise is measured with, and how.

    Attributes:
        model: A registered name, an .onnx file, or ``package.module:factory``.
        resolution: Pixels.
        target: The runtime.
        threads: Intra-operator threads; the result holds for this number only.
        device: Where to run; this machine is the only one that is supported.
        budget_s: The time budget that the detectable slowdown is stated for.
        minutes: How long to run.
        rules: Floor, margin, chance of a false alarm.
        out: The folder to write below (`store.home`).
        notify: Called with one line per step.

    Raises:
        UsageError: A field has an invalid value.
    """

    model: str = "regla_m"
    _: KW_ONLY
    resolution: Resolution = DEFAULT_RESOLUTION
    target: str = "ort"
    threads: int = 1
    device: str = "local"
    budget_s: float = BUDGET_S
    minutes: float = 5.0
    rules: Rules | None = None
    out: str | Path | None = None
    notify: Notify = silent

    def __post_init__(self) -> None:
        check_positive(budget=self.budget_s, threads=self.threads, minutes=self.minutes)


def check_inconclusive(value: str) -> None:
    """Refuse an unknown meaning of an inconclusive verdict.

    Raises:
        UsageError: The valid values are listed.
    """
    if value not in WHEN_INCONCLUSIVE:
        raise unknown_name(value, WHEN_INCONCLUSIVE, "value of --inconclusive")


def check_positive(**values: float | None) -> None:
    """Refuse a number that is not above zero; None is left alone.

    Raises:
        UsageError: It names the option.
    """
    for name, value in values.items():
        if value is not None and not value > 0:
            raise UsageError(f"--{name} {value:g} is not above zero.")
