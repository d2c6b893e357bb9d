"""Plain times: one number per line, in milliseconds, or a JSON list of them.

For tools whose file format is not published, such as Xcode's performance reports: copy the displayed times into a file,
one per line; ``#`` begins a comment.
"""

from __future__ import annotations

from effbench import reading
from effbench.errors import DataError
from effbench.profiles.vendors import MS, Reader, Reading, to_ns


def _numbers(text: str) -> list[float]:
    if text.lstrip().startswith("["):
        return [float(value) for value in reading.json_value(text, "the list")]
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    return [float(line) for line in lines if line]


def _matches(text: str) -> bool:
    try:
        return bool(_numbers(text))
    except (DataError, ValueError, TypeError, OverflowError):
        return False


def _read(text: str, file_name: str) -> Reading:
    try:
        numbers = _numbers(text)
    except (DataError, ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{file_name}: not a list of milliseconds ({error}).") from error
    if len(numbers) == 1:
        return Reading((to_ns(numbers[0], MS),), aggregate="one figure, copied from the display of a tool")
    return Reading(tuple(to_ns(value, MS) for value in numbers))


READER = Reader("samples", "milliseconds, one per line or a JSON list (Xcode's figures)", _matches, _read)
