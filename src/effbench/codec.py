"""Convert records to JSON data and back, and compute the hashes that identify them.

The reader is written here because records travel to devices that have the standard library alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from effbench.errors import DataError, EffbenchError
from effbench.schema import FORMAT_VERSION, FileInfo

T = TypeVar("T")


def to_json(record: Any) -> dict[str, Any]:
    """Return a record as plain JSON data, with the format version; `from_json` is its inverse.

    Paths are left out: the folder of a manifest is no part of its content.
    """
    return {"format": FORMAT_VERSION, **plain(record)}


def plain(value: Any) -> Any:
    """Return records, mappings and sequences as JSON data; paths inside records are left out."""
    if dataclasses.is_dataclass(value):
        items = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: plain(item) for name, item in items if not isinstance(item, Path)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value.value if isinstance(value, Enum) else value


def document(data: Any) -> str:
    """Return data as the JSON document that every command prints with ``--json`` and every report is written as.

    Its keys are ``format`` and ``data``. Numbers that are not finite become null, because JSON cannot express them.
    """
    return _document({"data": _finite(plain(data))})


def error_document(error: EffbenchError) -> str:
    """Return an error as a JSON document: ``format``, and ``error`` with its message, hint and exit code."""
    return _document({"error": {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}})


def _document(content: dict[str, Any]) -> str:
    data = {"format": FORMAT_VERSION, **content}
    return json.dumps(data, indent=1, allow_nan=False, default=_described) + "\n"


def _described(value: Any) -> Any:
    """Return what stands for a value that JSON cannot express: a function's name, a number of NumPy as a number."""
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if callable(value):
        return f"{value.__module__}:{getattr(value, '__qualname__', type(value).__name__)}"
    item = getattr(value, "item", None)
    return item() if item is not None else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_json(record_type: type[T], data: Any, location: str, **extra: Any) -> T:
    """Build a record from JSON data.

    Args:
        record_type: The record's class.
        data: Parsed output of `to_json`.
        location: File (and line) for messages.
        extra: Fields that are not in the data, such as an artifact's folder.

    Raises:
        DataError: A field is missing, unknown or of another type, or the format is of another version.
    """
    if not isinstance(data, dict):
        raise DataError(f"{location}: expected a JSON object, found {type(data).__name__}.")
    version = data.get("format")
    if version != FORMAT_VERSION:
        raise DataError(
            f"{location}: format {version!r}, this version reads {FORMAT_VERSION}.",
            hint="Export or measure again, or update effbench.",
        )
    rest = {key: item for key, item in data.items() if key != "format"}
    record: T = _record(record_type, {**rest, **extra}, location)
    return record


def _record(record_type: Any, data: Any, location: str) -> Any:
    if not isinstance(data, dict):
        raise DataError(f"{location}: expected an object for {record_type.__name__}, found {type(data).__name__}.")
    hints = _hints(record_type)
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise DataError(f"{location}: unknown field '{unknown[0]}' in {record_type.__name__}.")
    values = {name: _value(hints[name], item, f"{location}: {name}") for name, item in data.items()}
    try:
        return record_type(**values)
    except TypeError as error:
        needed = [
            f.name
            for f in dataclasses.fields(record_type)
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        ]
        missing = [name for name in needed if name not in values]
        fault = f"lacks {', '.join(missing)}" if missing else f"is malformed ({error})"
        raise DataError(f"{location}: {record_type.__name__} {fault}.") from None
    except EffbenchError as error:
        raise DataError(f"{location}: {error.message}") from None
    except (ValueError, ArithmeticError, AttributeError) as error:
        raise DataError(f"{location}: {record_type.__name__} is malformed ({error}).") from None


_HINTS: dict[Any, dict[str, Any]] = {}


def _hints(record_type: Any) -> dict[str, Any]:
    if record_type not in _HINTS:
        resolved = typing.get_type_hints(record_type)
        _HINTS[record_type] = {f.name: resolved[f.name] for f in dataclasses.fields(record_type)}
    return _HINTS[record_type]


def _value(hint: Any, value: Any, location: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _value(next(arg for arg in args if arg is not type(None)), value, location)
    if dataclasses.is_dataclass(hint):
        return _record(hint, value, location)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise DataError(f"{location}: expected a list, found {type(value).__name__}.")
        if args[-1] is Ellipsis:
            if args[0] is int and all(type(item) is int for item in value):
                return tuple(value)  # samples come by the ten thousand
            return tuple(_value(args[0], item, location) for item in value)
        if len(args) != len(value):
            raise DataError(f"{location}: expected {len(args)} items, found {len(value)}.")
        return tuple(_value(arg, item, location) for arg, item in zip(args, value, strict=True))
    if origin is dict:
        if not isinstance(value, dict):
            raise DataError(f"{location}: expected an object, found {type(value).__name__}.")
        return {key: _value(args[1], item, f"{location}.{key}") for key, item in value.items()}
    if hint is float and type(value) in (int, float):
        return float(value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        try:
            return hint(value)
        except ValueError:
            raise DataError(
                f"{location}: {_shown(value)} is not one of {', '.join(str(item.value) for item in hint)}."
            ) from None
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise DataError(f"{location}: expected {getattr(hint, '__name__', hint)}, found {_shown(value)}.")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def canonical(data: Any) -> bytes:
    """Return data as canonical JSON, which is what every hash is taken of: sorted keys, no blanks, no NaN.

    Raises:
        DataError: The data holds NaN or infinity, which JSON cannot express.
    """
    try:
        return json.dumps(plain(data), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except ValueError as error:
        raise DataError(f"Cannot write {error}; a record must not hold a number that is not finite.") from None


def fingerprint(data: Any) -> str:
    """Return the SHA-256, in hex, of the canonical JSON of some data."""
    return hashlib.sha256(canonical(data)).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256, in hex, of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def digest_of(files: Mapping[str, FileInfo]) -> str:
    """Return the digest of an artifact: a hash of its files' names and content hashes."""
    return fingerprint({name: info.sha256 for name, info in files.items()})
