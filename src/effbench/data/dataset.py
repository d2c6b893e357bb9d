"""A data set: encoded images, their labels and their classes."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from effbench.codec import fingerprint
from effbench.errors import DataError


class Content(Protocol):
    """A reference to an encoded image, read on demand."""

    def __call__(self) -> bytes:
        """Return the bytes of the encoded image.

        Raises:
            DataError: They cannot be read.
        """


@dataclass(frozen=True)
class Item:
    """One encoded image: its name in the data set, its content, and its class.

    ``tag`` is the class as the data set writes it (the name of a folder, a cell of a list); ``label`` is its index
    among the outputs of a model. Both are None if the image has no label.
    """

    name: str
    read: Content
    tag: str | None = None
    label: int | None = None


@dataclass(frozen=True)
class Dataset:
    """Encoded images sorted by name, and the classes that their labels index.

    ``layout`` is ``folder per class``, ``folder``, ``list`` or ``shards``.
    """

    name: str
    layout: str
    items: tuple[Item, ...]
    classes: tuple[str, ...] | None = None

    @property
    def labelled(self) -> bool:
        """Whether every image has a label."""
        return all(item.label is not None for item in self.items)

    @property
    def partly_labelled(self) -> bool:
        """Whether only some images have a label."""
        return not self.labelled and any(item.label is not None for item in self.items)

    @cached_property
    def sha256(self) -> str:
        """The hash of all names, labels and contents."""
        with ThreadPoolExecutor(4) as pool:
            contents = pool.map(lambda item: hashlib.sha256(item.read()).hexdigest(), self.items)
            rows = [[item.name, item.label, content] for item, content in zip(self.items, contents, strict=True)]
        return fingerprint(rows)

    def check_head(self, outputs: int, model: str) -> None:
        """Check that the labels match the outputs of a model.

        Raises:
            DataError: The number of classes differs, or a label is out of range.
        """
        if self.classes is not None and len(self.classes) != outputs:
            raise DataError(
                f"{self.name} has {len(self.classes)} classes, {model} has {outputs} outputs.",
                hint=f"--classes FILE lists {outputs} classes in the order of the outputs, one a line.",
            )
        invalid = next((item for item in self.items if item.label is not None and item.label >= outputs), None)
        if invalid is not None:
            raise DataError(
                f"{self.name}: {invalid.name} has label {invalid.label}, {model} has {outputs} outputs.",
                hint="Labels count from 0.",
            )
