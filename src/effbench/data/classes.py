"""Classes by name and by place: ImageNet's order, and lists that a user gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from effbench.errors import DataError

_IMAGENET = Path(__file__).with_name("imagenet.txt")


@cache
def imagenet() -> tuple[str, ...]:
    """Return the WordNet ids of ImageNet-1k in the order of the outputs of models trained on it: sorted.

    Source: ILSVRC 2012, 1000 synsets of the classification task.
    """
    return tuple(_IMAGENET.read_text().split())


def read_classes(file: Path) -> tuple[str, ...]:
    """Return the classes that a file lists, one a line; blank lines are left out.

    Raises:
        DataError: It cannot be read, is empty, or names a class twice.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as a list of classes: {error}") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise DataError(f"{file} lists no class.", hint="One a line, in the order of the model's outputs.")
    seen: set[str] = set()
    for number, name in enumerate(names, start=1):
        if name in seen:
            raise DataError(f"{file}: the class '{name}' is listed twice (entry {number}).")
        seen.add(name)
    return tuple(names)


def places(listed: Sequence[str], tags: Iterable[str], where: str) -> dict[str, int]:
    """Return the place in a list of each class that a data set uses; a number that is no name is a place already.

    Raises:
        DataError: A class of the data set is not in the list.
    """
    number = {name: place for place, name in enumerate(listed)}
    found = {}
    for tag in tags:
        if tag in number:
            found[tag] = number[tag]
        elif tag.isdecimal() and int(tag) < len(listed):
            found[tag] = int(tag)
        else:
            raise DataError(
                f"{where}: the class '{tag}' is not in the list of {len(listed)} classes.",
                hint="Give the list with --classes FILE, one class a line, in the order of the model's outputs.",
            )
    return found
