"""What one training is asked to do: the record that the Python function and the command line share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

from effbench.api.export.stage import Notify, silent
from effbench.schema import DEFAULT_RESOLUTION, InputShapes, Resolution
from effbench.training.recipe import Recipe


@dataclass(frozen=True)
class DistillRequest:
    """Which student to train, on what, and how.

    Attributes:
        student: A registered name, or ``package.module:factory``.
        data: Images (`effbench.data.open_dataset`), with or without labels; of a folder with ``train`` in it, those.
        teachers: ``MODEL`` or ``MODEL@FILE.safetensors`` each; none means plain training from labels.
        resolution: Of the student's images.
        recipe: Everything else that decides the weights.
        validation: Labelled images for an accuracy at the end; None means ``val`` beside ``train``, if it exists.
        classes: The classes in the order of the student's outputs (`open_dataset`).
        weights: A .safetensors file to start from.
        workers: Processes that decode images.
        threads: Of torch; None leaves its default.
        out: The folder to write below (`store.home`).
        notify: Called with a line now and then.
    """

    student: str
    data: str | Path
    teachers: Sequence[str] = ()
    _: KW_ONLY
    resolution: Resolution = DEFAULT_RESOLUTION
    recipe: Recipe = field(default_factory=Recipe)
    validation: str | Path | None = None
    classes: str | Path | None = None
    weights: str | None = None
    workers: int = 0
    threads: int | None = None
    out: str | Path | None = None
    notify: Notify = silent

    @property
    def shapes(self) -> InputShapes:
        """The resolution, parsed."""
        return InputShapes.parse(self.resolution)
