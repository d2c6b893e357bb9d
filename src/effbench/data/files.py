"""Encoded images that are files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from effbench.errors import DataError


@dataclass(frozen=True)
class FileContent:
    """The bytes of a file."""

    path: Path

    def __call__(self) -> bytes:
        """Return the file's content."""
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}.") from error
