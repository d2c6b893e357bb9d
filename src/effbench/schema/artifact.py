"""What an export makes: the artifact, its tensors and files, and the proof that it is still the same model."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from effbench.boundary.names import check_name, check_relative
from effbench.errors import DataError, UsageError
from effbench.schema.model import Preprocessing, Weights
from effbench.schema.shapes import InputShapes
from effbench.schema.signature import InputSpec, TensorSpec

LATENCY_ONLY = "latency only: calibrated with synthetic images, so it has no accuracy"
"""How `Subject.latency_only` reads in tables."""


class Proof(str, Enum):
    """What ran an artifact or a graph when its outputs were compared with the reference."""

    RUNTIME = "runtime"
    """The runtime that the artifact is for."""
    SIMULATOR = "simulator"
    """The vendor's simulator of the device."""
    EVALUATOR = "evaluator"
    """An evaluator of the saved file that is part of effbench."""
    SECOND_ENGINE = "second engine"
    """For a graph: an engine whose code is not that of the reference."""

    def __str__(self) -> str:
        return self.value


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
class OutputFidelity:
    """How one output was judged; errors are relative to its scale, which is the spread between images.

    Attributes:
        name: The output's.
        kind: What it holds, which decides how it is judged (`deploy.artifact.kinds`).
        max_error: At the element that is furthest above its limit.
        p99_error: The 99th percentile over all elements.
        cosine: Of the directions from the mean; the worst image.
        top1_agreement: The share of equal labels.
        spread: Relative to the largest value.
        snr_db: Signal to noise over the natural images, their mean subtracted.
        limit: Of ``max_error`` in fp32, or of ``mismatches``.
        rounding: The model's own there, fp32 against float64.
        mismatches: The share of integers, labels or booleans that differ; None for other outputs.
    """

    name: str
    kind: str
    max_error: float
    p99_error: float
    cosine: float
    top1_agreement: float
    spread: float
    snr_db: float
    limit: float | None = None
    rounding: float | None = None
    mismatches: float | None = None


@dataclass(frozen=True)
class OperatorFault:
    """An operator of a quantized graph that quantization does not explain.

    Attributes:
        operator: Its name in the float graph.
        op: Its type.
        text: What differs.
        element: The index of the value that is furthest off, channel included.
        expected: That value in the float graph.
        observed: In the quantized graph.
        poor: Whether it may be a choice of the quantizer, which is poor but not wrong: a range that clips, weights that
            are moved further than to a neighboring level. It is reported; the outputs decide.
    """

    operator: str
    op: str
    text: str
    element: str = ""
    expected: float | None = None
    observed: float | None = None
    poor: bool = False

    def __str__(self) -> str:
        values = "" if self.expected is None else f": expected {self.expected:.6g}, observed {self.observed:.6g}"
        return f"{self.op} {self.operator}: {self.text}{f', element {self.element}' if self.element else ''}{values}"


@dataclass(frozen=True)
class Fidelity:
    """How far outputs are from the reference; errors are relative to the spread of outputs between inputs.

    ``reference`` names the engine that computed the expected outputs; ``inputs`` counts the images that were run;
    ``limits`` holds the bounds that decided.
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
    """What ran the artifact, as a user reads it."""
    proved_by: Proof = Proof.RUNTIME
    """Which kind of engine that was."""
    snr_db: float | None = None
    """Signal to noise over the natural images, their mean taken off; for int8 the signal to quantization noise."""
    prepared_levels: float | None = None
    """How far the input made of an encoded image lies from the reference path's, in levels of 255; None where
    nothing can decode it."""
    unverifiable: str = ""
    """Why no comparison can tell whether it is the same model; then it did not pass, and did not fail either."""
    images: str = ""
    """What the inputs were: the kinds of synthetic images, or the user's folder and its hash."""
    outputs: tuple[str, ...] = ()
    """The outputs that were compared, by the model's names."""
    rounding: dict[str, float] = field(default_factory=dict)
    """The model's own rounding: the largest error in fp32 against float64, by output, of the spread. Without an entry
    it is unknown."""
    blind_to: tuple[str, ...] = ()
    """The kinds of faults that this check cannot see."""
    by_output: tuple[OutputFidelity, ...] = ()
    """The figures of each output; those above are the worst of them."""

    independent: bool = True
    """Whether the engine has other code than the one that computed the expected outputs."""
    paired: int = 0
    """How many tensors of the runtime were compared with its quantized graph, each on the runtime's own levels."""

    @property
    def failed(self) -> bool:
        """Whether it is shown to be another model."""
        return not self.passed and not self.unverifiable

    @property
    def proved(self) -> bool | None:
        """True if it passed, False if it failed, None if no comparison can tell."""
        return None if self.unverifiable else self.passed


@dataclass(frozen=True)
class Subject:
    """What is measured and shown of an artifact: enough for a table when the artifact's folder is gone."""

    model: str
    family: str
    weights: Weights
    shapes: InputShapes
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
    latency_only: bool = False
    """Whether no accuracy may be stated for it, measured or borrowed."""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("model", "family", "target", "storage_precision", "compute_precision", "published"):
            text = getattr(self, name)
            if text is not None and not text.isprintable():
                raise DataError(f"{text[:80]!r} cannot be the {name} of an artifact: it has control characters.")

    @property
    def resolution(self) -> tuple[int, int] | None:
        """Height and width of the image input, in pixels; None if there is none."""
        return self.shapes.image

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a table says beside its figures, most important first."""
        return (LATENCY_ONLY, *self.notes) if self.latency_only else self.notes


@dataclass(frozen=True)
class Artifact:
    """A folder with ``manifest.json``: what it is made from (key), what it consists of (digest), and what was checked.

    The ONNX graph is an artifact whose target is ``onnx``; every other target translates that one.
    """

    folder: Path
    key: str
    digest: str
    subject: Subject
    inputs: tuple[InputSpec, ...]
    outputs: tuple[TensorSpec, ...]
    files: dict[str, FileInfo]
    entry: str
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    options: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    graph_digest: str | None = None
    calibration: str | None = None
    graph_fidelity: Fidelity | None = None
    """The proof of the graph that it was made from; that of a graph itself is its ``fidelity``."""
    fidelity: Fidelity | None = None
    placement: dict[str, Any] = field(default_factory=dict)
    stages: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.subject.target, "the name of a target")
        for name in (self.entry, *self.files):
            check_relative(name, "a file of an artifact")

    @property
    def path(self) -> Path:
        """The file that a runtime opens."""
        return self.folder / self.entry

    @property
    def name(self) -> str:
        """The folder's name, which is what a user types."""
        return self.folder.name

    @property
    def fixed_batch(self) -> int | None:
        """How many images an inference takes; None if the batch is open."""
        sides = [spec.shape[spec.batch_axis] for spec in self.inputs if spec.batch_axis is not None]
        return self.subject.batch if None not in sides else None

    def image_input(self) -> InputSpec:
        """Return the image input of a model that takes one image and nothing else.

        Raises:
            UsageError: It takes something else.
        """
        if len(self.inputs) == 1 and self.inputs[0].role == "image":
            return self.inputs[0]
        text = "; ".join(map(str, self.inputs))
        raise UsageError(f"{self.name} takes more than one image: {text}.", hint="Only image models have an accuracy.")
