"""JSON and TOML within limits of length, depth, numbers and texts."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

from effbench.errors import DataError
from effbench.reading.files import RefusedError, file_bytes, short

JSON_BYTES = 256 << 20
"""Of one document; recorded exchanges with a device are the longest."""

TOML_BYTES = 1 << 20
DEPTH = 60
"""Of lists and objects inside each other: far below the interpreter's own limit, so that later code may recurse."""

TEXT_CHARS = 1 << 20
"""Of one string in a document."""

INT_MIN, INT_MAX = -(2**63), 2**64 - 1
INT_DIGITS = len(str(INT_MIN))

KEY_PARTS = 100
"""Dots in a line of TOML: its reader needs time that grows with their square."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


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
        raise DataError(f"{location}: not valid JSON ({short(error)}).") from error


def _parse(text: str | bytes, finite: bool, longest: int | None) -> Any:
    if len(text) > JSON_BYTES:
        raise RefusedError(f"longer than {JSON_BYTES >> 20} MiB")
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
            raise RefusedError(f"longer than {TOML_BYTES >> 20} MiB")
        text = data.decode("utf-8-sig")
        if max((line.count(".") for line in text.splitlines()), default=0) > KEY_PARTS:
            raise RefusedError(f"a line with more than {KEY_PARTS} dots")
        table = _parsed(text)
        _check(table, half=True, numbers=True)
    except RecursionError:
        raise DataError(f"{path}: nested deeper than {DEPTH} levels.") from None
    except ValueError as error:
        raise DataError(f"{path}: not valid TOML ({short(error)}).") from error
    return table


def _parsed(text: str) -> dict[str, Any]:
    # Imported here: a device reads no TOML, and has no tomli.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    table: dict[str, Any] = tomllib.loads(text)
    return table


def _integer(text: str) -> int:
    if len(text) > INT_DIGITS:
        raise RefusedError(f"a number of {len(text)} digits")
    value = int(text)
    if not INT_MIN <= value <= INT_MAX:
        raise RefusedError(f"the number {text}, which needs more than 64 bits")
    return value


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise RefusedError(f"the number {text[:40]}, which is too large")
    return value


def _no_constant(text: str) -> float:
    raise RefusedError(f"{text}, which is no JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys: set[str] = set()
        twice = next(key for key, _ in pairs if key in keys or keys.add(key))  # type: ignore[func-returns-value]
        raise RefusedError(f"the key {twice[:60]!r} twice in one object")
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
                raise RefusedError(f"a text of {len(child)} characters; at most {longest}")
            if half and not child.isascii() and any("\ud800" <= char <= "\udfff" for char in child):
                raise RefusedError("half of a surrogate pair")
        elif numbers and type(child) is int and not INT_MIN <= child <= INT_MAX:
            raise RefusedError("a number that needs more than 64 bits")
        elif numbers and type(child) is float and not math.isfinite(child):
            raise RefusedError(f"the number {child}, which is not finite")
