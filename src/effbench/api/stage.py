"""What the stages of an export share: the children they run in, their limits, and how an error ends a cell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from effbench.errors import EffbenchError, UnavailableError, UsageError
from effbench.schema import Cell

Notify = Callable[[str], None]

STAGE_LIMIT_S = 600.0
WORKER, AGENT = "effbench.api.worker", "effbench.agent"


def silent(message: str) -> None:
    """Report progress to nobody."""


def failed(cell: Cell, error: EffbenchError) -> Cell:
    """Turn an error into the status it stands for."""
    kinds = ((UnavailableError, "unavailable"), (UsageError, "unsupported"))
    status = next((name for kind, name in kinds if isinstance(error, kind)), "failed")
    return replace(
        cell, status=status, reason=error.message, next_step=error.hint or "", exit_code=type(error).exit_code
    )
