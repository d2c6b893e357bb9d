"""Labelled pictures: found in a folder, a list or tar shards, decoded and cut as the model wants them.

One reader for evaluation, calibration and training. Pillow decodes; it is imported when the first picture is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

from effbench.codec import fingerprint
from effbench.data.classes import imagenet, places, read_classes
from effbench.errors import DataError

CLASSES = "classes.txt"
"""A file of this name beside the pictures lists the classes in the order of the model's outputs."""


class Content(Protocol):
    """Where the encoded picture lies; cheap to hold, read when it is wanted."""

    def __call__(self) -> bytes:
        """Return the bytes of the encoded picture.

        Raises:
            DataError: They cannot be read.
        """


@dataclass(frozen=True)
class Item:
    """One encoded picture: its name inside the data set, its class, and where its bytes lie.

    ``tag`` is the class as the data set writes it (a folder's name, a cell of a list); ``label`` its place among the
    outputs of a model, known once the classes are. Both are None where there is no label.
    """

    name: str
    read: Content
    tag: str | None = None
    label: int | None = None


@dataclass(frozen=True)
class Dataset:
    """Encoded pictures in the order of their names, and the classes that their labels count.

    ``layout`` says how it was read: a folder per class, a folder, a list, or shards.
    """

    name: str
    layout: str
    items: tuple[Item, ...]
    classes: tuple[str, ...] | None = None

    @property
    def labelled(self) -> bool:
        """Say whether every picture has a label."""
        return all(item.label is not None for item in self.items)

    @property
    def partly_labelled(self) -> bool:
        """Say whether some pictures have a label and others none."""
        return not self.labelled and any(item.label is not None for item in self.items)

    @cached_property
    def sha256(self) -> str:
        """The hash of names, labels and contents; a change of any of them is another data set."""
        with ThreadPoolExecutor(4) as pool:
            contents = pool.map(lambda item: hashlib.sha256(item.read()).hexdigest(), self.items)
            rows = [[item.name, item.label, found] for item, found in zip(self.items, contents, strict=True)]
        return fingerprint(rows)

    def check_head(self, outputs: int, model: str) -> None:
        """Check that the labels count the outputs of a model.

        Raises:
            DataError: The class list has another length, or a label lies outside.
        """
        if self.classes is not None and len(self.classes) != outputs:
            raise DataError(
                f"{self.name} has {len(self.classes)} classes, {model} has {outputs} outputs.",
                hint=f"--classes FILE lists {outputs} classes in the order of the outputs, one a line.",
            )
        wrong = next((item for item in self.items if item.label is not None and item.label >= outputs), None)
        if wrong is not None:
            raise DataError(
                f"{self.name}: {wrong.name} has label {wrong.label}, {model} has {outputs} outputs.",
                hint="Labels count from 0.",
            )


def open_dataset(path: str | Path, classes: str | Path | Sequence[str] | None = None) -> Dataset:
    """Find the pictures of a data set; none is decoded.

    Args:
        path: A folder (one subfolder per class, or pictures without labels), a list (.csv, .parquet), a .tar shard, or
            shards written like ``train-{000000..000146}.tar``. A folder that holds ``val`` (or shards) means those.
        classes: The classes in the order of a model's outputs, or a file that lists them, one a line. Without it: the
            file ``classes.txt`` beside the pictures; ImageNet's order where every class is a WordNet id of ImageNet-1k;
            else sorted by name.

    Raises:
        DataError: There is no such data set, it holds no picture, or a class is not in the list.
    """
    from effbench.data import folder, shards, table

    place = Path(path)
    if place.suffix in table.SUFFIXES:
        found = table.read(place)
    elif shards.is_shards(place):
        found = shards.read(place)
    else:
        found = folder.read(place)
    if not found.items:
        raise DataError(f"{place} holds no pictures.", hint=f"Looked for {', '.join(folder.SUFFIXES)}.")
    return _with_labels(found, _listed(place, classes))


def _listed(place: Path, classes: str | Path | Sequence[str] | None) -> tuple[str, ...] | None:
    if isinstance(classes, (str, Path)):
        return read_classes(Path(classes))
    if classes is not None:
        return tuple(classes)
    beside = (place if place.is_dir() else place.parent) / CLASSES
    return read_classes(beside) if beside.is_file() else None


def _with_labels(found: Dataset, listed: tuple[str, ...] | None) -> Dataset:
    tags = sorted({item.tag for item in found.items if item.tag is not None})
    if not tags:
        return replace(found, classes=listed)
    if listed is None and found.layout != "folder per class" and all(tag.isdecimal() for tag in tags):
        return replace(found, items=_labelled(found.items, {tag: int(tag) for tag in tags}))
    if listed is None:
        order = imagenet()
        listed = order if set(tags) <= set(order) else tuple(tags)
        if all(tag.isdecimal() for tag in tags) and tags != sorted(tags, key=int):
            raise DataError(
                f"The folders of {found.name} are numbers, which sort as names ({', '.join(tags[:3])}, ...) in another "
                "order than they count.",
                hint="Say which is meant with --classes FILE, one class a line, in the order of the model's outputs.",
            )
    number = places(listed, tags, found.name)
    return replace(found, items=_labelled(found.items, number), classes=listed)


def _labelled(items: Iterable[Item], number: dict[str, int]) -> tuple[Item, ...]:
    return tuple(item if item.tag is None else replace(item, label=number[item.tag]) for item in items)


__all__ = ["Dataset", "Item", "open_dataset"]
