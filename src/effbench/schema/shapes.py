"""The shapes at which a model takes its inputs, and the defaults of an export and a measurement."""

from __future__ import annotations

from dataclasses import dataclass

from effbench.errors import UsageError

DEFAULT_RESOLUTION = 224
DEFAULT_BATCH = 1
DEFAULT_THREADS = 1


@dataclass(frozen=True)
class InputShapes:
    """The shapes of a model's inputs that are no matter of course; ``str`` gives back the text that `parse` takes.

    Attributes:
        image: Height and width of the image input, in pixels; None if no input is an image.
        named: Name and whole shape of the inputs that the size of the image does not settle.
    """

    image: tuple[int, int] | None
    named: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def __post_init__(self) -> None:
        if min([*(self.image or ()), *(side for _, shape in self.named for side in shape)], default=1) < 1:
            raise UsageError(f"Resolution '{self}' is not a size in pixels.")

    def __lt__(self, other: InputShapes) -> bool:
        """Order by the image, models without one first."""
        return ((self.image or ()), self.named) < ((other.image or ()), other.named)

    @classmethod
    def parse(cls, text: Resolution) -> InputShapes:
        """Read ``512``, or ``384x640`` (height x width); what is parsed already is returned as it is.

        Shapes of other inputs may follow, as in ``512,ids=1x12``; a model without an image has them alone.

        Raises:
            UsageError: The text has another form, or a height or width is not positive.
        """
        if isinstance(text, InputShapes):
            return text
        parts = str(text).split(",")
        sizes = [_sides(part) for part in parts[:1] if "=" not in part]
        named = [(name, _sides(shape)) for name, _, shape in (part.rpartition("=") for part in parts[len(sizes) :])]
        if all(len(sides) in (1, 2) for sides in sizes) and all(name and all(sides) for name, sides in named):
            image = (sizes[0][0], sizes[0][-1]) if sizes else None
            if image is None or min(image) > 0:
                return cls(image, tuple(named))
        raise UsageError(
            f"Resolution '{text}' is not a size in pixels.", hint="Write it like 512, or 384x640 for height x width."
        )

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width of the image input.

        Raises:
            UsageError: No input is an image.
        """
        if self.image is None:
            raise UsageError(f"A model with an image input is needed; this one takes {self}.")
        return self.image

    @property
    def label(self) -> str:
        """The size as a sentence has it: ``224 px``, or the shapes of a model without an image."""
        if self.image is None:
            return str(self) or "at its own size"
        return " ".join([f"{InputShapes(self.image)} px", *filter(None, [str(InputShapes(None, self.named))])])

    def __str__(self) -> str:
        height, width = self.image or (0, 0)
        image = [] if self.image is None else [str(height) if height == width else f"{height}x{width}"]
        return ",".join([*image, *(f"{name}={'x'.join(map(str, shape))}" for name, shape in self.named)])


def _sides(text: str) -> tuple[int, ...]:
    """Return the sides in a text like ``3x48``; one that is no number becomes 0."""
    return tuple(int(part) if part.isdecimal() else 0 for part in text.lower().split("x") if text)


Resolution = InputShapes | int | str
"""What a function takes where it takes a size; the command line hands over `InputShapes`."""
