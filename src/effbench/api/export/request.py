"""What one export is asked to do: the record that the Python function, the command line and jobs share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

from effbench.api.export import failures
from effbench.api.export.declarations import Declarations
from effbench.api.export.stage import STAGE_LIMIT_S, Notify, silent
from effbench.deploy.artifact import kinds
from effbench.errors import UsageError, unknown_name
from effbench.schema import PRECISIONS, Device, InputShapes, Resolution


@dataclass(frozen=True)
class ExportRequest:
    """Which artifacts to make of a model, and how.

    Attributes:
        model: A registered name, a path to an .onnx file, or ``package.module:factory``.
        targets: Names; none means every target that runs on this machine.
        resolutions: Pixels (``512``) or height x width (``384x640``); none means the size that an .onnx file fixes,
            else 224.
        precision: Written into the graph; None takes each target's default.
        images: A folder of images that int8 and a16w8 are calibrated with, or ``synthetic``: latency only.
        batch: Fixed batch size; None means the one that an .onnx file fixes, else 1.
        dynamic_batch: Leave the batch open instead.
        weights: A .safetensors file; without it the model is untrained, from ``seed``.
        seed: Of untrained weights.
        options: What the targets accept as ``--set key=value``.
        device: Its profile picks targets, precisions and options where the fields above leave them open.
        verify: Compare with the reference and record the result.
        out: The folder to write below (`store.home`).
        allow_fallback: Accept operators that another unit takes over, and record them.
        time_limit_s: For each stage.
        cell_limit_s: For all stages of this call together; None sets none.
        memory_limit_bytes: For each stage; None takes four fifths of the machine's memory.
        output_kinds: What outputs hold, by name, where the guess is wrong (`deploy.artifact.kinds`).
        input_roles: What inputs are fed with, by name, where the guess is wrong (`schema.ROLES`).
        input_shapes: Shapes of inputs, by name; for one input of an .onnx file, and in place of a resolution.
        inputs: A .npz file with samples of some inputs, in place of synthetic ones.
        vocabulary: How many tokens there are, where the graph does not say it.
        declarations: What the project declares of the model; None reads ``effbench.toml`` in the current folder.
        reduce_s: How long to look for a smaller graph that fails in the same way; 0 looks for none.
        notify: Called with one line per step.

    Raises:
        UsageError: A field has an invalid value.
    """

    model: str
    targets: Sequence[str] = ()
    resolutions: Sequence[Resolution] = ()
    _: KW_ONLY
    precision: str | None = None
    images: str | Path | None = None
    batch: int | None = None
    dynamic_batch: bool = False
    weights: str | None = None
    seed: int = 0
    options: Mapping[str, str] = field(default_factory=dict)
    device: str | Device | None = None
    verify: bool = True
    out: str | Path | None = None
    allow_fallback: bool = False
    time_limit_s: float = STAGE_LIMIT_S
    cell_limit_s: float | None = None
    memory_limit_bytes: int | None = None
    output_kinds: Mapping[str, str] = field(default_factory=dict)
    input_roles: Mapping[str, str] = field(default_factory=dict)
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    inputs: str | Path | None = None
    vocabulary: int | None = None
    declarations: Declarations | None = None
    reduce_s: float = failures.REDUCE_S
    notify: Notify = silent

    def __post_init__(self) -> None:
        check_precisions(() if self.precision is None else (self.precision,))
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"Batch {self.batch} is not a number of images.", hint="Give 1 or more.")

        for kind in self.output_kinds.values():
            kinds.checked(kind)
        object.__setattr__(self, "resolutions", tuple(map(InputShapes.parse, self.resolutions)))

    @property
    def shapes(self) -> list[InputShapes]:
        """The resolutions, parsed."""
        return [InputShapes.parse(text) for text in self.resolutions]


def check_precisions(names: Iterable[str]) -> None:
    """Refuse an unknown precision.

    Raises:
        UsageError: The valid names are listed.
    """
    for name in names:
        if name not in PRECISIONS:
            raise unknown_name(name, PRECISIONS, "precision")
