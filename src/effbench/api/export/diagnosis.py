"""Numerics: does a model hold in half precision, and which operators have to stay in fp32?"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from effbench.api.export import stage
from effbench.api.export.run import fp32_graph
from effbench.api.export.source import resolve
from effbench.api.export.stage import EXPORT_WORKER, STAGE_LIMIT_S, Limits, Notify, silent
from effbench.api.keywords import from_fields
from effbench.codec import from_json
from effbench.errors import UsageError
from effbench.schema import Resolution
from effbench.store import home as home_of

if TYPE_CHECKING:
    from effbench.deploy.precision.diagnose import NumericsReport

IMAGES = 3
"""The default number of images; each is run some dozens of times."""


@dataclass(frozen=True)
class NumericsRequest:
    """Which model's graph to examine in half precision, and on what.

    Attributes:
        model: A registered name, a path to an .onnx file, or ``package.module:factory``.
        resolution: Pixels, or height x width.
        precision: ``fp16``.
        images: A folder of images; None or ``synthetic`` takes synthetic ones of natural statistics.
        max_images: How many are examined, two or more.
        weights: A .safetensors file; without it the model is untrained, from ``seed``.
        seed: Of untrained weights.
        out: The folder to write below.
        time_limit_s: For each stage.
        notify: Called with one line per step.

    Raises:
        UsageError: Another precision, or fewer than two images.
    """

    model: str
    resolution: Resolution | None = None
    _: KW_ONLY
    precision: str = "fp16"
    images: str | Path | None = None
    max_images: int = IMAGES
    weights: str | None = None
    seed: int = 0
    out: str | Path | None = None
    time_limit_s: float = STAGE_LIMIT_S
    notify: Notify = silent

    def __post_init__(self) -> None:
        if self.precision != "fp16":
            raise UsageError(f"Precision '{self.precision}' has no range to examine.", hint="numerics examines fp16.")
        if self.max_images < 2:
            raise UsageError("Numerics needs at least two images: errors are judged by the spread between them.")


@from_fields(NumericsRequest)
def numerics(request: NumericsRequest) -> NumericsReport:
    """Examine a model's graph in simulated half precision.

    Arguments are the fields of `NumericsRequest`.

    Raises:
        ConversionError: The interpreter lacks an operator of the graph.
    """
    from effbench.deploy.precision.calibration import SYNTHETIC
    from effbench.deploy.precision.diagnose import NumericsReport

    home, limits, precision = home_of(request.out), Limits.of(request.time_limit_s), request.precision
    source = resolve(request.model, request.weights, request.seed)
    graph = fp32_graph(source, request.resolution, home, limits, request.notify)
    synthetic = request.images is None or str(request.images) == SYNTHETIC
    job = {
        "op": "numerics",
        "graph": str(graph.folder),
        "precision": precision,
        "images": "" if synthetic else str(Path(str(request.images)).resolve()),
        "count": request.max_images,
    }
    request.notify(f"examine {graph.name} in {precision}")
    (answer,) = stage.run(EXPORT_WORKER, job, limits, home, graph.name)
    return from_json(NumericsReport, answer["report"], "the child's answer")
