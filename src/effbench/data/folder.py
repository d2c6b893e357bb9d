"""Images in folders: one subfolder per class (ImageNet's layout included), or no subfolders and no labels."""

from __future__ import annotations

from pathlib import Path

from effbench.data.dataset import Dataset, Item
from effbench.data.files import FileContent
from effbench.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
SPLITS = ("val", "validation", "test")
"""Names of the validation split next to ``train``, in the order of preference."""


def read(root: Path) -> Dataset:
    """Return the images below a folder, sorted by name.

    Raises:
        DataError: There is no such folder, or it holds both images and folders of classes.
    """
    if not root.is_dir():
        raise DataError(f"There is no folder {root}.", hint="A folder, a .csv or .parquet list, or .tar shards.")
    start = _split(root)
    files = sorted(file for file in start.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    relative = [file.relative_to(start) for file in files]
    loose = [name for name in relative if len(name.parts) == 1]
    if loose and len(loose) < len(relative):
        raise DataError(
            f"{start} holds images ({loose[0]}) and folders of classes ({relative[-1].parts[0]}).",
            hint="Put every image into the folder of its class, or name them in a .csv list.",
        )
    tags = [None if loose else name.parts[0] for name in relative]
    items = tuple(
        Item(name.as_posix(), FileContent(file), tag) for file, name, tag in zip(files, relative, tags, strict=True)
    )
    return Dataset(start.name or str(start), "folder" if loose else "folder per class", items)


def _split(root: Path) -> Path:
    if not (root / "train").is_dir():
        return root
    return next((root / name for name in SPLITS if (root / name).is_dir()), root)
