"""The arguments of `effbench kit`: the record that the Python function and the command line share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from effbench.api.export.stage import Notify, silent
from effbench.errors import UsageError
from effbench.schema import DEFAULT_THREADS, InputShapes, Resolution


@dataclass(frozen=True)
class KitRequest:
    """What a kit holds, for which device, and how its run script measures.

    Attributes:
        names: Models (exported first for the device's target), or artifacts.
        device: A name that `effbench devices` lists, or a device file.
        resolutions: Pixels, for models; none means 224.
        targets: None means the device's first.
        rounds: Fresh processes per artifact; fewer than 6 give no interval.
        budget_s: Seconds per artifact.
        threads: Of the runtime.
        precision: None takes the device's default for the target.
        to: The folder to write; None means ``kit-DEVICE`` in the current folder.
        out: The folder to export below.
        notify: Called with one line per step.

    Raises:
        UsageError: A number is not above zero.
    """

    names: Sequence[str]
    device: str
    resolutions: Sequence[Resolution] = ()
    _: KW_ONLY
    targets: Sequence[str] = ()
    rounds: int = 6
    budget_s: float = 20.0
    threads: int = DEFAULT_THREADS
    precision: str | None = None
    to: str | Path | None = None
    out: str | Path | None = None
    notify: Notify = silent

    def __post_init__(self) -> None:
        for name, value in (("rounds", self.rounds), ("budget", self.budget_s), ("threads", self.threads)):
            if value <= 0:
                raise UsageError(f"--{name} {value:g} is too few.", hint="Give a number above zero.")

    @property
    def shapes(self) -> list[InputShapes]:
        """The resolutions, parsed."""
        return [InputShapes.parse(text) for text in self.resolutions]


@dataclass(frozen=True)
class ImportRequest:
    """Which files of another tool, or results of kits, are stored, and as what.

    Attributes:
        files: Each is one round: one run of the tool in a fresh process; or the result of a kit.
        artifact: Which artifact was measured (a kit's result names it); its digest ties the figures to fidelity and
            accuracy.
        device: A name that `effbench devices` lists, or a device file.
        form: The format, one of `vendors.readers`; None recognizes it from the file.
        threads: Of the runtime, if the file does not state them.
        settings: Further conditions, shown with the figures (power mode, delegate).
        force: Keep a kit's result without a valid signature, or from another machine; every table marks it.
        out: The folder with the store.
    """

    files: Sequence[str | Path]
    artifact: str | None = None
    device: str | None = None
    _: KW_ONLY
    form: str | None = None
    threads: int | None = None
    settings: Mapping[str, str] | None = None
    force: bool = False
    out: str | Path | None = None
