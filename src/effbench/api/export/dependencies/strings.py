"""What a module's source says without being run: the files that its string constants may name, and its imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

LONGEST = 255
"""Characters of a constant that may name a file."""


def constants(path: Path) -> tuple[str, ...]:
    """Return the string constants of a module that look like the name of a file: one line with a dot or a slash."""
    texts = (node.value for node in _nodes(path) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    likely = {text for text in texts if 0 < len(text) <= LONGEST and ("." in text or "/" in text)}
    return tuple(sorted(text for text in likely if text.isprintable()))


def imports(path: Path) -> tuple[str, ...]:
    """Return the top-level names of the modules that a module imports by an absolute name."""
    names: set[str] = set()
    for node in _nodes(path):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return tuple(sorted(names))


def _nodes(path: Path) -> Iterator[ast.AST]:
    try:
        yield from ast.walk(ast.parse(path.read_bytes()))
    except (OSError, SyntaxError, ValueError):  # gone, or a file that was never a module
        return
