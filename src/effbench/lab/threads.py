"""A pool without a cluster: a thread for each device, in this process."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from effbench.lab import job as jobs
from effbench.lab.job import LabJob


class Threads:
    """Each device is driven from here; the jobs themselves work in child processes or on the devices."""

    def __init__(self, devices: Sequence[str]) -> None:
        self._devices = {name: name for name in devices}
        self._ended: queue.Queue[tuple[str, int, dict[str, Any]]] = queue.Queue()
        self._turn: dict[str, int] = {}

    def units(self) -> Mapping[str, str]:
        """Return the devices; each is one unit."""
        return self._devices

    def start(self, job: LabJob, unit: str, store: str | None) -> None:
        """Start a job in a new thread, which ends with this process."""
        turn = self._turn[unit] = self._turn.get(unit, 0) + 1

        def work() -> None:
            try:
                answer = jobs.run(job.function, job.arguments, store, job.key)
            except Exception as error:  # noqa: BLE001 - the engine waits for an answer in any case
                answer = jobs.unexpected(error)
            self._ended.put((unit, turn, answer))

        threading.Thread(target=work, name=f"lab-{unit}", daemon=True).start()

    def finished(self, timeout_s: float) -> list[tuple[str, dict[str, Any]]]:
        """Wait for an answer, and return all answers."""
        answers = []
        with contextlib.suppress(queue.Empty):
            answers.append(self._ended.get(timeout=timeout_s))
            while True:
                answers.append(self._ended.get_nowait())
        return [(unit, answer) for unit, turn, answer in answers if self._turn.get(unit) == turn]

    def abandon(self, unit: str) -> None:
        """Ignore the answer of the running job."""
        self._turn[unit] = self._turn.get(unit, 0) + 1

    def close(self) -> None:
        """Do nothing: the threads are daemons."""
