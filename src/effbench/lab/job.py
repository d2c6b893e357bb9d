"""What a worker of a lab is asked to do: one JSON object in, one out; a failure is an answer, not an exception."""

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
"""A *failed* job would fail anywhere; a *fault* is the device's, and the job is tried on another."""


@dataclass(frozen=True)
class LabJob:
    """Some work for a device of a name.

    ``function`` is an import string; it takes ``arguments`` as keywords and returns JSON data. ``key`` names what is
    done: two jobs of one key are the same job.
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
    """Do one job in this process; with a store, the answer is kept there before anybody else hears of it.

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
    """Return the answer of a job that ended with an exception nobody foresaw: a failure that says what and where."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    text = "".join(f": {line}" for line in str(error).splitlines()[:1])
    return {"status": FAILED, "reason": f"{type(error).__name__}{text}{where}"}


def status(error: EffbenchError) -> str:
    """Return how a job ends with an error."""
    kinds = ((DeviceError, FAULT), (UnsupportedError, UNSUPPORTED), (UnavailableError, UNAVAILABLE))
    return next((name for kind, name in kinds if isinstance(error, kind)), FAILED)
