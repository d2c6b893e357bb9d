"""Read images and labels from a folder, a list or tar shards, and preprocess them for a model.

Evaluation, calibration and training share this reader. Pillow decodes; it is imported when the first image is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from effbench.data import folder, shards, table
from effbench.data.classes import class_indices, imagenet, read_classes
from effbench.data.dataset import Dataset, Item
from effbench.errors import DataError

CLASSES = "classes.txt"
"""The file in the folder of images that lists the classes in the order of the model's outputs."""


def open_dataset(path: str | Path, classes: str | Path | Sequence[str] | None = None) -> Dataset:
    """List the images of a data set without decoding them.

    Args:
        path: A folder (one subfolder per class, or images without labels), a list (.csv, .parquet), a .tar shard, or
            shards written like ``train-{000000..000146}.tar``. If a folder has a subfolder ``train``, its validation
            split is read; if it holds shards, those are.
        classes: The classes in the order of a model's outputs, or a file that lists them, one a line. If None, they are
            read from ``classes.txt`` in the folder of images, else in ImageNet's order if every class is a WordNet id
            of ImageNet-1k, else sorted by name.

    Raises:
        DataError: There is no such data set, it holds no image, or a class is not in the list.
    """
    source = Path(path)
    if source.suffix in table.SUFFIXES:
        dataset = table.read(source)
    elif shards.is_shards(source):
        dataset = shards.read(source)
    else:
        dataset = folder.read(source)
    if not dataset.items:
        raise DataError(f"{source} holds no images.", hint=f"Looked for {', '.join(folder.SUFFIXES)}.")
    return _with_labels(dataset, _class_names(source, classes))


def _class_names(source: Path, classes: str | Path | Sequence[str] | None) -> tuple[str, ...] | None:
    if isinstance(classes, (str, Path)):
        return read_classes(Path(classes))
    if classes is not None:
        return tuple(classes)
    file = (source if source.is_dir() else source.parent) / CLASSES
    return read_classes(file) if file.is_file() else None


def _with_labels(dataset: Dataset, classes: tuple[str, ...] | None) -> Dataset:
    tags = sorted({item.tag for item in dataset.items if item.tag is not None})
    if not tags:
        return replace(dataset, classes=classes)
    if classes is None and dataset.layout != "folder per class" and all(tag.isdecimal() for tag in tags):
        return replace(dataset, items=_labelled(dataset.items, {tag: int(tag) for tag in tags}))
    if classes is None:
        order = imagenet()
        classes = order if set(tags) <= set(order) else tuple(tags)
        if all(tag.isdecimal() for tag in tags) and tags != sorted(tags, key=int):
            raise DataError(
                f"The class folders of {dataset.name} are numbers; their order as text ({', '.join(tags[:3])}, ...) "
                "is not their numerical order.",
                hint="Give the order with --classes FILE, one class a line, in the order of the model's outputs.",
            )
    indices = class_indices(classes, tags, dataset.name)
    return replace(dataset, items=_labelled(dataset.items, indices), classes=classes)


def _labelled(items: Iterable[Item], indices: dict[str, int]) -> tuple[Item, ...]:
    return tuple(item if item.tag is None else replace(item, label=indices[item.tag]) for item in items)


__all__ = ["Dataset", "Item", "open_dataset"]
