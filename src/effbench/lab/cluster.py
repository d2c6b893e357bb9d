"""A pool on Dask distributed: a worker beside each device host offers the device as a resource.

::

    dask scheduler --host 127.0.0.1 --port 8786
    dask worker tcp://127.0.0.1:8786 --nthreads 1 --resources "orin=1" --name orin-a

A scheduler on another machine must use ``tls://``, with the certificates of Dask's configuration
(``DASK_DISTRIBUTED__COMM__TLS__CA_FILE`` etc.): a client of a scheduler can run any code on its workers.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import logging
import queue
import time
from collections.abc import Mapping
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from effbench.errors import DeviceError, MissingDependencyError, UnavailableError, UsageError
from effbench.lab import inert
from effbench.lab import job as jobs
from effbench.lab.job import FAULT, LabJob

CONNECT_S = 10.0
LOOK_EVERY_S = 0.5


def check_address(address: str) -> bool:
    """Return whether a scheduler's address is encrypted.

    Raises:
        UsageError: The address is invalid, or on another machine without encryption.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("tcp", "tls") or not parts.hostname:
        raise UsageError(f"--scheduler {address}: expected tls://HOST:PORT, or tcp://127.0.0.1:PORT on this machine.")
    if parts.scheme == "tcp" and not is_local(address):
        raise UsageError(
            f"--scheduler {address} is on another machine and unencrypted: others could run code on the lab.",
            hint="Use tls:// with certificates (docs/how-to/lab.md).",
        )
    return parts.scheme == "tls"


def is_local(address: str) -> bool:
    """Return whether an address of a scheduler is on this machine."""
    host = urlsplit(address).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Cluster:
    """The workers of one scheduler that offer devices."""

    def __init__(self, address: str, devices: tuple[str, ...]) -> None:
        encrypted = check_address(address)
        try:
            distributed: Any = import_module("distributed")
        except ImportError as error:
            raise MissingDependencyError("--scheduler", "distributed", "lab") from error
        for name in ("distributed", "distributed.client", "tornado.application", "asyncio"):
            # These loggers report a lost scheduler or worker with tracebacks; the engine reports it in one sentence.
            logging.getLogger(name).setLevel(logging.CRITICAL)
        inert.protect()
        security = distributed.Security(require_encryption=True) if encrypted else None
        if security is not None and not security.tls_client_cert:
            raise UsageError(
                f"--scheduler {address}: no certificates are configured.",
                hint="Set DASK_DISTRIBUTED__COMM__TLS__CA_FILE, __CLIENT__CERT and __CLIENT__KEY (docs/how-to/lab.md).",
            )
        try:
            self._client: Any = distributed.Client(
                address, security=security, timeout=CONNECT_S, set_as_default=False, name="effbench"
            )
        except (OSError, TimeoutError) as error:
            raise UnavailableError(
                f"No scheduler answers at {address}: {type(error).__name__}.", hint="dask scheduler starts one."
            ) from error
        self._address, self._devices = address, devices
        self._ended: queue.Queue[Any] = queue.Queue()
        self._futures: dict[str, Any] = {}
        self._units: dict[str, str] = {}
        self._looked = float("-inf")

    def units(self) -> Mapping[str, str]:
        """Return the workers that offer one of the devices.

        Raises:
            DeviceError: The connection to the scheduler is lost; finished jobs are stored.
        """
        if time.monotonic() - self._looked >= LOOK_EVERY_S:
            self._looked = time.monotonic()
            if self._client.status != "running":
                raise self._lost()
            try:
                # Not client.scheduler_info(): its background refresh returns only five workers.
                workers = self._client.sync(self._client.scheduler.identity, n_workers=-1)["workers"]
            except OSError as error:
                raise self._lost() from error
            offered = {address: set(worker["resources"]) & set(self._devices) for address, worker in workers.items()}
            self._units = {address: min(names) for address, names in offered.items() if names}
        return self._units

    def _lost(self) -> DeviceError:
        hint = "Finished jobs are stored; restart the scheduler and run the sweep again for the others."
        return DeviceError(f"The scheduler at {self._address} is lost.", hint=hint)

    def start(self, job: LabJob, unit: str, store: str | None) -> None:
        """Submit a job to one worker; the device's resource prevents a second sweep from using it at the same time."""
        future: Any = self._client.submit(
            jobs.run_text,
            json.dumps({"function": job.function, "arguments": job.arguments, "store": store, "key": job.key}),
            key=f"effbench-{job.key}-{time.monotonic_ns()}",
            workers=[unit],
            resources={job.device: 1},
            pure=False,
            retries=0,
        )
        self._futures[unit] = future
        future.add_done_callback(self._ended.put)

    def finished(self, timeout_s: float) -> list[tuple[str, dict[str, Any]]]:
        """Wait for an answer, and return all answers."""
        ready = []
        with contextlib.suppress(queue.Empty):
            ready.append(self._ended.get(timeout=timeout_s))
            while True:
                ready.append(self._ended.get_nowait())
        units = {future.key: unit for unit, future in self._futures.items()}
        answers = []
        for future in ready:
            unit = units.get(future.key)
            if unit is not None:
                del self._futures[unit]
                answers.append((unit, _answer(future)))
        return answers

    def abandon(self, unit: str) -> None:
        """Cancel the job of a unit."""
        future = self._futures.pop(unit, None)
        if future is not None:
            future.cancel()

    def close(self) -> None:
        """Cancel running jobs and disconnect from the scheduler."""
        for unit in list(self._futures):
            self.abandon(unit)
        self._client.close(timeout=5)


def _answer(future: Any) -> dict[str, Any]:
    if future.status == "finished":
        return jobs.read_answer(future.result())
    if future.status == "error":
        error = future.exception()
        # A worker killed repeatedly by a job is a fault of the device; any other error is one of the job.
        killed = {"status": FAULT} if type(error).__name__ == "KilledWorker" else {}
        return {**jobs.unexpected(error), **killed}
    return {"status": FAULT, "reason": f"the job was {future.status}"}
