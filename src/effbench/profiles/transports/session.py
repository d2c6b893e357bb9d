"""A link to a machine with Python: a supervisor there, the agent copied once by content hash, one process per job."""

from __future__ import annotations

import contextlib
import functools
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from effbench import process, reading
from effbench.boundary import isolation
from effbench.codec import file_sha256
from effbench.errors import DataError, DeviceError, EffbenchError, UsageError
from effbench.profiles.transports.channel import Channel, LostError
from effbench.profiles.transports.link import Event
from effbench.profiles.transports.zipapp import agent
from effbench.schema import Device

CONNECTION = {
    "python": "the interpreter that runs the agent, 3.10 or newer with numpy and the runtime (default: python3)",
    "home": "the folder for the agent and for the files of a session (default: ~/.cache/effbench)",
    "timeout_s": "time limit for an answer of the device, in seconds (default: 30)",
}
HOME = "~/.cache/effbench"
TIMEOUT_S = 30.0
LONGEST_TIMEOUT_S = 3600.0
GRACE_S = 2.5
"""The device ends a job at its time limit; the answer may take this much longer to arrive."""

PING_S = 5.0
NOISE_BYTES = 65536
"""The most that a login shell may print before the supervisor answers."""

GET_BYTES, GET_LIMIT_S = 4 << 30, 3600.0
"""The most that a file of a session may be, and take."""

CHUNK = 1 << 18
SUPERVISOR = Path(isolation.ROOT) / "effbench" / "device" / "supervisor.py"
MARK = b"effbench1 "
T = TypeVar("T")


def timeout_of(device: Device) -> float:
    """Return the time limit for an answer of a device, in seconds.

    Raises:
        UsageError: It is no number of seconds.
    """
    value = device.connection.get("timeout_s", TIMEOUT_S)
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 < seconds <= LONGEST_TIMEOUT_S:
        raise UsageError(
            f"timeout_s of '{device.name}' is {value!r}, which is no number of seconds from 0 to {LONGEST_TIMEOUT_S:g}."
        )
    return seconds


class Supervised:
    """A link over a channel whose other end runs `effbench.device.supervisor`."""

    def __init__(self, device: Device, open_channel: Callable[[], Channel]) -> None:
        connection = device.connection
        self.name = device.name
        self._python = str(connection.get("python", ""))
        self._timeout_s = timeout_of(device)
        self._buffer, self._lines, self._noise = reading.LineBuffer(), deque[bytes](), b""
        self._busy = threading.Lock()
        self._closed = threading.Event()
        self._broken: LostError | None = None
        self._channel = open_channel()
        try:
            self._facts = self._hello(str(connection.get("home", HOME)))
            self._put_agent()
        except BaseException:
            self._channel.close()
            raise
        threading.Thread(target=self._ping, daemon=True).start()

    def facts(self) -> dict[str, Any]:
        """Return the supervisor's greeting: see `effbench.device.supervisor`."""
        return dict(self._facts)

    def put(self, files: Mapping[str, Path], folder: str) -> str:
        """Copy files into a folder of the session; the device checks each by its hash."""
        with self._busy, self._guarded():
            need = sum(path.stat().st_size for path in files.values())
            if need > self._facts["free_bytes"]:
                raise self._full(need)
            for name, path in files.items():
                with path.open("rb") as stream:
                    pieces = iter(lambda: stream.read(CHUNK), b"")
                    self._put(f"{folder}/{name}", path.stat().st_size, file_sha256(path), pieces, need)
        return f"{self._facts['session']}/{folder}"

    def run(self, module: str, job: Mapping[str, Any], *, time_limit_s: float) -> Iterator[Event]:
        """Run one job of the agent; see `Link.run`."""
        archive = agent()
        request = {
            "op": "run",
            "argv": [self._python or self._facts["executable"], "-I", f"{self._facts['home']}/{archive.path}", module],
            "stdin": json.dumps(job) + "\n",
            "limit_s": time_limit_s,
            "check": {archive.path: archive.sha256},
        }
        with self._busy, self._guarded():
            self._send(request)
            reader = process.EventReader()
            for answer in self._answers(time_limit_s + GRACE_S):
                if "line" in answer:
                    event = reader.read(str(answer["line"]))
                    if event is not None:
                        yield event
                elif "error" in answer:
                    hint = "Another user writes to that folder; choose another home in [connection], and run again."
                    raise DeviceError(f"'{self.name}': {answer['error']}.", hint=hint if "changed" in answer else None)
                else:
                    self._send({"op": "ping"})  # the supervisor expects a request after the end of a job
                    code, log = answer.get("exit"), answer.get("log")
                    if not isinstance(code, int) or not isinstance(log, str):
                        raise self._malformed(answer)
                    reader.finish(code, time_limit_s if answer.get("timed_out") else None, log)
                    return

    def get(self, path: str, to: Path) -> None:
        """Fetch a file of the session."""
        import base64

        with self._busy, self._guarded():
            self._send({"op": "get", "path": path})
            with to.open("wb") as stream:
                deadline, size = time.monotonic() + GET_LIMIT_S, 0
                while "end" not in (answer := self._answer(self._timeout_s)):
                    self._refused(answer)
                    size += stream.write(self._checked(base64.b64decode, answer.get("data")))
                    if size > GET_BYTES or time.monotonic() > deadline:
                        raise LostError(f"'{self.name}' sends a file without end.")

    def close(self) -> None:
        """End the session; the supervisor removes its folder."""
        self._closed.set()
        if self._broken is None:
            with contextlib.suppress(LostError):
                self._channel.send(b'{"op": "bye"}\n', 2.0)
        self._broken = LostError(f"The session with '{self.name}' was closed.")
        self._channel.close()

    def _hello(self, home: str) -> dict[str, Any]:
        try:
            self._channel.send(json.dumps(SUPERVISOR.read_text()).encode() + b"\n", self._timeout_s)
            self._answer(self._timeout_s, greeting=True)
            self._send({"op": "hello", "home": home})
            answer = self._answer(self._timeout_s)
        except LostError as error:
            output = " ".join((self._noise + b" " + self._channel.log().encode()).decode(errors="replace").split())
            hint = f"Its output: {output[-300:]}" if output else "It needs a python3 (3.7 or newer) on its PATH."
            raise DeviceError(f"'{self.name}' does not start python3: {error.message}", hint=hint) from error
        self._refused(answer)
        kinds = {"home": str, "session": str, "executable": str, "free_bytes": int}
        if not all(type(answer.get(key)) is kind for key, kind in kinds.items()):
            raise self._malformed(answer)
        return answer

    def _put_agent(self) -> None:
        archive = agent()
        self._send({"op": "have", "files": {archive.path: archive.sha256}})
        if self._answer(self._timeout_s).get("have"):
            return
        data = archive.data
        pieces = iter([data[start : start + CHUNK] for start in range(0, len(data), CHUNK)])
        self._put(archive.path, len(data), archive.sha256, pieces, len(data))

    def _put(self, path: str, size: int, sha256: str, pieces: Iterator[bytes], need: int) -> None:
        self._send({"op": "put", "path": path, "size": size, "sha256": sha256})
        for piece in pieces:
            self._channel.send(piece, self._timeout_s)
        answer = self._answer(self._timeout_s)
        if "error" in answer and answer.get("errno") in (28, 122):  # ENOSPC, EDQUOT
            raise self._full(need)
        self._refused(answer)

    def _full(self, need: int) -> DeviceError:
        text = f"The disk of '{self.name}' is full: {need / 2**20:.1f} MiB are needed below {self._facts['home']}."
        return DeviceError(text, hint="Free some space, or choose another home in [connection].")

    def _refused(self, answer: Event) -> None:
        if "error" in answer:
            raise DeviceError(f"'{self.name}' refused: {answer['error']}.")

    def _send(self, request: Mapping[str, Any]) -> None:
        if self._broken is not None:
            raise self._broken
        self._channel.send(json.dumps(request).encode() + b"\n", self._timeout_s)

    def _answer(self, limit_s: float, greeting: bool = False) -> Event:
        return next(self._answers(limit_s, greeting))

    def _answers(self, limit_s: float, greeting: bool = False) -> Iterator[Event]:
        """Yield answers until the time limit, which starts now.

        Raises:
            LostError: The connection ended, the device does not answer, or its answer violates the protocol.
        """
        deadline = time.monotonic() + limit_s
        while True:
            while self._lines:
                line = self._lines.popleft()
                if line.startswith(MARK):
                    yield self._parsed(line)
                elif not greeting:
                    raise LostError(f"'{self.name}' sent something that is not effbench's protocol: {line[:60]!r}.")
                elif len(self._noise) < NOISE_BYTES:
                    self._noise += line + b"\n"
                if time.monotonic() >= deadline:  # a device that never stops to answer
                    raise self._silent(limit_s)
            self._fill(deadline, limit_s)

    def _parsed(self, line: bytes) -> Event:
        parse = functools.partial(reading.json_value, location=self.name, finite=False, longest=None)
        answer = self._checked(parse, line[len(MARK) :])
        if not isinstance(answer, dict):
            raise self._malformed(answer)
        return answer

    def _checked(self, read: Callable[[Any], T], value: Any) -> T:
        """Return what an answer holds; one that violates the protocol ends the connection."""
        try:
            return read(value)
        except (DataError, KeyError, TypeError, ValueError) as error:
            raise LostError(f"'{self.name}' sent a malformed answer: {error}.") from error

    def _malformed(self, answer: Any) -> LostError:
        return LostError(f"'{self.name}' sent a malformed answer: {str(answer)[:60]!r}.")

    def _silent(self, limit_s: float) -> LostError:
        hint = f"effbench doctor --device {self.name}"
        return LostError(f"'{self.name}' did not answer within {limit_s:g} s.", hint=hint)

    def _fill(self, deadline: float, limit_s: float) -> None:
        data = self._channel.receive(deadline - time.monotonic())
        if data is None:
            raise self._silent(limit_s)
        if not data:
            log = self._channel.log()
            raise LostError(
                f"'{self.name}' closed the connection.", hint=f"Its last output: {log[-300:]}" if log else None
            )
        try:
            self._lines.extend(self._buffer.add(data))
        except DataError:
            raise LostError(f"'{self.name}' sends an answer without end.") from None

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """End the connection if an exchange stopped half way: later answers could not be matched to requests."""
        if self._broken is not None:
            raise self._broken
        try:
            yield
        except LostError as error:
            self._break(error)
            raise
        except EffbenchError:
            raise  # an answer, and the exchange is complete
        except BaseException:
            self._break(LostError(f"The exchange with '{self.name}' was interrupted."))
            raise

    def _break(self, error: LostError) -> None:
        self._broken = error
        self._closed.set()
        self._channel.close()

    def _ping(self) -> None:
        while not self._closed.wait(PING_S):
            if self._busy.acquire(blocking=False):  # send nothing while a device measures
                try:
                    self._send({"op": "ping"})
                except LostError as error:
                    self._break(error)
                finally:
                    self._busy.release()
