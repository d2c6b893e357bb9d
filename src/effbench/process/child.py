"""The side of the child: it reads one job from its standard input, and answers with events on its standard output."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from effbench import errors, reading

Emit = Callable[[dict[str, Any]], None]
Handler = Callable[[dict[str, Any], Emit], None]

PARENT = "EFFBENCH_PARENT_PID"
"""The variable that tells a child its parent, which may be dead before the child can ask."""


def serve(handlers: Mapping[str, Handler]) -> None:
    """Read one job, run the handler that its ``op`` names, and report the result; the main function of a child.

    A handler emits events. An `EffbenchError` is reported with its class, any other exception with its last line.
    """
    die_with_parent()
    _prefer_for_oom_kill()
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def emit(event: dict[str, Any]) -> None:
        channel.write(json.dumps(event) + "\n")
        channel.flush()

    job = reading.json_value(sys.stdin.readline(), "the job", finite=False, longest=None)
    try:
        handlers[job["op"]](job, emit)
        emit({"event": "done"})
    except errors.EffbenchError as error:
        details = {key: value for key, value in vars(error).items() if key not in ("message", "hint")}
        kind = next(cls.__name__ for cls in type(error).__mro__ if hasattr(errors, cls.__name__))
        emit({"event": "error", "kind": kind, "message": error.message, "hint": error.hint, "details": details})
    except MemoryError:
        emit({"event": "error", "kind": "EffbenchError", "message": f"{job['op']} ran out of memory"})
    except Exception as error:
        traceback.print_exc()
        emit({"event": "stage", "stage": f"{job['op']} ({type(error).__name__}: {str(error).splitlines()[:1]})"})
        raise
    finally:
        channel.close()


def _prefer_for_oom_kill() -> None:
    """Ask Linux to kill this process, not its parent, when memory runs out: the parent records the failure."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies; elsewhere writing to the closed pipe ends it.

    A parent that died before the request is noticed by its number: the process ends at once.
    """
    if sys.platform.startswith("linux"):
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
        parent = os.environ.pop(PARENT, "")
        if parent.isdecimal() and os.getppid() != int(parent):
            os._exit(1)
