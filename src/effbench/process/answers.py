"""What a child process answers, here or on a device: its events, its error, and how it ended."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from effbench import errors, reading

CRASHED, TIME_LIMIT, MEMORY_LIMIT = "crashed", "time limit", "memory limit"
"""The causes of a `ChildFailure`; a child that was killed from outside counts as crashed."""

_SIGKILL = 9
"""By number: Windows has no such signal, and this module is imported there."""

STAGE_CHARS, MESSAGE_CHARS = 200, 20_000
"""Of what a child, or a device, says of itself."""


class ChildFailure(errors.EffbenchError):
    """A child ended without its result: it crashed, was killed, or ran into a limit.

    Args:
        cause: `CRASHED`, `TIME_LIMIT` or `MEMORY_LIMIT`.
        message: One sentence.
        stage: The last stage that the child announced.
        log: The end of its standard error.
        exit_status: Its exit code, negative for a signal; None where it was stopped at a limit.
    """

    def __init__(self, cause: str, message: str, stage: str, log: str, exit_status: int | None = None) -> None:
        self.cause = cause
        self.stage = stage
        self.exit_status = exit_status
        last_line = next((line for line in reversed(log.strip().splitlines()) if line.strip()), "")
        super().__init__(message, hint=f"Its last line: {last_line.strip()[:300]}" if last_line else None)
        self.log = log

    @property
    def killed(self) -> bool:
        """Whether another process killed it, or the system for lack of memory."""
        return self.exit_status == -_SIGKILL


class EventReader:
    """Parses the lines of a child, here or on a device, and raises the error it ended with."""

    def __init__(self) -> None:
        self.stage = "start"
        self._has_result = False
        self._error: errors.EffbenchError | None = None

    def read(self, line: bytes | str) -> dict[str, Any] | None:
        """Return the event of a line, or None if it concerns this reader only."""
        try:
            event: dict[str, Any] = reading.json_value(line, self.stage, finite=False, longest=None)
            kind = event["event"]
        except (errors.DataError, KeyError, TypeError):
            self._error = self._error or errors.MeasurementError(f"{self.stage} sent no event: {line[:60]!r}.")
            return None
        self.stage = str(event.get("stage", self.stage))[:STAGE_CHARS]
        if kind == "error":
            self._error = self._error or _rebuild(event)
        self._has_result = self._has_result or kind == "done"
        return None if kind in ("done", "stage", "error") else event

    def finish(self, code: int | None, limit_s: float | None, log: str) -> None:
        """Raise the error that the child ended with, if any.

        Args:
            code: The exit code, negative for a signal; None if the child was still running.
            limit_s: The time limit that it exceeded, or None.
            log: The end of its standard error.

        Raises:
            EffbenchError: The child reported it.
            ChildFailure: It ended without its result.
        """
        if self._error is not None:
            self._error.log = log
            raise self._error
        if limit_s is not None:
            raise ChildFailure(TIME_LIMIT, f"{self.stage} was stopped after {round(limit_s, 1):g} s", self.stage, log)
        if not self._has_result:
            status = code or 0
            raise ChildFailure(CRASHED, f"{self.stage} ended with {exit_text(status)}", self.stage, log, status)


def exit_text(status: int) -> str:
    """Describe how a child without a result ended: by which signal (negative), or with which exit code."""
    if status == -_SIGKILL:
        return "SIGKILL (out of memory, or killed)"
    if status < 0:
        names = {item.value: item.name for item in signal.Signals}
        return f"{names.get(-status, f'signal {-status}')} (a crash in native code)"
    return f"exit code {status} and no result"


@contextlib.contextmanager
def reading_answer(of: str) -> Iterator[None]:
    """Turn what an answer lacks, or holds in another form, into one sentence: a device is not trusted to be right.

    Raises:
        MeasurementError: Code inside met a missing key or a value of another kind.
    """
    try:
        yield
    except errors.DataError as error:
        raise errors.MeasurementError(f"The answer of {of} is malformed: {error.message}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise errors.MeasurementError(f"The answer of {of} is malformed ({type(error).__name__}: {error}).") from error


def single(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the one event that a job answers with.

    Raises:
        MeasurementError: It answered with none, or with more than one.
        EffbenchError: See `run`.
    """
    events = iter(events)
    answer = next(events, None)
    if answer is None:
        raise errors.MeasurementError("The process ended without an answer.")
    for _ in events:
        raise errors.MeasurementError("The process answered more than once.")
    return answer


def _rebuild(event: Mapping[str, Any]) -> errors.EffbenchError:
    """Return the error that the child reported, with its class and so its exit code."""
    hint, details = event.get("hint"), event.get("details")
    message = str(event.get("message", "it failed without a reason"))[:MESSAGE_CHARS]
    error = errors.rebuilt(str(event.get("kind")), message, None if hint is None else str(hint)[:MESSAGE_CHARS])
    for name, value in details.items() if isinstance(details, dict) else ():
        if name in errors.DETAILS and (value is None or isinstance(value, (str, int))):
            setattr(error, name, value)
    return error
