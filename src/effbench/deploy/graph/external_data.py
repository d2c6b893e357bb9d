"""Find the files that an ``.onnx`` file names as external data, by a walk over its protobuf encoding.

The package onnx is not imported: the key of an export is computed in a process that imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from pathlib import Path

Buffer = bytes | memoryview

MODEL, TRAINING, GRAPH, FUNCTION, NODE, ATTRIBUTE, SPARSE, TENSOR, ENTRY = range(9)
"""The messages of onnx.proto that can lead to a tensor."""

CHILDREN: dict[int, dict[int, int]] = {
    MODEL: {7: GRAPH, 20: TRAINING, 25: FUNCTION},
    TRAINING: {1: GRAPH, 2: GRAPH},
    GRAPH: {1: NODE, 5: TENSOR, 15: SPARSE},
    FUNCTION: {7: NODE, 11: ATTRIBUTE},
    NODE: {5: ATTRIBUTE},
    ATTRIBUTE: {5: TENSOR, 6: GRAPH, 10: TENSOR, 11: GRAPH, 22: SPARSE, 23: SPARSE},
    SPARSE: {1: TENSOR, 2: TENSOR},
    TENSOR: {13: ENTRY},
    ENTRY: {},
}
"""The fields of each message that hold a message of this list, by number."""

KEY, VALUE, LOCATION = 1, 2, b"location"
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""Wire types that have a payload."""


def external_files(path: Path) -> tuple[str, ...]:
    """Return the locations of external data that a file names, relative to its folder, sorted.

    Tensors are found wherever onnx.proto allows them: initializers, sparse ones, attributes of nodes, subgraphs,
    functions and training graphs. A damaged file has the locations in front of the damage; the loader reports it.
    """
    locations: set[str] = set()
    if not path.stat().st_size:
        return ()
    with (
        path.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
        memoryview(content) as view,
        contextlib.suppress(IndexError, ValueError),  # cut short, or no protobuf at all
    ):
        locations.update(_locations(view, MODEL))
    return tuple(sorted(locations))


def inside(folder: Path, location: str) -> Path | None:
    """Return the path of external data, links followed; None if it leads out of the model's folder, or is no path."""
    root = folder.resolve()
    try:
        data = (root / location).resolve()
        data.exists()  # a name can be too long for the file system
    except (OSError, ValueError):
        return None
    return data if location and data.is_relative_to(root) else None


def _locations(view: memoryview, message: int) -> Iterator[str]:
    waiting = [(view, message)]
    while waiting:
        part, message = waiting.pop()
        children = CHILDREN[message]
        if message == ENTRY:
            yield from _location(part)
            continue
        waiting += [(payload, children[number]) for number, payload in _fields(part) if number in children]


def _location(entry: memoryview) -> Iterator[str]:
    """Yield the value of a key-value pair whose key is ``location``."""
    pair = dict(_fields(entry))
    if bytes(pair.get(KEY, b"")) == LOCATION:
        yield bytes(pair.get(VALUE, b"")).decode(errors="replace")


def _fields(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and payload of the fields of a message that are messages or bytes.

    Raises:
        ValueError: A wire type that protobuf does not have, or a length beyond the end.
        IndexError: The message ends inside a number.
    """
    position = 0
    while position < len(view):
        tag, position = _varint(view, position)
        kind = tag & 7
        if kind == VARINT:
            _, position = _varint(view, position)
        elif kind == LENGTH:
            length, position = _varint(view, position)
            if position + length > len(view):
                raise ValueError("a field ends behind its message")
            yield tag >> 3, view[position : position + length]
            position += length
        elif kind in (FIXED32, FIXED64):
            position += 4 if kind == FIXED32 else 8
        elif kind not in (3, 4):  # the begin and end of a group, which has no payload of its own
            raise ValueError(f"wire type {kind}")


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than ten bytes")
