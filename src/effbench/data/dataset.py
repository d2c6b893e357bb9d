"""Labelled images as a data set: what an item is, and what is known of all of them."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from effbench.codec import fingerprint
from effbench.errors import DataError


class Content(Protocol):
    """Where the encoded image lies; cheap to hold, read when it is wanted."""

    def __call__(self) -> bytes:
        """Return the bytes of the encoded image.

        Raises:
            DataError: They cannot be read.
        """


@dataclass(frozen=True)
class Item:
    """One encoded image: its name inside the data set, its class, and where its bytes lie.

    ``tag`` is the class as the data set writes it (a folder's name, a cell of a list); ``label`` its place among the
    outputs of a model, known once the classes are. Both are None where there is no label.
    """

    name: str
    read: Content
    tag: str | None = None
    label: int | None = None


@dataclass(frozen=True)
class Dataset:
    """Encoded images in the order of their names, and the classes that their labels count.

    ``layout`` says how it was read: a folder per class, a folder, a list, or shards.
    """

    name: str
    layout: str
    items: tuple[Item, ...]
    classes: tuple[str, ...] | None = None

    @property
    def labelled(self) -> bool:
        """Say whether every image has a label."""
        return all(item.label is not None for item in self.items)

    @property
    def partly_labelled(self) -> bool:
        """Say whether some images have a label and others none."""
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
