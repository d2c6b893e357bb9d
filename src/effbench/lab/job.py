"""The job of a worker: one JSON object in, one out; a failure is an answer, not an exception."""

from __future__ import annotations

import json
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effbench import reading
from effbench.codec import fingerprint, plain
from effbench.errors import DataError, DeviceError, EffbenchError, UnavailableError, UnsupportedError
from effbench.registry import import_object

OK, FAILED, UNAVAILABLE, UNSUPPORTED, FAULT = "ok", "failed", "unavailable", "unsupported", "fault"
"""A *failed* job fails on any device; after a *fault* of the device, the job is tried on another one."""

MOST_CHARACTERS = 16 * 2**20
"""Of an answer: a result holds identities, and no samples."""


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


def run_text(text: str) -> str:
    """Run a job that another process describes as JSON, and return the answer as JSON; the function of Dask workers.

    Every error is an answer, since an exception would travel as a pickle, which the client does not read.
    """
    try:
        job = reading.json_value(text, "the job", finite=False, longest=None)
        answer = run(str(job["function"]), dict(job["arguments"]), job["store"], str(job["key"]))
    except Exception as error:  # noqa: BLE001 - the answer of the job
        answer = unexpected(error)
    return json.dumps(plain(answer))


def read_answer(text: Any) -> dict[str, Any]:
    """Check the answer of another process, which may be of any version or broken.

    Returns:
        It, or the answer that says what is wrong with it: a fault of that process.
    """
    try:
        if not isinstance(text, str) or len(text) > MOST_CHARACTERS:
            raise ValueError(f"a {type(text).__name__}")
        return check_answer(reading.json_value(text, "the answer", finite=False, longest=None))
    except (ValueError, RecursionError, DataError) as error:
        return {"status": FAULT, "reason": f"the worker's answer is none of effbench: {str(error)[:200]}"}


def check_answer(answer: Any) -> dict[str, Any]:
    """Return an answer whose fields all have the type and the values that they may have.

    Raises:
        DataError: It names the field.
    """
    if not isinstance(answer, dict):
        raise DataError(f"an answer that is a {type(answer).__name__}.")
    if answer.get("status") not in (OK, FAILED, UNAVAILABLE, UNSUPPORTED, FAULT):
        raise DataError(f"the status {str(answer.get('status'))[:40]!r}.")
    kinds: dict[str, Any] = {"reason": str, "next_step": str, "seconds": (int, float), "new": bool}
    for name, kind in kinds.items():
        if name in answer and not isinstance(answer[name], kind):
            raise DataError(f"a '{name}' that is a {type(answer[name]).__name__}.")
    if unknown := set(answer) - {"status", "result", *kinds}:
        raise DataError(f"an unknown field {min(map(str, unknown))[:40]!r}.")
    if answer["status"] not in (OK,) and not answer.get("reason"):
        raise DataError(f"no reason for '{answer['status']}'.")
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
