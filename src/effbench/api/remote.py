"""A device in use: connected when it is needed, again after a loss, with the artifacts of a run pushed once each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from effbench.codec import from_json
from effbench.deploy.artifact import bundle
from effbench.errors import DeviceError, EffbenchError, MeasurementError, UnavailableError
from effbench.profiles import devices, transports
from effbench.profiles.transports.channel import LostError
from effbench.profiles.transports.session import TIMEOUT_S
from effbench.schema import Artifact, Device

AGENT = "effbench.device.agent"
WAITS_S = (0.0, 1.0, 4.0)
"""Before each attempt to connect again: a dropped connection is back at once, a reboot is not."""

FINISH_LIMIT_S = 900.0


class Remote:
    """One device during one command."""

    def __init__(self, device: Device, record: Path | None = None) -> None:
        self.device = device
        self._record = record
        self._link: transports.Link | None = None
        self._places: dict[str, str] = {}
        self._finished: dict[str, Artifact] = {}
        self._lost = 0
        self._lost_at = 0.0
        self._reached = False
        self.after_connecting: Callable[[], None] | None = None
        """Called each time the connection is made anew: what went with the old one has to be done again."""
        self.clocks_locked = False

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def local(self) -> bool:
        """Whether the device is this process's own machine and interpreter."""
        return self.device.transport == "local"

    @property
    def origin(self) -> str:
        """What a measurement on this device is: measured, emulated, or replayed."""
        if self.device.transport == "replay":
            return "replayed"
        return "emulated" if self.device.evidence == "emulated" else "measured"

    def link(self) -> transports.Link:
        """Return the connection, made anew where it was lost.

        Raises:
            DeviceError: The device cannot be reached, or refuses.
        """
        if self._link is None:
            time.sleep(WAITS_S[min(self._lost, len(WAITS_S) - 1)] if self._reached else 0.0)
            try:
                self._link = transports.connect(self.device, self._record)
            except LostError as error:
                self._lost += 1
                timeout_s = float(self.device.connection.get("timeout_s", TIMEOUT_S))
                if self._reached and time.monotonic() - self._lost_at < timeout_s:
                    raise  # it was there a moment ago, and may be back
                raise DeviceError(error.message, hint=error.hint) from error
            again, self._reached = self._reached, True
            if again and self.after_connecting is not None:
                self.after_connecting()
        return self._link

    def run(self, module: str, job: Mapping[str, Any], *, time_limit_s: float) -> Iterator[dict[str, Any]]:
        """Run one job on the device; `process.run` for whatever the device is.

        Raises:
            DeviceError: The device was lost; the next call connects again.
            EffbenchError: What the agent reported.
        """
        try:
            yield from self.link().run(module, job, time_limit_s=time_limit_s)
            self._lost = 0
        except LostError:
            self._drop()
            raise

    def place(self, artifact: Artifact) -> str:
        """Return where an artifact lies on the device, pushing it where it is not there yet.

        A bundle that its device has to finish is finished there first; see `finished`.
        """
        if self.local:
            return str(artifact.folder.resolve())
        if artifact.digest not in self._places:
            names = [name for name in artifact.files if name != bundle.REFERENCE]
            pushed = self._put({name: artifact.folder / name for name in (*names, bundle.MANIFEST)}, artifact.name)
            self._places[artifact.digest] = self._finish(artifact, pushed)
        return self._places[artifact.digest]

    def finished(self, artifact: Artifact) -> Artifact:
        """Return what is measured for an artifact: itself, or what the device made of the bundle that it is."""
        return self._finished.get(artifact.digest, artifact)

    def put(self, path: Path, folder: str) -> str:
        """Bring one file to the device; returns where it lies."""
        return str(path.resolve()) if self.local else f"{self._put({path.name: path}, folder)}/{path.name}"

    def observe(self) -> dict[str, Any]:
        """Return what the device says of itself (`environment.observe` over there), or nothing where it is lost."""
        try:
            (answer,) = self.run(AGENT, {"op": "observe"}, time_limit_s=60)
        except LostError:
            return {}
        found: dict[str, Any] = answer["environment"]
        return found

    def check_clock(self, samples_ns: Sequence[int], answer: Mapping[str, Any], elapsed_s: float) -> None:
        """Hold the device's clock against ours (`check_clock`); a replay takes no time of its own."""
        if self.origin != "replayed":
            check_clock(samples_ns, float(answer.get("agent_s", 0.0)), elapsed_s)

    def close(self) -> None:
        """End the session on the device."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _put(self, files: Mapping[str, Path], folder: str) -> str:
        try:
            return self.link().put(files, folder)
        except LostError:
            self._drop()
            raise

    def _finish(self, artifact: Artifact, pushed: str) -> str:
        if artifact.placement.get("finished", True):
            return pushed
        job = {"op": "finish", "artifact": pushed, "options": artifact.options}
        (answer,) = self.run(AGENT, job, time_limit_s=FINISH_LIMIT_S)
        place = str(answer["folder"])
        made = from_json(Artifact, answer["artifact"], "the agent's answer", folder=artifact.folder)
        self._finished[artifact.digest] = made
        return place

    def _drop(self) -> None:
        if self._lost == 0:
            self._lost_at = time.monotonic()
        self._lost += 1
        self._places.clear()  # the session's folder goes with the session
        self.close()


def device_of(name: str) -> Device:
    """Return a device that jobs can be run on.

    Raises:
        UnavailableError: effbench knows it, but cannot drive it.
        UsageError: It is unknown, or wrongly declared.
    """
    device = devices.get(name)
    if device.transport == transports.NONE:
        hint = f"`effbench kit MODEL --device {name}` makes a folder for whoever holds it; `effbench import` reads it."
        raise UnavailableError(f"effbench cannot drive '{name}' ({device.description}) itself.", hint=hint)
    transports.check_connection(device)
    return device


def lost(error: EffbenchError) -> bool:
    """Tell whether an error means that the connection is gone, so that the next round may work again."""
    return isinstance(error, LostError)


def check_clock(samples_ns: Sequence[int], counted_s: float, elapsed_s: float) -> None:
    """Hold the clock of a device against ours: it cannot have counted more time than has passed here.

    Args:
        samples_ns: Of the round, all sides together.
        counted_s: From the start of the agent to its answer by its own clock; 0 where nothing tells.
        elapsed_s: From the request to the answer by ours.

    Raises:
        MeasurementError: It did; the device's clock jumped or runs fast.
    """
    claimed_s = max(sum(samples_ns) / 1e9, counted_s)
    if claimed_s > 1.02 * elapsed_s + 0.05:
        text = f"The device's clock counted {claimed_s:.1f} s while {elapsed_s:.1f} s passed here"
        raise MeasurementError(f"{text}: it jumped, or runs fast.", hint="Nothing of this round was kept.")
