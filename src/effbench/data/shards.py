"""Tar shards in WebDataset format: members that share a stem are one sample (``000.jpg`` with ``000.cls``)."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from effbench import reading
from effbench.data.dataset import Dataset, Item
from effbench.errors import DataError

IMAGES = ("jpg", "jpeg", "png", "bmp", "webp")
MEMBER_BYTES, LABEL_BYTES = 512 << 20, 1 << 20
MOST_SHARDS = 100_000
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class MemberContent:
    """The bytes of a member of a tar file; an uncompressed tar is read in path."""

    shard: Path
    offset: int
    size: int

    def __call__(self) -> bytes:
        """Return the member's content."""
        if self.size > MEMBER_BYTES:
            raise DataError(f"{self.shard}: a member of {self.size / 2**20:.0f} MiB is no image.")
        try:
            with self.shard.open("rb") as stream:
                stream.seek(self.offset)
                content = stream.read(self.size)
        except OSError as error:
            raise DataError(f"{self.shard} cannot be read: {error.strerror}.") from error
        if len(content) < self.size:
            raise DataError(f"{self.shard} is cut short.")
        return content


def is_shards(path: Path) -> bool:
    """Return whether a path is a tar shard, a range of shards, or a folder of shards."""
    return path.suffix == ".tar" or (path.is_dir() and any(path.glob("*.tar")))


def read(path: Path) -> Dataset:
    """Return the samples of all shards, sorted by shard and key.

    Raises:
        DataError: A shard is missing or no tar file, or a sample has a label that cannot be read.
    """
    items: list[Item] = []
    for shard in _shards(path):
        try:
            with tarfile.open(shard, "r:") as archive:
                items += _samples(shard, archive)
        except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, RecursionError) as error:
            raise DataError(f"{shard} cannot be read as a tar file: {error}") from error
    return Dataset(path.name, "shards", tuple(sorted(items, key=lambda item: item.name)))


def _shards(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(path.glob("*.tar"))
    match = _BRACES.search(str(path))
    if match is None:
        return [path]
    first, last = match.groups()
    if len(last) > 9 or int(last) - int(first) >= MOST_SHARDS:
        raise DataError(f"{path} names more than {MOST_SHARDS} shards.")
    names = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return [Path(str(path).replace(match.group(), name)) for name in names]


def _samples(shard: Path, archive: tarfile.TarFile) -> Iterator[Item]:
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    for member in archive:
        if member.isfile() and member.issparse():
            raise DataError(f"{shard}: {member.name[:80]} is a sparse file, which a data set does not need.")
        if member.isfile():
            folder, _, name = member.name.rpartition("/")
            stem, _, ending = name.partition(".")
            samples.setdefault(f"{folder}/{stem}".lstrip("/"), {})[ending.lower()] = member
    for key, parts in samples.items():
        for ending in [name for name in IMAGES if name in parts][:1]:
            content = MemberContent(shard, parts[ending].offset_data, parts[ending].size)
            yield Item(f"{shard.name}/{key}.{ending}", content, _tag(shard, archive, key, parts))


def _tag(shard: Path, archive: tarfile.TarFile, key: str, parts: dict[str, tarfile.TarInfo]) -> str | None:
    for ending in ("cls", "json"):
        if ending in parts and (parts[ending].size > LABEL_BYTES or parts[ending].issparse()):
            raise DataError(f"{shard}: the label of {key} has {parts[ending].size / 2**20:.0f} MiB.")
        stream = archive.extractfile(parts[ending]) if ending in parts else None
        if stream is None:
            continue
        text = stream.read()
        try:
            if ending == "cls":
                return text.decode().strip()
            record = reading.json_value(text, str(shard))
            return str(record["label"]) if "label" in record else None
        except (ValueError, TypeError) as error:
            raise DataError(f"{shard}: the label of {key} cannot be read: {error}") from error
    return None
