"""The child processes of an export or evaluation inside this one: the real handlers, without an interpreter's start."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any


def run_inline(module: str, job: Mapping[str, Any], **_: object) -> Iterator[dict[str, Any]]:
    """Run one job of a worker in this process and yield its events, as `process.run` does for a child."""
    handlers = import_module(module).HANDLERS
    sent = json.loads(json.dumps(job))
    events: list[dict[str, Any]] = []
    handlers[sent["op"]](sent, events.append)
    yield from (event for event in events if event["event"] != "stage")
