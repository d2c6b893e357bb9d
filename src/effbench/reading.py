"""The one way in which effbench reads JSON, TOML, NumPy archives and text: bounded, validated, in one sentence if not.

A document may be at most so long, so deep, and hold numbers of at most 64 bits; a file must be a regular one, so that
no pipe or device is waited for. Everything else is a `DataError` that names the file. It needs the standard library
alone (and NumPy for its archives), because it travels to devices.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from effbench.errors import DataError

if TYPE_CHECKING:
    import numpy.typing as npt

JSON_BYTES = 256 << 20
"""Of one document; recorded exchanges with a device are the longest."""

LINE_BYTES = 64 << 20
"""Of one line of a store, a journal or a stream of events: a sustained round of hours has some megabytes."""

TOML_BYTES = 1 << 20
TEXT_BYTES = 64 << 20
"""Of another tool's output."""

ARRAY_BYTES = 4 << 30
"""Of all arrays of a file together, unpacked."""

DEPTH = 60
"""Of lists and objects inside each other: far below the interpreter's own limit, so that later code may recurse."""

TEXT_CHARS = 1 << 20
"""Of one string in a document."""

INT_MIN, INT_MAX = -(2**63), 2**64 - 1
INT_DIGITS = len(str(INT_MIN))

KEY_PARTS = 100
"""Dots in a line of TOML: its reader needs time that grows with their square."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


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


class _RefusedError(ValueError):
    """Why a document is refused, as the end of a sentence."""


def json_value(text: str | bytes, location: str, *, finite: bool = True, longest: int | None = TEXT_CHARS) -> Any:
    """Parse one JSON document.

    Args:
        text: The document; bytes are UTF-8.
        location: Where it is from, for messages.
        finite: Refuse NaN and infinity, which are no JSON; events of child processes may hold them.
        longest: The most characters of one string; None for documents that carry files.

    Raises:
        DataError: It is no JSON, too long, too deep, holds a number beyond 64 bits, a key twice, or half a character.
    """
    try:
        return _parse(text, finite, longest)
    except RecursionError:
        raise DataError(f"{location}: nested deeper than {DEPTH} levels.") from None
    except MemoryError:
        raise DataError(f"{location}: too large for the memory of this machine.") from None
    except ValueError as error:
        raise DataError(f"{location}: not valid JSON ({_short(error)}).") from error


def _parse(text: str | bytes, finite: bool, longest: int | None) -> Any:
    if len(text) > JSON_BYTES:
        raise _RefusedError(f"longer than {JSON_BYTES >> 20} MiB")
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    data = json.loads(
        text,
        parse_int=_integer,
        parse_float=_finite_float if finite else None,
        parse_constant=_no_constant if finite else None,
        object_pairs_hook=_object,
    )
    half = _SURROGATE.search(text) is not None or not text.isascii()
    _check(data, longest=longest if longest is not None and len(text) > longest else None, half=half)
    return data


def json_file(path: Path, *, hint: str | None = None, longest: int | None = TEXT_CHARS) -> Any:
    """Read a JSON document; errors are those of `json_value` and `file_bytes`, with this hint."""
    try:
        return json_value(file_bytes(path, JSON_BYTES), str(path), longest=longest)
    except DataError as error:
        raise DataError(error.message, hint=error.hint or hint) from error


def toml_file(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        DataError: It cannot be read, or is no TOML within the limits of this module.
    """
    return toml_value(file_bytes(path, TOML_BYTES), path)


def toml_value(data: bytes, path: Path) -> dict[str, Any]:
    """Parse a TOML document.

    Args:
        data: The document.
        path: Where it is from, for messages.

    Raises:
        DataError: It is no TOML within the limits of this module.
    """
    try:
        if len(data) > TOML_BYTES:
            raise _RefusedError(f"longer than {TOML_BYTES >> 20} MiB")
        text = data.decode("utf-8-sig")
        if max((line.count(".") for line in text.splitlines()), default=0) > KEY_PARTS:
            raise _RefusedError(f"a line with more than {KEY_PARTS} dots")
        table = _parsed(text)
        _check(table, half=True, numbers=True)
    except RecursionError:
        raise DataError(f"{path}: nested deeper than {DEPTH} levels.") from None
    except ValueError as error:
        raise DataError(f"{path}: not valid TOML ({_short(error)}).") from error
    return table


def _parsed(text: str) -> dict[str, Any]:
    # Imported here: a device reads no TOML, and has no tomli.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    table: dict[str, Any] = tomllib.loads(text)
    return table


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


def arrays(path: Path, limit: int = ARRAY_BYTES) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays of an ``.npz`` file, or the one of an ``.npy`` file under an empty name.

    Raises:
        DataError: It is damaged, needs unpickling, or unpacks to more than the limit.
    """
    import zipfile
    import zlib

    import numpy as np

    with opened(path) as stream:
        try:
            if stream.read(4) == b"PK\x03\x04":
                return _members(path, zipfile.ZipFile(stream), limit)
            size = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            _check_header(stream, size, limit)
            stream.seek(0)
            return {"": np.lib.format.read_array(stream, allow_pickle=False)}
        except (OSError, EOFError, ValueError, KeyError, TypeError, SyntaxError, RuntimeError, MemoryError) as error:
            raise DataError(f"{path}: not a file of NumPy arrays ({_short(error)}).") from error
        except (zipfile.BadZipFile, zlib.error, OverflowError, AttributeError, IndexError) as error:
            raise DataError(f"{path}: not a file of NumPy arrays ({_short(error)}).") from error


def _members(path: Path, archive: Any, limit: int) -> dict[str, npt.NDArray[Any]]:
    import numpy as np

    arrays: dict[str, npt.NDArray[Any]] = {}
    infos = archive.infolist()
    if sum(info.file_size for info in infos) > limit:
        raise _RefusedError(f"it unpacks to more than {limit >> 20} MiB")
    for info in infos:
        name = info.filename.removesuffix(".npy")
        if name in arrays:
            raise _RefusedError(f"'{name}' twice")
        with archive.open(info) as member:
            _check_header(member, info.file_size, limit)
        with archive.open(info) as member:
            arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
    return arrays


def _check_header(stream: Any, size: int, limit: int) -> None:
    """Compare the declared shape with the bytes that there are, before memory is reserved for it."""
    import numpy as np

    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise _RefusedError(f"format {version} of NumPy")
    shape, _, dtype = readers[version](stream)
    if dtype.hasobject:
        raise _RefusedError("it holds pickled objects")
    if any(side < 0 for side in shape) or math.prod(shape) * dtype.itemsize > min(size, limit):
        raise _RefusedError(f"shape {shape} of {dtype} in {size} bytes")


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or str(error)
    return DataError(f"{path}: {reason}.")


def _short(error: BaseException) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0][:200]


def _integer(text: str) -> int:
    if len(text) > INT_DIGITS:
        raise _RefusedError(f"a number of {len(text)} digits")
    value = int(text)
    if not INT_MIN <= value <= INT_MAX:
        raise _RefusedError(f"the number {text}, which needs more than 64 bits")
    return value


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _RefusedError(f"the number {text[:40]}, which is too large")
    return value


def _no_constant(text: str) -> float:
    raise _RefusedError(f"{text}, which is no JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys: set[str] = set()
        twice = next(key for key, _ in pairs if key in keys or keys.add(key))  # type: ignore[func-returns-value]
        raise _RefusedError(f"the key {twice[:60]!r} twice in one object")
    return value


def _check(data: Any, *, longest: int | None = None, half: bool = False, numbers: bool = False) -> None:
    """Walk through a parsed document, level by level, so that no depth exhausts the stack."""
    level, depth = [data], 0
    while level:
        depth += 1
        if depth > DEPTH + 1:
            raise RecursionError
        if longest is not None or half or numbers:
            for item in level:
                _check_scalars(item, longest, half, numbers)
        level = [
            child
            for item in level
            for child in (item.values() if type(item) is dict else item if type(item) is list else ())
            if type(child) in (dict, list)
        ]


def _check_scalars(item: Any, longest: int | None, half: bool, numbers: bool) -> None:
    children = [*item, *item.values()] if type(item) is dict else item if type(item) is list else [item]
    for child in children:
        if type(child) is str:
            if longest is not None and len(child) > longest:
                raise _RefusedError(f"a text of {len(child)} characters; at most {longest}")
            if half and not child.isascii() and any("\ud800" <= char <= "\udfff" for char in child):
                raise _RefusedError("half of a surrogate pair")
        elif numbers and type(child) is int and not INT_MIN <= child <= INT_MAX:
            raise _RefusedError("a number that needs more than 64 bits")
        elif numbers and type(child) is float and not math.isfinite(child):
            raise _RefusedError(f"the number {child}, which is not finite")
