"""Every regular expression of the package takes linear time: a tool's output or a device's answer is not trusted."""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

SOURCE = ROOT / "src" / "effbench"
FUNCTIONS = ("compile", "search", "match", "fullmatch", "findall", "finditer", "sub", "split")
PUMPS = ("9", "a", " ", "\n", "\t", "=", "_", ".", "9 ", "a ", "\na", '"', "(", "9.9")
SHORT, LONG = 1000, 8000
"""Eight times as long: a linear pattern takes 8 times as long, a quadratic one 64 times."""

BOUND_S = 0.02
"""A linear search of so few characters takes a millisecond; a quadratic one at LONG takes about 50."""


def patterns() -> Iterator[tuple[str, str, int]]:
    """Yield each literal pattern with its place and flags."""
    for path in sorted(SOURCE.rglob("*.py")):
        source = path.read_text()
        for node in ast.walk(ast.parse(source)) if "re." in source else ():
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            of_re = isinstance(node.func.value, ast.Name) and node.func.value.id == "re" and node.func.attr in FUNCTIONS
            pattern = node.args[0]
            if of_re and isinstance(pattern, ast.Constant) and isinstance(pattern.value, str):
                text = ast.unparse(node)
                flags = re.M if "re.M" in text or "MULTILINE" in text else 0
                flags |= re.S if "re.DOTALL" in text or "re.S)" in text else 0
                yield f"{path.relative_to(SOURCE)}:{node.lineno}", pattern.value, flags


def literals(pattern: str) -> list[str]:
    """Return beginnings that reach into a pattern: its literal prefix, and its first words."""
    plain = re.sub(r"\\(.)", r"\1", pattern)
    words = re.findall(r"[A-Za-z][A-Za-z :=]*", plain)
    return ["", *words[:3]]


def seconds(compiled: re.Pattern[str], text: str) -> float:
    start = time.process_time()
    for _ in compiled.finditer(text):
        pass
    return max(time.process_time() - start, 1e-5)


def slow(pattern: str, flags: int) -> list[str]:
    """Return the inputs on which a pattern takes more than linear time."""
    compiled = re.compile(pattern, flags)
    inputs = []
    for word in literals(pattern):
        for pump in (*PUMPS, *([word] if word else [])):
            text = word + pump * (LONG // len(pump))
            took = seconds(compiled, text)
            if took > BOUND_S and took > 24 * seconds(compiled, word + pump * (SHORT // len(pump))):
                inputs.append(f"{word!r} + {pump!r} * n: {took:.1f} s")
    return inputs


@pytest.mark.parametrize("pattern", [r"(\d+) inference requests", r"^\s*level: (\d+)"])
def test_a_quadratic_pattern_is_seen(pattern: str):
    assert slow(pattern, re.M)


@pytest.mark.slow
def test_every_pattern_is_linear():
    slow_inputs = {place: slow(pattern, flags) for place, pattern, flags in patterns()}
    assert len(slow_inputs) > 40
    assert {} == {place: inputs for place, inputs in slow_inputs.items() if inputs}


def test_patterns_are_found():
    assert any(Path(place.split(":")[0]).name == "litert.py" for place, _, _ in patterns())
