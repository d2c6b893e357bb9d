"""Compare a text with its golden file; EFFBENCH_UPDATE_GOLDEN=1 writes a changed one and fails, so that it is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def check(path: Path, text: str) -> None:
    """Fail where a text differs from its golden file, also when the update mode has just written it."""
    expected = path.read_text(encoding="utf-8") if path.exists() else None
    if expected == text:
        return
    if os.environ.get("EFFBENCH_UPDATE_GOLDEN") == "1":
        path.write_text(text, encoding="utf-8", newline="\n")
        pytest.fail(f"{path} was written: read the difference, then run again without EFFBENCH_UPDATE_GOLDEN.")
    assert expected == text, f"{path} differs: EFFBENCH_UPDATE_GOLDEN=1 writes the new text"
