"""The records that effbench writes, reads and shows; frozen, JSON in and out, units in the names.

Only the standard library is imported here: these records travel to devices.
"""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effbench.errors import DataError, UsageError

FORMAT_VERSION = 1
"""Written into every manifest and measurement; a reader refuses a newer one."""

PRECISIONS = ("fp32", "fp16", "int8", "a16w8")
CALIBRATED = ("int8", "a16w8")
"""Precisions that need images to calibrate with."""
LATENCY_ONLY = "latency only: calibrated with synthetic images, so it has no accuracy"
"""The note of an artifact that has a latency and nothing else; it travels into measurements and reports."""
WEIGHT_KINDS = ("untrained", "file", "pretrained")


@dataclass(frozen=True)
class Preprocessing:
    """How an encoded image becomes the input tensor; belongs to the model and is the same on every target."""

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    scale: float = 1 / 255
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    channel_order: str = "RGB"
    layout: str = "NCHW"


@dataclass(frozen=True)
class Backbone:
    """A model that effbench knows by name.

    ``factory`` is an import string (``package.module:callable``), so that a list of models needs no torch. ``counts``
    holds what is counted from the code: ``params``, ``macs_224``, ``macs_512``, ``receptive_field_px``; ``stages`` the
    channels and the stride of each feature map.
    ``published`` is the model's name in the tables of published results, or None.
    """

    name: str
    family: str
    factory: str
    published: str | None = None
    reconstruction: str | None = None
    mixer: str = ""
    mixer_order: str = ""
    in_channels: int = 3
    resolutions: tuple[int, ...] = (224, 512)
    stride: int = 32
    min_resolution: int = 32
    fixed_resolution: int | None = None
    preprocessing: Preprocessing = Preprocessing()
    counts: dict[str, int] = field(default_factory=dict)
    stages: tuple[tuple[int, int], ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Weights:
    """Where weights came from: ``untrained`` (a seed), ``file`` (its SHA-256) or ``pretrained`` (a name)."""

    kind: str = "untrained"
    seed: int | None = 0
    source: str | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in WEIGHT_KINDS:
            raise DataError(f"Weights of kind '{self.kind}'; one of {', '.join(WEIGHT_KINDS)} is meant.")


@dataclass(frozen=True)
class TensorSpec:
    """Name, numpy dtype name and shape of one input or output; a dimension that may vary is None."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class FileInfo:
    """Content hash and size of one file of an artifact."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Stage:
    """One step of an export: its name, wall time and outcome."""

    name: str
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class Fidelity:
    """How far outputs are from the reference; errors are relative to the spread of outputs between inputs.

    ``reference`` names the engine that computed the expected outputs; ``limits`` holds the bounds that decided.
    """

    passed: bool
    reference: str
    inputs: int
    max_error: float
    p99_error: float
    cosine: float
    top1_agreement: float
    finite: bool
    repeatable: bool
    limits: dict[str, float]
    reasons: tuple[str, ...] = ()
    engine: str = ""
    """What ran the artifact; a simulator is named as one."""
    snr_db: float | None = None
    """Signal to noise over the natural images, their mean taken off; for int8 the signal to quantization noise."""
    prepared_levels: float | None = None
    """How far the input made of an encoded image lies from the reference path's, in levels of 255; None where
    nothing can decode it."""


@dataclass(frozen=True)
class Subject:
    """What is measured and shown of an artifact: enough for a table when the artifact's folder is gone."""

    model: str
    family: str
    weights: Weights
    resolution: tuple[int, int]
    batch: int
    target: str
    storage_precision: str
    compute_precision: str | None = None
    published: str | None = None
    reconstruction: str | None = None
    params: int | None = None
    macs: int | None = None
    size_bytes: int = 0
    fidelity_passed: bool | None = None
    notes: tuple[str, ...] = ()

    @property
    def latency_only(self) -> bool:
        """Whether no accuracy may be stated for it, measured or borrowed."""
        return LATENCY_ONLY in self.notes


@dataclass(frozen=True)
class Artifact:
    """A folder with ``manifest.json``: what it is made from (key), what it consists of (digest), and what was checked.

    The ONNX graph is an artifact whose target is ``onnx``; every other target translates that one.
    """

    folder: Path
    key: str
    digest: str
    subject: Subject
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    files: dict[str, FileInfo]
    entry: str
    preprocessing: Preprocessing = Preprocessing()
    options: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    graph_digest: str | None = None
    calibration: str | None = None
    fidelity: Fidelity | None = None
    placement: dict[str, Any] = field(default_factory=dict)
    stages: tuple[Stage, ...] = ()

    @property
    def path(self) -> Path:
        """The file that a runtime opens."""
        return self.folder / self.entry

    @property
    def name(self) -> str:
        """The folder's name, which is what a user types."""
        return self.folder.name


EVIDENCE = ("run on hardware", "emulated", "replayed from a recording", "written from documentation")
"""How far a device class was tried; the last never counts as tested."""


@dataclass(frozen=True)
class Fact:
    """A declared fact of a device and where it stands; ``note`` says how it is counted (dense, sparse, boost)."""

    value: Any
    source: str
    note: str = ""


@dataclass(frozen=True)
class Device:
    """Declared facts of a machine; what was observed belongs to a `Measurement`.

    ``targets`` are those that apply, the preferred first; ``precisions`` and ``options`` say, per target, what
    ``export --device`` takes instead of the target's defaults. ``connection`` says where it is and belongs to the user
    (`effbench.toml`); ``settings`` are those of a measurement. Names of ``facts`` carry their units.
    """

    name: str
    kind: str
    description: str
    transport: str
    targets: tuple[str, ...]
    soc: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Fact] = field(default_factory=dict)
    evidence: str = "written from documentation"
    source: str = ""
    connection: dict[str, Any] = field(default_factory=dict)
    precisions: dict[str, str] = field(default_factory=dict)
    options: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.evidence not in EVIDENCE:
            raise DataError(f"Evidence '{self.evidence}'; one of {', '.join(EVIDENCE)} is meant.")
        for name, precision in self.precisions.items():
            if precision not in PRECISIONS:
                raise DataError(f"Precision '{precision}' of target {name}; one of {', '.join(PRECISIONS)} is meant.")


@dataclass(frozen=True)
class Round:
    """One fresh process: its raw samples in nanoseconds, in order, and what was seen while it ran.

    ``observed`` holds plain numbers (other_cpu_pct, steal_pct, involuntary_switches, cpu_mhz, ...); a key that the
    machine cannot tell is absent. ``trace`` holds series of one length along a sustained round: ``time_s``, ``samples``
    (how many there were by then), ``cpu_mhz``, ``temperature_c``.
    """

    samples_ns: tuple[int, ...]
    warmup: int
    stationary: bool
    load_ms: float
    first_ms: float
    peak_rss_bytes: int
    observed: dict[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    trace: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.samples_ns:
            raise DataError("A round holds no samples.")
        if min(self.samples_ns) <= 0:
            raise DataError(f"A round holds a sample of {min(self.samples_ns)} ns; a latency is above zero.")


@dataclass(frozen=True)
class Samples:
    """Rounds of one artifact under one protocol (``back-to-back``, ``paced 30/s``, ``sustained 10 min``).

    ``scope`` is ``end-to-end`` (host arrays in, host arrays out) or ``device-only``; the two are never ranked together.
    ``aggregate`` names the statistic of a tool that gave no raw times (``median of 30 runs``); each round then holds
    that one figure.
    """

    rounds: tuple[Round, ...]
    protocol: str = "back-to-back"
    scope: str = "end-to-end"
    aggregate: str = ""

    def __post_init__(self) -> None:
        if not self.rounds:
            raise DataError("A measurement holds no rounds.")
        if self.scope not in ("end-to-end", "device-only"):
            raise DataError(f"Scope '{self.scope}' is neither end-to-end nor device-only.")


@dataclass(frozen=True)
class Measurement:
    """Samples tied to the digest of an artifact and to the observed state of a device.

    The store keeps one JSON line per round, so that a kill loses the round in flight and no more; lines of one ``run``
    are read back as one measurement.

    Two measurements may be compared only where `must_match` agrees.
    """

    digest: str
    subject: Subject
    device: str
    settings: dict[str, str]
    samples: Samples
    before: dict[str, Any]
    after: dict[str, Any]
    time: str
    run: str = ""
    placement: dict[str, Any] = field(default_factory=dict)
    origin: str = "measured"
    notes: tuple[str, ...] = ()

    MUST_MATCH: typing.ClassVar[tuple[str, ...]] = (
        "cpu_model",
        "machine",
        "governor",
        "cgroup_cpus",
        "cgroup_memory_bytes",
        "power_mode",
        "power_source",
        "thermal_status",
        "runtime",
    )

    def must_match(self) -> dict[str, Any]:
        """Return the keys that have to agree before this measurement may be compared with another."""
        state = {key: self.before.get(key) for key in self.MUST_MATCH}
        return {
            "device": self.device,
            **self.settings,
            "protocol": self.samples.protocol,
            "scope": self.samples.scope,
            **state,
        }


@dataclass(frozen=True)
class DataInfo:
    """Encoded images that something was evaluated on; ``sha256`` hashes their names, labels and contents."""

    name: str
    sha256: str
    images: int
    layout: str = ""


@dataclass(frozen=True)
class Predictions:
    """What a classifier said of some images: one entry an image, in the order in which they were taken.

    ``images`` holds places in the data set; ``top1`` the class said; ``ranks`` how many classes stood above the
    label (0 is right, below 5 is right among five); ``log_likelihoods`` ln p(label). ``labels`` and ``ranks`` are -1
    and ``log_likelihoods`` 0 where there is no label. ``confidences`` holds p(top1), and ``margins`` the distance of
    the two best logits, in nats: how near the answer was to another.
    """

    images: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    top1: tuple[int, ...] = ()
    ranks: tuple[int, ...] = ()
    log_likelihoods: tuple[float, ...] = ()
    confidences: tuple[float, ...] = ()
    margins: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        lengths = {len(value) for value in vars(self).values()}
        if len(lengths) > 1:
            raise DataError("Predictions hold lists of different lengths.")

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Evaluation:
    """Predictions of the files of one digest on one data set, decoded and cut as ``preprocessing`` says.

    The store keeps one JSON line per second of work, so that a kill loses that second; lines that agree in what
    `identity` names are read back as one evaluation, each image counted once. ``engine`` names what ran the files, a
    simulator as one. ``classes`` is the number of outputs. ``as_declared`` is False where another preprocessing than
    the artifact's own was tried: that is no accuracy of the artifact.
    """

    digest: str
    subject: Subject
    data: DataInfo
    preprocessing: Preprocessing
    engine: str
    simulated: bool
    classes: int
    predictions: Predictions
    time: str
    seconds: float
    as_declared: bool = True

    def identity(self) -> tuple[Any, ...]:
        """Return what makes two lines parts of one evaluation."""
        return (self.digest, self.data.sha256, self.preprocessing, self.engine)


@dataclass(frozen=True)
class Row:
    """One line of a table or one point of a plot; measured, published and predicted rows differ in ``source``.

    ``machine`` says on what the device's name stood at that time: rows are ranked only where it agrees.
    ``accuracy_status`` is measured, published or implied; ``accuracy_px`` the image size it was taken at;
    ``accuracy_data`` names the data set of an accuracy measured here; only equal ones are ranked.
    ``accuracy_digest`` is the digest that was evaluated, where it was measured: a row whose latency has another mixes
    two artifacts, and is refused. ``citations`` are the keys of the papers that published figures of the row come from.
    ``aggregate`` is that of `Samples`; ``p50_ms`` then holds the tool's statistic.
    """

    device: str
    resolution: tuple[int, int]
    model: str
    source: str
    target: str = ""
    storage_precision: str = ""
    compute_precision: str = ""
    weights: str = ""
    batch: int = 1
    threads: int | None = None
    scope: str = "end-to-end"
    p50_ms: float | None = None
    p50_interval_ms: tuple[float, float] | None = None
    p90_ms: float | None = None
    p90_interval_ms: tuple[float, float] | None = None
    p99_ms: float | None = None
    images_per_s: float | None = None
    first_ms: float | None = None
    load_ms: float | None = None
    peak_rss_bytes: int | None = None
    accuracy: float | None = None
    accuracy_metric: str = ""
    accuracy_source: str = ""
    accuracy_interval: tuple[float, float] | None = None
    accuracy_digest: str = ""
    accuracy_data: str = ""
    borrowed: bool = False
    params: int | None = None
    macs: int | None = None
    size_bytes: int | None = None
    trust: str = ""
    trust_reasons: tuple[str, ...] = ()
    digest: str = ""
    on_front: bool = False
    machine: str = ""
    system: str = ""
    runtime: str = ""
    settings: str = ""
    protocol: str = "back-to-back"
    aggregate: str = ""
    rounds: int | None = None
    samples: int | None = None
    family: str = ""
    reconstruction: str | None = None
    fidelity_passed: bool | None = None
    accuracy_status: str = ""
    accuracy_px: int | None = None
    citations: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.accuracy_digest and self.accuracy_digest != self.digest:
            raise DataError(
                f"{self.model}: the accuracy is of {self.accuracy_digest[:12]}, the latency of {self.digest[:12]}; "
                "one row shows one artifact."
            )

    @property
    def precision(self) -> str:
        """Storage and compute precision as one text: ``fp16/fp32``; empty where nothing was measured."""
        return f"{self.storage_precision}/{self.compute_precision}" if self.storage_precision else ""


STATUSES = ("ok", "failed", "unsupported", "unavailable")


@dataclass(frozen=True)
class Cell:
    """How one cell of model x resolution x precision x target ended; nothing is left blank.

    ``status`` is ok, failed, unsupported or unavailable; every status but ok has a reason and a next step.
    ``cause`` tells a crash and the limits of time and memory apart; ``record`` is the folder of the failure's log;
    ``exit_code`` is what a command that did only this cell ends with.
    """

    model: str
    resolution: tuple[int, int]
    precision: str
    target: str
    status: str
    reason: str = ""
    next_step: str = ""
    exit_code: int = 0
    artifact: str = ""
    digest: str = ""
    cached: bool = False
    seconds: float = 0.0
    fidelity: Fidelity | None = None
    notes: tuple[str, ...] = ()
    cause: str = ""
    record: str = ""
    placement: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The status with its cause: ``failed: time limit``."""
        return f"{self.status}: {self.cause}" if self.cause else self.status

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise DataError(f"Status '{self.status}'; one of {', '.join(STATUSES)} is meant.")
        if self.status != "ok" and not self.reason:
            raise DataError(f"A cell that is {self.status} needs a reason.")


def parse_resolution(text: str | int) -> tuple[int, int]:
    """Read ``512`` or ``384x640`` as (height, width) in pixels.

    Raises:
        UsageError: It is neither, or a side is not positive.
    """
    parts = str(text).lower().split("x")
    if len(parts) in (1, 2) and all(part.isdecimal() and int(part) > 0 for part in parts):
        return (int(parts[0]), int(parts[-1]))
    raise UsageError(
        f"Resolution '{text}' is not a size in pixels.", hint="Write it like 512, or 384x640 for height x width."
    )


def resolution_text(resolution: tuple[int, int]) -> str:
    """Return ``512`` for a square, else ``384x640``; the inverse of `parse_resolution`."""
    height, width = resolution
    return str(height) if height == width else f"{height}x{width}"


def finite(value: float | None) -> float | None:
    """Return the value, or None where it is NaN or infinite: JSON has no words for those."""
    return value if value is not None and math.isfinite(value) else None
