"""Predictions of an artifact on a data set, from which accuracy and agreement are computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from effbench.errors import DataError
from effbench.schema.artifact import Subject
from effbench.schema.model import Preprocessing


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
