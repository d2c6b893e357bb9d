"""An Android device behind adb: vendors' runners do the timing, since a phone has no Python.

The runner of a target answers a job of the agent, and `effbench.profiles.vendors` reads its output. Commands are sent
to the device's shell as one constant script that reads the arguments from its standard input, one per line: ``adb
shell`` would join them into one line that the shell splits again.

Written from documentation (the help of adb, the runners' READMEs); not tested on a device.
"""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from effbench import drafts, process
from effbench.boundary.names import cache_folder
from effbench.codec import fingerprint
from effbench.errors import DataError, DeviceError, EffbenchError, MeasurementError, UnavailableError, UsageError
from effbench.profiles import vendors
from effbench.profiles.transports import android
from effbench.profiles.transports.channel import LostError
from effbench.profiles.transports.link import Event
from effbench.profiles.transports.session import timeout_of
from effbench.schema import Device

CONNECTION = {
    "serial": "a serial number of `adb devices`, or host:port (default: the only device attached)",
    "home": "a folder where programs may run (default: /data/local/tmp/effbench)",
    "timeout_s": "time limit for an answer of the device, in seconds (default: 30)",
    **{f"runner_{name}": f"file of {title}, built for the device" for name, title in android.RUNNERS.items()},
    "viewer": "qnn-profile-viewer of the QNN SDK, on this machine",
    "libraries": "folder of shared libraries that the runner needs, such as QNN's",
    "cores": "which cores to run on, as taskset's mask in hex (f0: the four big ones of eight)",
}
HOME = "/data/local/tmp/effbench"
SCRIPT = 'while IFS= read -r a; do set -- "$@" "$a"; done; exec "$@"'
"""The only command line; it reads the arguments from standard input, one per line."""

GONE = re.compile(r"device offline|no devices/emulators|device '[^'\n]{0,200}' not found|error: closed|unauthorized")


class Adb:
    """A link through the adb program."""

    def __init__(self, device: Device) -> None:
        program = shutil.which("adb")
        if program is None:
            hint = "Install Android's platform tools (Debian: apt install adb)."
            raise UnavailableError("Transport 'adb' needs the program adb, which is not on the PATH.", hint=hint)
        connection = device.connection
        self.name, self._device = device.name, device
        self._adb = [program, *(["-s", str(connection["serial"])] if "serial" in connection else [])]
        self._timeout_s = timeout_of(device)
        home = str(connection.get("home", HOME))
        self._hold = contextlib.ExitStack()
        self._home = f"{home}/{self._session(home)}"
        try:
            self.shell(["mkdir", "-p", self._home])
        except BaseException:
            self._hold.close()
            raise
        self._runner = ""

    def _session(self, home: str) -> str:
        """Hold the name of a session on this machine, and remove the sessions on the phone that a kill left behind."""
        prefix = f"session-{fingerprint([self._adb[1:], home])[:12]}-"

        def remove(session: Path) -> None:
            try:
                self.shell(["rm", "-rf", f"{home}/{session.name}"])
            except EffbenchError as error:
                raise OSError(errno.EIO, error.message) from error  # the next session tries again

        folder = cache_folder() / "adb"
        try:
            return self._hold.enter_context(drafts.draft(folder, prefix, remove)).name
        except OSError as error:
            hint = "Name another folder with EFFBENCH_CACHE."
            raise DataError(f"Cannot write {folder}: {error.strerror}.", hint=hint) from error

    def facts(self) -> dict[str, Any]:
        """Return the device's facts: build, processor, battery, thermal status, governor, free space."""
        return {"system": "Android", "home": self._home, **android.facts(self.shell)}

    def put(self, files: Mapping[str, Path], folder: str) -> str:
        """Copy files to the device; adb reports a full disk and a lost device by its exit code."""
        target = f"{self._home}/{folder}"
        self.shell(["mkdir", "-p", target])
        for name, path in files.items():
            self._run(["push", str(path), f"{target}/{name}"], 600.0)
        return target

    def get(self, path: str, to: Path) -> None:
        """Pull a file."""
        self._run(["pull", path, str(to)], 600.0)

    def run(self, module: str, job: Mapping[str, Any], *, time_limit_s: float) -> Iterator[Event]:
        """Run a job with the runner of its target."""
        if job["op"] == "observe":
            yield {"event": "result", "environment": android.environment(self.facts()), "targets": {}}
            return
        if job["op"] != "measure":
            raise UnavailableError(
                f"'{self.name}' has no Python: it can measure, but not {job['op']}.",
                hint=f"effbench kit MODEL --device {self.name} includes the expected outputs.",
            )
        if job.get("rate_hz") is not None or job.get("minutes") is not None:
            raise UnavailableError(f"The runners on '{self.name}' cannot be paced: they run back to back.")
        plan = self._plan(job)
        if plan.result:
            self.shell(["rm", "-f", plan.result])  # onnxruntime_perf_test appends to it
        before = android.environment(self.facts())
        text = self.shell(plan.command, time_limit_s, env=plan.env)
        text = self._viewed(plan.result) if plan.runner == "qnn" else text + self._printed(plan.result)
        _, reading = vendors.read(text, f"the output of {plan.runner}", plan.runner)
        after = android.environment(self.facts())
        yield {
            "event": "round",
            "round": android.round_of(reading),
            "batch": int(job.get("batch") or 1),
            "compute_precision": None,
            "before": before,
            "after": after,
            "protocol": "back-to-back",
            "aggregate": reading.aggregate,
            "notes": [f"timed by {android.RUNNERS[plan.runner]}, not by effbench's clock"],
        }

    def _printed(self, path: str) -> str:
        return self.shell(["cat", path]) if path else ""

    def _viewed(self, log: str) -> str:
        """Convert the profile of qnn-net-run to text, with Qualcomm's viewer on this machine."""
        viewer = self._device.connection.get("viewer", "qnn-profile-viewer")
        with drafts.scratch() as folder:
            self.get(log, Path(folder) / "profile.log")
            command = [str(viewer), "--input_log", str(Path(folder) / "profile.log")]
            try:
                return process.output(command, time_limit_s=120).text
            except OSError as error:
                hint = f'devices.{self.name}.connection.viewer = "FILE" (it comes with the QNN SDK)'
                raise UnavailableError(f"{viewer}: {error.strerror}.", hint=hint) from error

    def close(self) -> None:
        """Remove the session's folder."""
        try:
            self.shell(["rm", "-rf", self._home])
        except DeviceError:
            return  # a lost device cannot be cleaned up
        finally:
            self._hold.close()

    def shell(self, command: Sequence[str], limit_s: float | None = None, env: Mapping[str, str] | None = None) -> str:
        """Run a program on the device and return its output.

        Raises:
            LostError: The device is disconnected or does not answer.
            MeasurementError: The program failed.
        """
        words = [*(["env", *(f"{key}={value}" for key, value in env.items())] if env else []), *command]
        if any("\n" in word for word in words):
            raise UsageError(f"An argument with a line break cannot be sent to '{self.name}'.")
        stdin = "".join(f"{word}\n" for word in words).encode()
        return self._run(["shell", "-T", SCRIPT], limit_s or self._timeout_s, stdin)

    def _run(self, arguments: Sequence[str], limit_s: float, stdin: bytes = b"") -> str:
        command = [*self._adb, *arguments]
        try:
            ended = process.output(command, time_limit_s=limit_s, stdin=stdin)
        except process.ChildFailure as error:
            if error.cause != process.TIME_LIMIT:
                raise LostError(f"'{self.name}' sends an answer without end.", hint="adb devices") from None
            raise LostError(f"'{self.name}' did not answer within {limit_s:g} s.", hint="adb devices") from None
        output, errors = ended.text, ended.errors.strip()
        if ended.returncode == 0:
            return output
        last = (errors or output).strip().splitlines()[-1:] or ["nothing"]
        if GONE.search(errors):
            raise LostError(
                f"'{self.name}' is not connected: {last[0]}.", hint="adb devices; accept the key on its screen"
            )
        if "No space left" in errors + output:
            raise DeviceError(f"The disk of '{self.name}' is full below {self._home}.", hint="Free some space.")
        raise MeasurementError(f"'{self.name}' failed ({ended.returncode}): {last[0]}")

    def _plan(self, job: Mapping[str, Any]) -> android.Plan:
        connection = self._device.connection
        runner = android.runner_of(str(job["target"]))
        file = connection.get(f"runner_{runner}")
        if not file:
            text = f'devices.{self.name}.connection.runner_{runner} = "FILE"'
            raise UsageError(
                f"No {android.RUNNERS[runner]} is declared for '{self.name}'.", hint=f"In effbench.toml: {text}"
            )
        if self._runner != runner:
            self._push_runner(Path(str(file)).expanduser(), runner)
        if runner == "qnn":
            self._put_inputs(job)
        plan = android.plan(runner, f"{self._home}/runner", job, self._device.settings)
        mask = connection.get("cores")
        return android.pin(plan, str(mask)) if mask else plan

    def _put_inputs(self, job: Mapping[str, Any]) -> None:
        """Write one input of zeros beside an artifact; the latency of a dense network does not depend on it."""
        with drafts.scratch() as folder:
            raw, listed = Path(folder) / "input.raw", Path(folder) / "input_list.txt"
            raw.write_bytes(bytes(4 * int(job["input_elements"])))
            listed.write_text(f"{job['artifact']}/input.raw\n")
            for path in (raw, listed):
                self._run(["push", str(path), f"{job['artifact']}/{path.name}"], 600.0)

    def _push_runner(self, file: Path, runner: str) -> None:
        libraries = self._device.connection.get("libraries")
        shared_libraries = sorted(Path(str(libraries)).expanduser().glob("*.so")) if libraries else []
        target = self.put({path.name: path for path in (file, *shared_libraries)}, "runner")
        self.shell(["mv", f"{target}/{file.name}", f"{target}/{runner}"])
        self.shell(["chmod", "755", f"{target}/{runner}"])
        self._runner = runner


TRANSPORT = Adb
