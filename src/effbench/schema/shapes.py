"""The size at which a model takes its input, and the defaults of an export and a measurement."""

from __future__ import annotations

from dataclasses import dataclass

from effbench.errors import UsageError

DEFAULT_RESOLUTION = 224
DEFAULT_BATCH = 1
DEFAULT_THREADS = 1


@dataclass(frozen=True, order=True)
class InputShapes:
    """What a user says of the shapes of a model's inputs; ``str`` gives back the text that `parse` takes.

    Attributes:
        image: Height and width of the image input, in pixels.
    """

    image: tuple[int, int]

    def __post_init__(self) -> None:
        if min(self.image) < 1:
            raise UsageError(f"Resolution '{self}' is not a size in pixels.")

    @classmethod
    def parse(cls, text: Resolution) -> InputShapes:
        """Read ``512``, or ``384x640`` (height x width); what is parsed already is returned as it is.

        Raises:
            UsageError: The text is neither, or a height or width is not positive.
        """
        if isinstance(text, InputShapes):
            return text
        parts = str(text).lower().split("x")
        if len(parts) in (1, 2) and all(part.isdecimal() and int(part) > 0 for part in parts):
            return cls((int(parts[0]), int(parts[-1])))
        raise UsageError(
            f"Resolution '{text}' is not a size in pixels.", hint="Write it like 512, or 384x640 for height x width."
        )

    def __str__(self) -> str:
        height, width = self.image
        return str(height) if height == width else f"{height}x{width}"


Resolution = InputShapes | int | str
"""What a function takes where it takes a size; the command line hands over `InputShapes`."""
