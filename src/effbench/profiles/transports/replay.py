"""A recorded exchange: `Recorder` writes one while a device is used, and transport ``replay`` answers from it.

A recording is JSON lines: the first describes the device, each other one a call and its answer, in order. A replay
gives the same answers to the same calls, so a table, a bug report or a parser can be examined without the device.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from effbench import errors, reading
from effbench.codec import file_sha256, fingerprint, plain
from effbench.errors import DataError, DeviceError, EffbenchError
from effbench.profiles.transports.link import Event, Link, required
from effbench.schema import FORMAT_VERSION, Device

CONNECTION = {"file": "a recording, written by `--record FILE`"}
REQUIRED = {"file": "exchange.jsonl"}
VARIES = ("artifact", "sides", "seed", "reference")
"""Keys of a job that may differ in a replay: paths of a session, and the seed of an order."""


class Recorder:
    """A link that records all calls and answers."""

    def __init__(self, link: Link, device: Device, path: Path) -> None:
        self._link = link
        try:
            self._file = path.open("w")
        except OSError as error:
            link.close()
            raise DataError(
                f"Cannot write {path}: {error.strerror}.", hint="Choose another file for --record."
            ) from error
        self._write({"format": FORMAT_VERSION, "device": plain(device), "facts": link.facts()})

    def put(self, files: Mapping[str, Path], folder: str) -> str:
        """Pass on, and record the hashes of the files."""
        target = self._link.put(files, folder)
        hashes = {name: file_sha256(path) for name, path in files.items()}
        self._write({"call": "put", "folder": folder, "files": hashes, "answer": target})
        return target

    def run(self, module: str, job: Mapping[str, Any], *, time_limit_s: float) -> Iterator[Event]:
        """Pass on, and record the events and a final error."""
        events: list[Event] = []
        line: dict[str, Any] = {"call": "run", "module": module, "job": comparable_job(job), "events": events}
        try:
            for event in self._link.run(module, job, time_limit_s=time_limit_s):
                events.append(event)
                yield event
        except EffbenchError as error:
            kind = next(cls.__name__ for cls in type(error).__mro__ if hasattr(errors, cls.__name__))
            line["error"] = {"kind": kind, "message": error.message, "hint": error.hint}
            raise
        finally:
            self._write(line)

    def get(self, path: str, to: Path) -> None:
        """Pass on, and record the file's content."""
        self._link.get(path, to)
        self._write({"call": "get", "path": path, "data": base64.b64encode(to.read_bytes()).decode()})

    def facts(self) -> dict[str, Any]:
        """Pass on."""
        return self._link.facts()

    def close(self) -> None:
        """Pass on, and close the file."""
        self._link.close()
        self._file.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        if not self._file.closed:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()


class Replay:
    """A link that answers from a recording, in order."""

    def __init__(self, device: Device) -> None:
        self._path = Path(required(device, "file", "exchange.jsonl")).expanduser()
        if not self._path.exists():
            raise DataError(f"{self._path}: no such file.", hint="--record FILE makes a recording.")
        lines = [self._line(number, line) for number, line in reading.lines(self._path)]
        if not lines or lines[0].get("format") != FORMAT_VERSION:
            raise DataError(f"{self._path}: not a recording of this version.", hint="--record FILE makes one.")
        self._head, self._calls, self._at = lines[0], lines[1:], 0

    def _line(self, number: int, line: bytes | None) -> dict[str, Any]:
        location = f"{self._path}:{number}"
        try:
            data = reading.json_value(line or b"", location, finite=False, longest=None)
        except DataError as error:
            raise DataError(f"{error.message[:-1]}: not a recording.", hint="--record FILE makes one.") from error
        if not isinstance(data, dict):
            raise DataError(f"{location}: not a line of a recording.", hint="--record FILE makes one.")
        return data

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Name the line of a recording that lacks something, or holds another kind of value."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            location = f"{self._path}:{self._at + 1}"
            raise DataError(f"{location}: damaged ({error!r}).", hint="--record FILE makes a new one.") from error

    def put(self, files: Mapping[str, Path], folder: str) -> str:
        """Check that the files equal the recorded ones; return the recorded folder."""
        call = self._next("put")
        if call.get("files") != {name: file_sha256(path) for name, path in files.items()}:
            raise self._mismatch("the files differ from the recorded ones")
        with self._reading():
            return str(call["answer"])

    def run(self, module: str, job: Mapping[str, Any], *, time_limit_s: float) -> Iterator[Event]:
        """Yield the recorded events of the same job, then its recorded error."""
        call = self._next("run")
        with self._reading():
            if fingerprint([call["module"], call["job"]]) != fingerprint([module, comparable_job(job)]):
                raise self._mismatch(f"the job differs from the recorded '{call['job'].get('op')}'")
            events = [{**event} for event in call["events"]]
            recorded = call.get("error")
            error = None if recorded is None else (str(recorded["kind"]), str(recorded["message"]), recorded["hint"])
        yield from events
        if error is not None:
            raise errors.rebuilt(*error)

    def get(self, path: str, to: Path) -> None:
        """Write the recorded file."""
        call = self._next("get")
        with self._reading():
            to.write_bytes(base64.b64decode(call["data"], validate=True))

    def facts(self) -> dict[str, Any]:
        """Return the recorded facts."""
        with self._reading():
            return dict(self._head["facts"])

    def close(self) -> None:
        """Do nothing."""

    def _next(self, kind: str) -> dict[str, Any]:
        if self._at >= len(self._calls):
            raise self._mismatch("it holds no further call")
        call: dict[str, Any] = self._calls[self._at]
        self._at += 1
        if call.get("call") != kind:
            raise self._mismatch(f"call {self._at} is '{call.get('call')}', not '{kind}'")
        return call

    def _mismatch(self, difference: str) -> DeviceError:
        hint = "Use the artifacts, options and command of the recording."
        return DeviceError(f"{self._path} does not match: {difference}.", hint=hint)


def comparable_job(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a job that a replay compares; time limits depend on the duration of earlier rounds."""
    ignored = (*VARIES, "round_seconds")
    return {key: value for key, value in plain(job).items() if key not in ignored}


TRANSPORT = Replay
