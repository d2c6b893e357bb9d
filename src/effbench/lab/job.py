"""The job of a worker: one JSON object in, one out; a failure is an answer, not an exception."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effbench.codec import fingerprint
from effbench.errors import DeviceError, EffbenchError, UnavailableError, UnsupportedError
from effbench.registry import import_object

OK, FAILED, UNAVAILABLE, UNSUPPORTED, FAULT = "ok", "failed", "unavailable", "unsupported", "fault"
"""A *failed* job fails on any device; after a *fault* of the device, the job is tried on another one."""


@dataclass(frozen=True)
class LabJob:
    """A call of a function for a device of that name.

    ``function`` is an import string; it takes ``arguments`` as keywords and returns JSON data. Two jobs with equal
    ``key`` are the same job.
    """

    device: str
    function: str
    arguments: dict[str, Any] = field(default_factory=dict)
    limit_s: float = 3600.0
    key: str = ""

    def __post_init__(self) -> None:
        if not self.key:
            same = {"device": self.device, "function": self.function, "arguments": self.arguments}
            object.__setattr__(self, "key", fingerprint(same)[:24])


def run(function: str, arguments: dict[str, Any], store: str | None = None, key: str = "") -> dict[str, Any]:
    """Run one job in this process; with a store, write the answer to it before returning.

    Returns:
        ``status``, ``seconds``, and ``result`` or ``reason`` and ``next_step``; ``new``: whether the store lacked it.
    """
    start = time.monotonic()
    try:
        answer: dict[str, Any] = {"status": OK, "result": import_object(function)(**arguments)}
    except EffbenchError as error:
        answer = {"status": status(error), "reason": error.message, "next_step": error.hint or ""}
    answer["seconds"] = time.monotonic() - start
    if store is not None and answer["status"] == OK:
        from effbench.lab.results import Results

        answer["new"] = Results(store).add(key, answer["result"])
    return answer


def unexpected(error: BaseException) -> dict[str, Any]:
    """Return the answer of a job that ended with an unexpected exception: a failure with its type, text and line."""
    frames = traceback.extract_tb(error.__traceback__)
    location = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    text = "".join(f": {line}" for line in str(error).splitlines()[:1])
    return {"status": FAILED, "reason": f"{type(error).__name__}{text}{location}"}


def status(error: EffbenchError) -> str:
    """Return the status of a job that ended with an error."""
    kinds = ((DeviceError, FAULT), (UnsupportedError, UNSUPPORTED), (UnavailableError, UNAVAILABLE))
    return next((name for kind, name in kinds if isinstance(error, kind)), FAILED)
