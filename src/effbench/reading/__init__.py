"""The one way in which effbench reads JSON, TOML, NumPy archives and text: bounded, validated, in one sentence if not.

A document may be at most so long, so deep, and hold numbers of at most 64 bits; a file must be a regular one, so that
no pipe or device is waited for. Everything else is a `DataError` that names the file. It needs the standard library
alone (and NumPy for its archives), because it travels to devices.
"""

from __future__ import annotations

from effbench.reading.documents import DEPTH, JSON_BYTES, TOML_BYTES, json_file, json_value, toml_file, toml_value
from effbench.reading.files import LINE_BYTES, TEXT_BYTES, LineBuffer, file_bytes, file_text, lines, opened
from effbench.reading.numpy_files import ARRAY_BYTES, arrays

__all__ = [
    "ARRAY_BYTES",
    "DEPTH",
    "JSON_BYTES",
    "LINE_BYTES",
    "TEXT_BYTES",
    "TOML_BYTES",
    "LineBuffer",
    "arrays",
    "file_bytes",
    "file_text",
    "json_file",
    "json_value",
    "lines",
    "opened",
    "toml_file",
    "toml_value",
]
