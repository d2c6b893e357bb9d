"""Lists of images and labels: CSV or Parquet files."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effbench.boundary.names import check_relative
from effbench.data.dataset import Dataset, Item
from effbench.data.files import FileContent
from effbench.errors import DataError, MissingDependencyError

SUFFIXES = (".csv", ".parquet")
IMAGE = ("path", "file", "filename", "file_name", "image", "img", "imageid")
LABEL = ("label", "class", "target", "labels", "fine_label", "wnid", "predictionstring")
"""Names of the two columns, case-insensitive; the last ones occur in Kaggle's ImageNet lists."""


@dataclass(frozen=True)
class CellContent:
    """The bytes of an image that is stored in the list."""

    content: bytes

    def __call__(self) -> bytes:
        """Return the cell's bytes."""
        return self.content


def read(file: Path) -> Dataset:
    """Return the images of a list; their paths are relative to the folder of the list.

    Raises:
        DataError: There is no such file, a column is missing, a row names no image, or a name comes twice.
        MissingDependencyError: A Parquet list, without pyarrow.
    """
    if not file.is_file():
        raise DataError(f"There is no file {file}.")
    rows = _csv(file) if file.suffix == ".csv" else _parquet(file)
    items: dict[str, Item] = {}
    for location, row in rows:
        item = _item(file, location, row)
        if item.name in items:
            raise DataError(f"{location}: {item.name} is listed twice.")
        items[item.name] = item
    return Dataset(file.name, "list", tuple(items[name] for name in sorted(items)))


def _csv(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            _check_columns(file, reader.fieldnames or ())
            for row in reader:
                yield f"{file}:{reader.line_num}", {str(key).strip().lower(): cell for key, cell in row.items()}
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as CSV: {error}") from error


def _parquet(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependencyError("A Parquet list", "pyarrow", "eval") from error
    try:
        table = parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    _check_columns(file, table.column_names)
    for number, row in enumerate(table.to_pylist(), start=1):
        yield f"{file}: row {number}", {name.strip().lower(): cell for name, cell in row.items()}


def _check_columns(file: Path, names: Any) -> None:
    columns = [str(name).strip().lower() for name in names]
    if not any(name in IMAGE for name in columns):
        raise DataError(
            f"{file}: no column of images among {', '.join(columns) or 'none'}.",
            hint="The first line names the columns: path,label.",
        )


def _cell(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _item(file: Path, location: str, row: Mapping[str, Any]) -> Item:
    cell, label = _cell(row, IMAGE), _cell(row, LABEL)
    # Kaggle's list of ImageNet appends boxes to the class, and omits the suffix of file names.
    tag = None if label is None else str(label).partition(" ")[0] if "predictionstring" in row else str(label).strip()
    if isinstance(cell, dict):
        content, cell = cell.get("bytes"), cell.get("path")
        if content is not None:
            return Item(str(cell or location.rpartition(" ")[2].zfill(8)), CellContent(content), tag)
    if cell is None:
        raise DataError(f"{location}: no image is named.")
    name = str(cell) if Path(str(cell)).suffix else f"{cell}.JPEG"
    try:
        path = file.parent / check_relative(name, "an image of this list")
        is_file = path.is_file()
    except DataError as error:
        raise DataError(f"{location}: {error.message}", hint="Move the list to a folder above its images.") from None
    except OSError as error:  # a name that is too long, say
        raise DataError(f"{location}: {name[:80]!r} cannot be read: {error.strerror}.") from error
    if not is_file:
        raise DataError(f"{location}: there is no {path}.")
    return Item(name, FileContent(path), tag)
