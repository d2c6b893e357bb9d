"""A device in use: connected when needed, again after a loss, with each artifact of a run copied to it once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effbench import process
from effbench.codec import from_json
from effbench.deploy.artifact import bundle
from effbench.device import AGENT
from effbench.errors import DataError, DeviceError, EffbenchError, MeasurementError, UnavailableError, UsageError
from effbench.profiles import devices, transports
from effbench.profiles.transports.channel import LostError
from effbench.profiles.transports.session import timeout_of
from effbench.schema import FORMAT_VERSION, Artifact, Device, Round

WAITS_S = (0.0, 1.0, 4.0)
"""Before each attempt to connect again: a dropped connection is back at once, a reboot takes longer."""

FINISH_LIMIT_S = 900.0


class Remote:
    """One device during one command."""

    def __init__(self, device: Device, record: Path | None = None) -> None:
        self.device = device
        self._record = record
        self._link: transports.Link | None = None
        self._folders: dict[str, str] = {}
        self._finished: dict[str, Artifact] = {}
        self._losses = 0
        self._lost_at = 0.0
        self._was_connected = False
        self.after_connecting: Callable[[], None] | None = None
        """Called after each reconnection, to restore the state that was lost with the connection."""
        self.clocks_locked = False

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def local(self) -> bool:
        """Whether the device is the machine and interpreter of this process."""
        return self.device.transport == "local"

    @property
    def origin(self) -> str:
        """The origin of a measurement on this device: measured, emulated, or replayed."""
        if self.device.transport == "replay":
            return "replayed"
        return "emulated" if self.device.evidence == "emulated" else "measured"

    def link(self) -> transports.Link:
        """Return the connection; a lost one is made again.

        Raises:
            DeviceError: The device cannot be connected, or refuses.
        """
        if self._link is None:
            time.sleep(WAITS_S[min(self._losses, len(WAITS_S) - 1)] if self._was_connected else 0.0)
            try:
                self._link = transports.connect(self.device, self._record)
            except LostError as error:
                self._losses += 1
                timeout_s = timeout_of(self.device)
                if self._was_connected and time.monotonic() - self._lost_at < timeout_s:
                    raise  # it was connected a moment ago, and may be again
                raise DeviceError(error.message, hint=error.hint) from error
            again, self._was_connected = self._was_connected, True
            if again and self.after_connecting is not None:
                self.after_connecting()
        return self._link

    def run(self, module: str, job: Mapping[str, Any], *, time_limit_s: float) -> Iterator[dict[str, Any]]:
        """Run one job on the device and yield its answers, like `process.run`.

        Raises:
            DeviceError: The device was lost; the next call connects again.
            EffbenchError: Reported by the agent.
        """
        try:
            yield from self.link().run(module, job, time_limit_s=time_limit_s)
            self._losses = 0
        except LostError:
            self._drop()
            raise

    def place(self, artifact: Artifact) -> str:
        """Return the folder of an artifact on the device, and copy the artifact there first if necessary.

        A bundle that its device has to finish is finished there; see `finished`.
        """
        if self.local:
            return str(artifact.folder.resolve())
        if artifact.digest not in self._folders:
            names = [name for name in artifact.files if name != bundle.REFERENCE]
            folder = self._put({name: artifact.folder / name for name in (*names, bundle.MANIFEST)}, artifact.name)
            self._folders[artifact.digest] = self._finish(artifact, folder)
        return self._folders[artifact.digest]

    def finished(self, artifact: Artifact) -> Artifact:
        """Return the artifact that the device built from a bundle; any other artifact is returned as it is."""
        return self._finished.get(artifact.digest, artifact)

    def put(self, path: Path, folder: str) -> str:
        """Copy one file to the device; return its path there."""
        return str(path.resolve()) if self.local else f"{self._put({path.name: path}, folder)}/{path.name}"

    def observe(self) -> dict[str, Any]:
        """Return the environment of the device (`environment.observe` run there), or nothing if the device is lost."""
        try:
            answer = process.single(self.run(AGENT, {"op": "observe"}, time_limit_s=60))
        except LostError:
            return {}
        with process.reading_answer(f"'{self.device.name}'"):
            return {**answer["environment"]}

    def contradictions(self, observed: Mapping[str, Any], force: bool) -> tuple[str, ...]:
        """Return what a machine contradicts of the device.

        Args:
            observed: Its environment, as a measurement records it.
            force: Return contradictions instead of refusing them.

        Raises:
            UsageError: It contradicts something, without ``force``.
        """
        sentences = self.device.contradictions(observed)
        if sentences and not force:
            hint = (
                "Declare the device that it is (`effbench devices`); --force measures it, with a mark in every table."
            )
            raise UsageError(sentences[0], hint=hint)
        return sentences

    def check_clock(self, samples_ns: Sequence[int], counted_s: float, elapsed_s: float) -> None:
        """Compare the device's clock with this machine's (`check_clock`); a replay takes no time and is not checked."""
        if self.origin != "replayed":
            check_clock(samples_ns, counted_s, elapsed_s)

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

    def _finish(self, artifact: Artifact, folder: str) -> str:
        if artifact.placement.get("finished", True):
            return folder
        job = {"op": "finish", "artifact": folder, "options": artifact.options}
        answer = process.single(self.run(AGENT, job, time_limit_s=FINISH_LIMIT_S))
        with process.reading_answer(f"'{self.device.name}'"):
            built = from_json(Artifact, answer["artifact"], "the agent's answer", folder=artifact.folder)
            self._finished[artifact.digest] = built
            return str(answer["folder"])

    def _drop(self) -> None:
        if self._losses == 0:
            self._lost_at = time.monotonic()
        self._losses += 1
        self._folders.clear()  # the session's folder is deleted with the session
        self.close()


def device_of(name: str) -> Device:
    """Return a device that jobs can be run on.

    Raises:
        UnavailableError: effbench knows the device, but cannot drive it.
        UsageError: The device is unknown, or declared incorrectly.
    """
    device = devices.get(name)
    if device.transport == transports.NONE:
        hint = f"`effbench kit MODEL --device {name}` writes a folder for its owner; `effbench import` reads the result"
        raise UnavailableError(f"effbench cannot drive '{name}' ({device.description}) itself.", hint=hint)
    transports.check_connection(device)
    return device


@dataclass(frozen=True)
class RoundAnswer:
    """What an agent, or a kit, answers to one round."""

    round: Round
    batch: int
    before: dict[str, Any]
    after: dict[str, Any]
    protocol: str = "back-to-back"
    compute_precision: str | None = None
    agent_s: float = 0.0
    aggregate: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.batch < 1 << 31:
            raise DataError(f"{self.batch} images in a batch.")
        if not 0 <= self.agent_s < math.inf:
            raise DataError(f"The agent ran for {self.agent_s} s.")

    @classmethod
    def of(cls, answer: Any, location: str) -> RoundAnswer:
        """Read an answer from JSON data.

        Raises:
            DataError: A field is missing, unknown or of another kind.
        """
        if not isinstance(answer, dict) or not isinstance(answer.get("round"), dict):
            raise DataError(f"{location}: not the answer to a round.")
        from_json(Round, answer["round"], f"{location}: round")  # its own format is checked
        fields = {key: value for key, value in answer.items() if key not in ("event", "round", "format")}
        round_ = {key: value for key, value in answer["round"].items() if key != "format"}
        return from_json(cls, {"format": FORMAT_VERSION, **fields, "round": round_}, location)


def lost(error: EffbenchError) -> bool:
    """Return whether an error means that the connection is lost, so that the next round may work again."""
    return isinstance(error, LostError)


def check_clock(samples_ns: Sequence[int], counted_s: float, elapsed_s: float) -> None:
    """Compare the clock of a device with this machine's: it cannot have counted more time than has passed here.

    Args:
        samples_ns: Of the round, of both sides together.
        counted_s: From the start of the agent to its answer, by the device's clock; 0 if unknown.
        elapsed_s: From the request to the answer, by this machine's clock.

    Raises:
        MeasurementError: The device's clock counted more.
    """
    claimed_s = max(sum(samples_ns) / 1e9, counted_s)
    if claimed_s > 1.02 * elapsed_s + 0.05:
        text = f"The device's clock counted {claimed_s:.1f} s while {elapsed_s:.1f} s passed here"
        raise MeasurementError(f"{text}: it jumped, or runs fast.", hint="Nothing of this round was kept.")
