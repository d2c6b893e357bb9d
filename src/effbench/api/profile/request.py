"""What one profile is asked to do: the record that the Python function and the command line share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from effbench.api.export.stage import Notify, silent
from effbench.api.profile.clocks import Ask
from effbench.errors import UsageError
from effbench.schema import InputShapes, Measurement, Resolution

ROUNDS = 10
"""Enough for an interval whose unit is the round (six are the least) with some to spare."""
BUDGET_S = 20.0

Keep = Callable[[Measurement], None]


@dataclass(frozen=True)
class ProfileRequest:
    """What to measure, where, and under which protocol.

    Attributes:
        names: Models (exported first where needed), or artifacts. None means every artifact exported so far; with no
            artifact at all, `select.DEFAULT_MODEL` for the targets at hand.
        resolutions: Pixels; none means 224 for models, and for artifacts the size they were exported at.
        targets: None means those at hand.
        threads: Intra-operator threads of the runtime; None means the device's setting, or 1.
        batch: Images per inference, or several such numbers, which are measured beside each other; None means the
            artifacts' own, and 1 for models and artifacts of an open batch.
        device: A name that `effbench devices` lists, or a device file; ``local`` is this machine.
        budget_s: Wall-clock seconds per artifact, start-up of the processes included.
        rounds: Fresh processes per artifact; fewer than 6 give no interval. None means `ROUNDS`, or one long round
            with ``minutes``.
        rate_hz: Inferences a second, at the pace of a camera; None means back to back.
        minutes: How long each round lasts, regardless of the budget; None means as long as the budget allows.
        cool_down: Wait before each round until the temperature is back where it was before the first.
        precision: Of models that are exported; None takes each target's default.
        images: A folder for models that are exported in int8 or a16w8, as for `export`.
        weights: A .safetensors file for models that are exported.
        seed: Of untrained weights.
        record: Write the exchange with the device to this file, for the transport ``replay``.
        keep: Where each round goes as it ends; None means the store of the folder.
        force: Measure artifacts that failed verification, and machines that contradict the device, too; both are
            marked in every table.
        lock_clocks: Lock the device's clocks if this agrees to the changes that it is shown; None locks none.
        out: The folder to write below.
        notify: Called with one line per step.

    Raises:
        UsageError: A number is not above zero.
    """

    names: Sequence[str] = ()
    resolutions: Sequence[Resolution] = ()
    _: KW_ONLY
    targets: Sequence[str] = ()
    threads: int | None = None
    batch: int | Sequence[int] | None = None
    device: str = "local"
    budget_s: float = BUDGET_S
    rounds: int | None = None
    rate_hz: float | None = None
    minutes: float | None = None
    cool_down: bool = False
    precision: str | None = None
    images: str | Path | None = None
    weights: str | None = None
    seed: int = 0
    record: str | Path | None = None
    keep: Keep | None = None
    force: bool = False
    lock_clocks: Ask | None = None
    out: str | Path | None = None
    notify: Notify = silent

    def __post_init__(self) -> None:
        numbers = [("threads", self.threads), ("rounds", self.rounds), *(("batch", batch) for batch in self.batches)]
        for name, value in numbers:
            if value is not None and value < 1:
                raise UsageError(f"--{name} {value} is too few.", hint="Give 1 or more.")
        if self.budget_s <= 0:
            raise UsageError(
                f"--budget {self.budget_s:g} s leaves no time to measure.", hint="Give seconds above zero."
            )

    @property
    def batches(self) -> list[int | None]:
        """The batches to measure; None stands for the artifacts' own."""
        if self.batch is None or isinstance(self.batch, int):
            return [self.batch]
        return list(dict.fromkeys(self.batch)) or [None]

    @property
    def shapes(self) -> list[InputShapes]:
        """The resolutions, parsed."""
        return [InputShapes.parse(text) for text in self.resolutions]
