"""What is read from outside is bounded: a document ends as data or as one sentence, in little time and memory."""

from __future__ import annotations

import ast
import io
import json
import os
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from places import ROOT

from effbench import reading
from effbench.errors import DataError

SOURCE = ROOT / "src" / "effbench"
ELSEWHERE = {
    "device/supervisor.py": "it is sent to devices as one file and has no other module",
    "training/cache.py": "it maps arrays that it wrote, instead of reading them",
}
"""The modules that parse JSON, TOML or NumPy files themselves, and why."""

REFUSED = {
    "empty": (b"", "Expecting value"),
    "cut": (b'{"a": [1', "Expecting"),
    "deep": (b"[" * 100 + b"]" * 100, "nested deeper"),
    "very deep": (b'{"a":' * 200_000, "nested deeper"),
    "long number": (b"1" * 5000, "a number of 5000 digits"),
    "65 bits": (b"18446744073709551616", "more than 64 bits"),
    "infinite": (b"1e999", "too large"),
    "no number": (b"[NaN]", "NaN"),
    "minus infinity": (b"-Infinity", "-Infinity"),
    "twice": (b'{"a": 1, "a": 2}', "the key 'a' twice"),
    "not UTF-8": (b'"\xff"', "decode"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "decode"),
    "half a character": (b'["\\udc00"]', "half of a surrogate"),
    "half a character as a key": (b'{"\\uD800": 1}', "half of a surrogate"),
    "long text": (b'"' + b"x" * 2_000_000 + b'"', "a text of 2000000 characters"),
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_bad_document_is_one_sentence(text: bytes, reason: str):
    with pytest.raises(DataError, match=f"here: .*{reason}") as caught:
        reading.json_value(text, "here")
    assert len(str(caught.value)) < 400


def test_what_effbench_writes_is_read():
    data = {"a": [1, -2.5, None, True, "é😀\n"], "b": {"c": []}, "big": 2**64 - 1, "small": -(2**63)}
    assert data == reading.json_value(json.dumps(data), "here")
    assert data == reading.json_value(json.dumps(data, ensure_ascii=False).encode(), "here")
    nested: object = 1
    for _ in range(reading.DEPTH):
        nested = [nested]
    assert nested == reading.json_value(json.dumps(nested), "here")


def test_events_may_hold_numbers_that_are_not_finite():
    assert [float("inf")] == reading.json_value("[Infinity]", "here", finite=False)


TOML: dict[str, bytes] = {
    "deep": b"a = " + b"[" * 5000 + b"]" * 5000,
    "dotted": b".".join([b"a"] * 20_000) + b" = 1",
    "infinite": b"a = inf",
    "long number": b"a = " + b"9" * 10_000,
    "not UTF-8": b'a = "\xff"',
    "no TOML": b"a b",
    "too long": b"#" * (reading.TOML_BYTES + 1),
}


@pytest.mark.parametrize("text", TOML.values(), ids=TOML)
def test_a_bad_toml_file_is_one_sentence(tmp_path: Path, text: bytes):
    path = tmp_path / "effbench.toml"
    path.write_bytes(text)
    with pytest.raises(DataError, match=r"effbench\.toml: "):
        reading.toml_file(path)


def test_pipes_folders_devices_and_missing_files_are_refused_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero"), tmp_path / "none", Path("a\0b")):
        with pytest.raises(DataError):
            reading.json_file(path)


def npz(tmp_path: Path, *members: tuple[str, bytes]) -> Path:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def npy(shape: tuple[int, ...], content: bytes, descr: str = "<f4") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue() + content


def test_arrays_come_back(tmp_path: Path):
    np.savez(tmp_path / "a.npz", x=np.arange(3), y=np.array("text"))
    np.save(tmp_path / "b.npy", np.ones((2, 2)))
    data = reading.arrays(tmp_path / "a.npz")
    assert ([0, 1, 2], "text") == (data["x"].tolist(), str(data["y"]))
    assert (2, 2) == reading.arrays(tmp_path / "b.npy")[""].shape


@pytest.mark.parametrize(
    "content",
    [
        npy((1 << 40,), b"\0" * 64),
        npy((-1,), b"\0" * 64),
        npy((2**62, 2**62), b"\0" * 64),
        npy((1,), b"\0" * 8, "|O"),
        npy((4,), b"\0" * 3),
        b"\x93NUMPY\x09\x00",
        b"not an array",
    ],
    ids=["huge", "negative", "overflow", "pickle", "cut", "version", "text"],
)
def test_an_array_that_is_none_is_one_sentence(tmp_path: Path, content: bytes):
    with pytest.raises(DataError, match="not a file of NumPy arrays"):
        reading.arrays(npz(tmp_path, ("x.npy", content)))
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(DataError, match="not a file of NumPy arrays"):
        reading.arrays(tmp_path / "x.npy")


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path):
    path = npz(tmp_path, ("x.npy", npy((1 << 20,), bytes(4 << 20))))
    assert path.stat().st_size < 100_000
    with pytest.raises(DataError, match="unpacks to more than 1 MiB"):
        reading.arrays(path, 1 << 20)


def test_a_stream_without_line_ends_takes_linear_time_and_bounded_memory():
    def seconds(pieces: int) -> float:
        buffer = reading.LineBuffer()
        start = time.process_time()
        for _ in range(pieces):
            assert [] == buffer.add(b"x" * 4096)
        assert [4096 * pieces] == [len(line) for line in buffer.add(b"\n")]
        return time.process_time() - start

    assert seconds(8000) < 60 * max(seconds(800), 0.002)
    buffer = reading.LineBuffer(1000)
    for _ in range(10):
        assert [] == buffer.add(b"x" * 100)
    with pytest.raises(DataError, match="without an end"):
        buffer.add(b"x")


def test_lines_of_a_buffer():
    buffer = reading.LineBuffer()
    assert [b"a"] == buffer.add(b"a\nb")
    assert [] == buffer.add(b"c")
    assert [b"bcd", b"", b"e"] == buffer.add(b"d\n\ne\n")


def direct(source: str) -> list[str]:
    """Return the calls by which a module would parse JSON, TOML, NumPy files or pickles itself."""
    names = {"json": ("load", "loads"), "tomllib": ("load", "loads"), "pickle": ("load", "loads")}
    names |= dict.fromkeys(("np", "numpy"), ("load", "fromfile", "loadtxt", "genfromtxt"))
    calls = []
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
        ):
            if node.func.attr in names.get(node.func.value.id, ()):
                calls.append(f"{node.func.value.id}.{node.func.attr}, line {node.lineno}")
        elif isinstance(node, ast.ImportFrom) and node.module in names:
            calls += [
                f"from {node.module} import {name.name}" for name in node.names if name.name in names[node.module]
            ]
    return calls


def test_everything_is_read_in_one_place():
    parsers = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py") if direct(path.read_text())}
    assert {"reading/documents.py", *ELSEWHERE} == parsers
    assert ["from json import loads"] == direct("from json import loads")
