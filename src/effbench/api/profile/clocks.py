"""Lock a device's clocks during a measurement: after consent, and restored also if effbench is killed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from effbench import process
from effbench.api.export.stage import Notify
from effbench.api.remote import Remote
from effbench.device import AGENT
from effbench.errors import EffbenchError, UnavailableError, UsageError

Ask = Callable[[Sequence[str]], bool]
LIMIT_S = 90.0


@contextlib.contextmanager
def locked(remote: Remote, ask: Ask | None, say: Notify) -> Iterator[None]:
    """Lock the clocks for a block; ``ask`` gets the changes and returns whether to make them.

    Raises:
        UnavailableError: There is nothing to lock, or effbench lacks the rights to.
        UsageError: The user did not agree; nothing was changed.
    """
    if ask is None:
        yield
        return
    changes = _do(remote, "plan")["settings"]
    if not changes:
        text = f"'{remote.device.name}' has no clocks to lock: no CPU governor, jetson_clocks or nvidia-smi was found"
        raise UnavailableError(f"{text}, or they are locked already.", hint="Leave --lock-clocks out.")
    if not ask(changes):
        raise UsageError("Not agreed; nothing was changed.", hint="Leave --lock-clocks out to measure as it is.")
    _lock(remote, say)
    remote.after_connecting = lambda: _lock(remote, say)  # the watchdog restored them when the connection was lost
    try:
        yield
    finally:
        remote.after_connecting = None
        _unlock(remote, say)


def setting(remote: Remote) -> dict[str, str]:
    """Return what a measurement records: figures of locked clocks are not compared with others."""
    return {"clocks": "locked"} if remote.clocks_locked else {}


def _lock(remote: Remote, say: Notify) -> None:
    for text in _do(remote, "lock")["settings"]:
        say(f"locked: {text}")
    remote.clocks_locked = True


def _unlock(remote: Remote, say: Notify) -> None:
    remote.clocks_locked = False
    try:
        restored = _do(remote, "unlock")["restored"]
    except EffbenchError as error:
        say(f"the device was lost ({error.message}); its watchdog restores the clocks")
        return
    say("clocks are restored" if restored else "some clocks could NOT be restored; a reboot restores them")


def _do(remote: Remote, action: str) -> dict[str, Any]:
    answer = process.single(remote.run(AGENT, {"op": "clocks", "do": action}, time_limit_s=LIMIT_S))
    result: dict[str, Any] = answer
    return result
