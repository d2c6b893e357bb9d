"""Let another thread act while a function runs, always at the same step: races without chance."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest


class Meanwhile:
    """Runs an action in a thread when a function is called for the first time, before that function does its work.

    The function waits for the action for ``patience_s``: an action that a lock holds back ends after it.
    """

    def __init__(self, patch: pytest.MonkeyPatch, patience_s: float = 0.3) -> None:
        self._patch, self._patience_s = patch, patience_s
        self._reached = False
        self._pool = ThreadPoolExecutor(1)
        self._action: Future[object] | None = None

    def at(self, owner: Any, name: str, action: Callable[[], object]) -> None:
        """Start the action at the first call of ``owner.name``."""
        real = getattr(owner, name)

        def replaced(*arguments: Any, **options: Any) -> Any:
            if not self._reached:
                self._reached = True  # before the action starts: it may call the same function
                self._action = self._pool.submit(action)
                wait([self._action], self._patience_s)
            return real(*arguments, **options)

        self._patch.setattr(owner, name, replaced)

    def finish(self) -> None:
        """Wait for the action, and raise what it raised."""
        assert self._action is not None, "the step was never reached"
        self._action.result(60)
        self._pool.shutdown()
