"""What goes into a model: its inputs, what each is fed with, and what a user says of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from effbench.errors import UsageError, unknown_name
from effbench.schema.model import Preprocessing


@dataclass(frozen=True)
class TensorSpec:
    """Name, numpy dtype name and shape of one input or output; a dimension that may vary is None."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


ROLES: dict[str, str] = {
    "image": "image[:LAYOUT]: scenes, or the images of a folder; a layout is NCHW, NHWC, CHW, HWC, NHW or HW",
    "tokens": "tokens:N: integers from 0 to N - 1",
    "normal": "values with mean 0 and standard deviation 1",
    "uniform": "values between 0 and 1",
    "constant": "constant:VALUE",
    "size": "height and width of the image input",
}
"""What an input is fed with, and how a user writes it."""
LAYOUTS = ("NCHW", "NHWC", "CHW", "HWC", "NHW", "HW")


@dataclass(frozen=True)
class InputSpec(TensorSpec):
    """One input of a model, and what it is fed with.

    Attributes:
        role: One of `ROLES`.
        layout: The axes of an image, one letter each; without C it has one channel.
        batch_axis: The axis that counts the images of a batch; None if all of them share this input.
        vocabulary: How many tokens there are; None if nothing says it.
        value: Of a constant.
        sampled: Whether a check feeds it from the user's file of arrays, and not by its role.
    """

    role: str = "image"
    layout: str = "NCHW"
    batch_axis: int | None = 0
    vocabulary: int | None = None
    value: float = 0.0
    sampled: bool = False

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise unknown_name(self.role, ROLES, "role of an input")
        if self.role == "image" and (self.layout not in LAYOUTS or len(self.layout) != len(self.shape)):
            fits = [layout for layout in LAYOUTS if len(layout) == len(self.shape)]
            raise UsageError(
                f"Input '{self.name}' of shape {list(self.shape)} has no layout '{self.layout}'.",
                hint=f"Layouts of that rank: {', '.join(fits)}." if fits else "Only ranks 2 to 4 hold an image.",
            )

    @property
    def channels(self) -> int:
        """The channels of an image, 3 where they are open."""
        return (self.shape[self.layout.index("C")] or 3) if "C" in self.layout else 1

    @property
    def size(self) -> tuple[int | None, int | None]:
        """Height and width of an image, in pixels; None where they are open."""
        return self.shape[self.layout.index("H")], self.shape[self.layout.index("W")]

    def __str__(self) -> str:
        """Say what is fed, as a table prints it."""
        sides = "x".join("?" if side is None else str(side) for side in self.shape) or "scalar"
        detail = {
            "image": self.layout,
            "tokens": f"below {self.vocabulary}",
            "constant": f"{self.value:g}",
        }.get(self.role, "")
        return f"{self.name}: {self.dtype} {sides}, {f'{self.role} {detail}'.strip()}"


def image_of(inputs: Iterable[InputSpec]) -> InputSpec | None:
    """Return the first image input."""
    return next((spec for spec in inputs if spec.role == "image"), None)


@dataclass(frozen=True)
class InputTerms:
    """What a user says of a model's inputs, by name; everything else is read from the graph or guessed.

    Attributes:
        roles: As in `ROLES`: ``{"ids": "tokens:1000"}``.
        shapes: Whole shapes: ``{"x": (1, 3, 48, 320)}``.
        samples: A ``.npz`` file with an array for each of some inputs, samples first.
        sha256: Of that file.
        vocabulary: How many tokens there are, where neither a role nor the graph says it.
        preprocessing: How an encoded image becomes the image input; None if nobody declared it.
    """

    roles: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    samples: str | None = None
    sha256: str | None = None
    vocabulary: int | None = None
    preprocessing: Preprocessing | None = None


def parse_roles(pairs: Iterable[str]) -> dict[str, str]:
    """Return the roles that a user gave as ``NAME=ROLE``.

    Raises:
        UsageError: A pair has another form.
    """
    roles = {}
    for pair in pairs:
        name, sign, role = pair.rpartition("=")
        if not name or not sign or not role:
            raise UsageError(f"'{pair}' is not NAME=ROLE.", hint="--input ids=tokens:30522")
        roles[name] = role
    return roles


def parse_shapes(pairs: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Return the shapes that a user gave as ``NAME=1x3x48x320``; ``NAME=`` alone is a scalar.

    Raises:
        UsageError: A pair has another form.
    """
    shapes = {}
    for pair in pairs:
        name, sign, text = pair.rpartition("=")
        sides = text.lower().split("x") if text else []
        if not name or not sign or not all(side.isdecimal() and int(side) > 0 for side in sides):
            raise UsageError(f"'{pair}' is not NAME=SHAPE.", hint="--shape x=1x3x48x320")
        shapes[name] = tuple(map(int, sides))
    return shapes
