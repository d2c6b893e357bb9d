"""Class names and their indices: ImageNet's order, and lists from a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from effbench import reading
from effbench.errors import DataError

_IMAGENET = Path(__file__).with_name("imagenet.txt")


@cache
def imagenet() -> tuple[str, ...]:
    """Return the WordNet ids of ImageNet-1k in the order of the outputs of models trained on it: sorted.

    Source: ILSVRC 2012, 1000 synsets of the classification task.
    """
    return tuple(_IMAGENET.read_text().split())


def read_classes(file: Path) -> tuple[str, ...]:
    """Return the classes that a file lists, one a line; blank lines are skipped.

    Raises:
        DataError: It cannot be read, is empty, or names a class twice.
    """
    try:
        lines = reading.file_bytes(file, reading.TEXT_BYTES).decode().splitlines()
    except (DataError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as a list of classes: {error}") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise DataError(f"{file} lists no class.", hint="One a line, in the order of the model's outputs.")
    listed: set[str] = set()
    for number, name in enumerate(names, start=1):
        if name in listed:
            raise DataError(f"{file}: the class '{name}' is listed twice (entry {number}).")
        listed.add(name)
    return tuple(names)


def class_indices(classes: Sequence[str], tags: Iterable[str], dataset: str) -> dict[str, int]:
    """Return the index of each class that a data set uses; a number that is no class name is an index already.

    Args:
        classes: All classes in the order of a model's outputs.
        tags: The classes of the data set.
        dataset: Its name, for the message.

    Raises:
        DataError: A class of the data set is not in the list.
    """
    known = {name: index for index, name in enumerate(classes)}
    indices = {}
    for tag in tags:
        if tag in known:
            indices[tag] = known[tag]
        elif tag.isdecimal() and len(tag) < 10 and int(tag) < len(classes):
            indices[tag] = int(tag)
        else:
            raise DataError(
                f"{dataset}: the class '{tag}' is not in the list of {len(classes)} classes.",
                hint="Give the list with --classes FILE, one class a line, in the order of the model's outputs.",
            )
    return indices
