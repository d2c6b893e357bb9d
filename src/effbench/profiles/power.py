"""Energy from power sensors: a separate process reads them while inferences are timed.

If a device has an energy counter (RAPL, NVML), `environment` reads it and no process is started.
The module, run with the root of /sys, prints one line per reading: nanoseconds of the monotonic clock, then JSON of
watts by rail. It ends with its parent.
"""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from effbench import drafts, reading
from effbench.boundary import isolation
from effbench.profiles import environment, sources

PERIOD_S = 0.05
"""An INA3221 averages over about 10 ms per channel; more frequent readings repeat themselves."""


class Meter:
    """The log of a running sampler; `energy_j` integrates it."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def energy_j(self, begin_ns: int, end_ns: int) -> dict[str, float]:
        """Return ``energy_NAME_j`` between two times of `time.perf_counter_ns`; omit rails with too few readings."""
        deadline = time.monotonic() + 20 * PERIOD_S
        readings = self._read()
        while (not readings or readings[-1][0] < end_ns) and time.monotonic() < deadline:
            time.sleep(PERIOD_S)
            readings = self._read()
        return integrate(readings, begin_ns, end_ns)

    def _read(self) -> list[tuple[int, dict[str, float]]]:
        *lines, _ = self._log.read_text().split("\n")  # the last one may be incomplete
        parts = (line.partition(" ") for line in lines)
        return [(int(at), reading.json_value(watts, "the power log", finite=False)) for at, _, watts in parts]


def integrate(readings: list[tuple[int, dict[str, float]]], begin_ns: int, end_ns: int) -> dict[str, float]:
    """Return the energy of each rail between two times, by the trapezoidal rule with interpolated ends."""
    import numpy as np

    energies = {}
    for name in sorted({name for _, watts in readings for name in watts}):
        points = [(at, watts[name]) for at, watts in readings if name in watts]
        times, values = np.array([at for at, _ in points], dtype=float), np.array([value for _, value in points])
        inside = times[(times > begin_ns) & (times < end_ns)]
        if len(points) < 2 or times[0] > begin_ns or times[-1] < end_ns or not len(inside):
            continue
        grid = np.concatenate([[begin_ns], inside, [end_ns]])
        heights = np.interp(grid, times, values)
        energies[f"energy_{name}_j"] = float(np.sum((heights[1:] + heights[:-1]) / 2 * np.diff(grid)) / 1e9)
    return energies


@contextlib.contextmanager
def meter() -> Iterator[Meter | None]:
    """Start a sampler if there are power sensors; yield None if there are none, or on a system without /sys."""
    root = environment.SYS.parent
    if not sys.platform.startswith("linux") or not sources.power_w(root):
        yield None
        return
    with drafts.scratch() as folder:
        log = Path(folder) / "power"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                isolation.command("effbench.profiles.power", str(root)),
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=subprocess.DEVNULL,
            )
        try:
            yield Meter(log)
        finally:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()


def main() -> None:
    """Print readings until the parent closes the standard input."""
    root = Path(sys.argv[1])
    while not select.select([sys.stdin], [], [], PERIOD_S)[0]:
        watts = sources.power_w(root)
        print(time.perf_counter_ns(), json.dumps(watts), flush=True)


if __name__ == "__main__":
    main()
