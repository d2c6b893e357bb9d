"""What one evaluation is asked to do: the record that the Python function and the command line share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from effbench.api.export.stage import Notify, silent
from effbench.errors import UsageError
from effbench.schema import DEFAULT_THREADS, Resolution


@dataclass(frozen=True)
class EvaluateRequest:
    """Which artifacts to evaluate on which labelled images, and how.

    Attributes:
        names: Artifacts, or models (exported first where needed). None means every artifact exported so far.
        data: A folder, a list or shards (`effbench.data.open_dataset`).
        targets: For models; none means those at hand.
        resolutions: For models; none means 224.
        classes: The classes in the order of the outputs, or a file that lists them.
        max_images: At most this many images, drawn with a fixed seed; a larger number takes the same ones and more.
        precision: For models; None takes each target's default.
        weights: For models, a .safetensors file.
        seed: Of untrained weights.
        threads: Of the runtime.
        batch: Images per inference; None takes that of the artifact.
        workers: Threads that decode; None takes the cores that the runtime leaves.
        reference: Evaluate the fp32 reference too, once per model and data set, and compare with it.
        check_preprocessing: Try common alternatives on a few labelled images, once per model.
        device: Where artifacts run; images are decoded here, and the reference runs here.
        out: The folder to write below.
        notify: Called with one line per step.

    Raises:
        UsageError: ``max_images`` is not above zero.
    """

    names: Sequence[str]
    data: str | Path
    _: KW_ONLY
    targets: Sequence[str] = ()
    resolutions: Sequence[Resolution] = ()
    classes: str | Path | Sequence[str] | None = None
    max_images: int | None = None
    precision: str | None = None
    weights: str | None = None
    seed: int = 0
    threads: int = DEFAULT_THREADS
    batch: int | None = None
    workers: int | None = None
    reference: bool = True
    check_preprocessing: bool = True
    device: str = "local"
    out: str | Path | None = None
    notify: Notify = silent

    def __post_init__(self) -> None:
        if self.max_images is not None and self.max_images < 1:
            raise UsageError(f"--max-images {self.max_images} is too few.", hint="Give 1 or more.")
