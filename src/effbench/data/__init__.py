"""Labelled images: found in a folder, a list or tar shards, decoded and cut as the model wants them.

One reader for evaluation, calibration and training. Pillow decodes; it is imported when the first image is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from effbench.data import folder, shards, table
from effbench.data.classes import imagenet, places, read_classes
from effbench.data.dataset import Dataset, Item
from effbench.errors import DataError

CLASSES = "classes.txt"
"""A file of this name beside the images lists the classes in the order of the model's outputs."""


def open_dataset(path: str | Path, classes: str | Path | Sequence[str] | None = None) -> Dataset:
    """Find the images of a data set; none is decoded.

    Args:
        path: A folder (one subfolder per class, or images without labels), a list (.csv, .parquet), a .tar shard, or
            shards written like ``train-{000000..000146}.tar``. A folder that holds ``val`` (or shards) means those.
        classes: The classes in the order of a model's outputs, or a file that lists them, one a line. Without it: the
            file ``classes.txt`` beside the images; ImageNet's order where every class is a WordNet id of ImageNet-1k;
            else sorted by name.

    Raises:
        DataError: There is no such data set, it holds no image, or a class is not in the list.
    """
    place = Path(path)
    if place.suffix in table.SUFFIXES:
        found = table.read(place)
    elif shards.is_shards(place):
        found = shards.read(place)
    else:
        found = folder.read(place)
    if not found.items:
        raise DataError(f"{place} holds no images.", hint=f"Looked for {', '.join(folder.SUFFIXES)}.")
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
