"""Run work in a child process that speaks JSON lines, so that a crash, a hang or a kill becomes an error with a cause.

The parent sends one job (a JSON object) on the child's standard input and reads events from its standard output. A
library that prints cannot disturb them: the child redirects its standard output to its standard error, which is a log.
"""

from __future__ import annotations

from effbench.process.answers import (
    CRASHED,
    MEMORY_LIMIT,
    TIME_LIMIT,
    ChildFailure,
    EventReader,
    exit_text,
    reading_answer,
    single,
)
from effbench.process.child import die_with_parent, serve
from effbench.process.parent import Output, Python, kill_all, output, require_posix, run

__all__ = [
    "CRASHED",
    "MEMORY_LIMIT",
    "TIME_LIMIT",
    "ChildFailure",
    "EventReader",
    "Output",
    "Python",
    "die_with_parent",
    "exit_text",
    "kill_all",
    "output",
    "reading_answer",
    "require_posix",
    "run",
    "serve",
    "single",
]
