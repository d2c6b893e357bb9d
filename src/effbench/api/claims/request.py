"""The arguments of `claims` and `scaling`: the records that the Python functions and the command line share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from effbench.api.claims.campaign import PASSES
from effbench.api.export.run import check_target
from effbench.api.export.stage import Notify, silent
from effbench.errors import UsageError

RANGE = "224..1024"


@dataclass(frozen=True)
class ClaimsRequest:
    """Which claims to test, and how.

    Attributes:
        names: Of claims; none means all.
        targets: Where to measure; none means ONNX Runtime and OpenVINO, as far as they are installed.
        threads: Of the runtimes.
        passes: Fresh processes per artifact, and rounds per pair; fewer than 6 give no verdict.
        minutes: Stop measuring after this time, exports not counted; the next call continues from the store.
        page: The Markdown file to write; None means ``claims.md`` below the output folder. Plots go to ``img`` beside.
        out: The folder to write below (`store.home`).
        notify: Called with one line per step.

    Raises:
        UsageError: A field has an invalid value.
    """

    names: Sequence[str] = ()
    _: KW_ONLY
    targets: Sequence[str] = ()
    threads: int = 1
    passes: int = PASSES
    minutes: float | None = None
    page: str | Path | None = None
    out: str | Path | None = None
    notify: Notify = silent

    def __post_init__(self) -> None:
        _check(self.targets, threads=self.threads, passes=self.passes)


@dataclass(frozen=True)
class ScalingRequest:
    """What to measure over resolution, and how.

    Attributes:
        names: Parts (`effbench.models.parts`), and models as `export` takes them.
        resolutions: Pixels, as a range ``128..1024`` or sizes with commas. A part runs on the feature map that an image
            of that size has at the part's stage.
        targets: Where to measure.
        threads: Of the runtime.
        passes: Fresh processes per size; fewer than 6 give no interval.
        minutes: Stop measuring after this time, exports not counted; the next call continues from the store.
        out: The folder to write below (`store.home`).
        plot: Draw both quantities on logarithmic axes.
        notify: Called with one line per step.

    Raises:
        UsageError: A field has an invalid value.
    """

    names: Sequence[str]
    resolutions: str = RANGE
    _: KW_ONLY
    targets: Sequence[str] = ("ort",)
    threads: int = 1
    passes: int = PASSES
    minutes: float | None = None
    out: str | Path | None = None
    plot: bool = True
    notify: Notify = silent

    def __post_init__(self) -> None:
        _check(self.targets, threads=self.threads, passes=self.passes)


def _check(targets: Sequence[str], **counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise UsageError(f"--{name} {count} is too few.", hint="Give 1 or more; 6 passes give an interval.")
    for target in targets:
        check_target(target, {})
