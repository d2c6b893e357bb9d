"""The stages of a job in a child process: announced to the parent, timed for the manifest."""

from __future__ import annotations

import time
from typing import Any

from effbench.schema import Stage


class Stages:
    """Announces each stage of a job as it begins, and keeps its duration."""

    def __init__(self, emit: Any) -> None:
        self._emit = emit
        self._since = time.perf_counter()
        self.done: list[Stage] = []
        self._name: str | None = None

    def begin(self, name: str) -> None:
        """End the last stage and begin another."""
        self.end()
        self._emit({"event": "stage", "stage": name})
        self._name, self._since = name, time.perf_counter()

    def end(self) -> tuple[Stage, ...]:
        """End the last stage; returns all stages so far."""
        if self._name is not None:
            self.done.append(Stage(self._name, round(time.perf_counter() - self._since, 3)))
            self._name = None
        return tuple(self.done)
