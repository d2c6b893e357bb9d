"""Regular files, their bytes, text and lines, within limits."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from effbench.errors import DataError

LINE_BYTES = 64 << 20
"""Of one line of a store, a journal or a stream of events: a sustained round of hours has some megabytes."""

TEXT_BYTES = 64 << 20
"""Of another tool's output."""


class RefusedError(ValueError):
    """Why a document is refused, as the end of a sentence."""


def short(error: BaseException) -> str:
    """Return the first line of an error, or its class where it says nothing."""
    return (str(error) or type(error).__name__).partition("\n")[0][:200]


class LineBuffer:
    """Splits a stream of bytes into lines, in linear time and bounded memory."""

    def __init__(self, limit: int = LINE_BYTES) -> None:
        self._limit, self._parts, self._size = limit, [b""], 0

    def add(self, data: bytes) -> list[bytes]:
        """Return the lines that these bytes complete, without their ends.

        Raises:
            DataError: A line is longer than the limit.
        """
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join([*self._parts, lines[0]])
            self._parts, self._size = [], 0
        self._parts.append(rest)
        self._size += len(rest)
        if self._size > self._limit or any(len(line) > self._limit for line in lines):
            raise DataError(f"A line of more than {self._limit >> 20} MiB, without an end.")
        return lines


def file_bytes(path: Path, limit: int) -> bytes:
    """Return the content of a regular file.

    Raises:
        DataError: It is missing, no regular file, longer than the limit, or cannot be read.
    """
    with opened(path) as stream:
        try:
            data = stream.read(limit + 1)
        except OSError as error:
            raise _unreadable(path, error) from error
        except MemoryError:
            raise DataError(f"{path}: too large for the memory of this machine.") from None
    if len(data) > limit:
        raise DataError(f"{path}: longer than {limit >> 20} MiB.")
    return data


def file_text(path: Path, limit: int = TEXT_BYTES) -> str:
    """Return the text of a regular file; bytes that are no UTF-8 become replacement characters."""
    return file_bytes(path, limit).decode("utf-8-sig", errors="replace")


def lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Yield the number and the bytes of each line of a file, without its end; None for a line beyond `LINE_BYTES`.

    Raises:
        DataError: The file cannot be read; a missing one has no lines.
    """
    if not path.exists():
        return
    with opened(path) as stream:
        number = 0
        while True:
            try:
                line = stream.readline(LINE_BYTES + 1)
                if not line:
                    return
                number += 1
                if len(line) > LINE_BYTES and not line.endswith(b"\n"):
                    while line and not line.endswith(b"\n"):
                        line = stream.readline(LINE_BYTES)
                    yield number, None
                    continue
            except OSError as error:
                raise _unreadable(path, error) from error
            yield number, line.rstrip(b"\r\n")


def opened(path: Path) -> IO[bytes]:
    """Open a regular file to read its bytes; a pipe or a device, which could be waited for for ever, is refused.

    Raises:
        DataError: It is missing, no regular file, or may not be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags)
    except (OSError, ValueError) as error:  # ValueError: the path holds a NUL
        raise _unreadable(path, error) from error
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise DataError(f"{path}: {'a folder' if stat.S_ISDIR(mode) else 'not a regular file'}.")
    return os.fdopen(handle, "rb")


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or str(error)
    return DataError(f"{path}: {reason}.")
