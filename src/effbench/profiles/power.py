"""Energy from power sensors: a process of its own reads them while inferences are timed.

Where a device keeps a running total of energy (RAPL, NVML), the counters of `environment` tell it and nothing runs
beside. ``python -m effbench.profiles.power ROOT`` prints one line a reading: nanoseconds of the monotonic clock, then
JSON of watts by rail. It ends with its parent.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from effbench.profiles import environment, sources

PERIOD_S = 0.05
"""An INA3221 averages over some 10 ms a channel; readings closer than that repeat themselves."""


class Meter:
    """What a running sampler writes; `energy_j` integrates it."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def energy_j(self, begin_ns: int, end_ns: int) -> dict[str, float]:
        """Return ``energy_NAME_j`` between two moments of `time.perf_counter_ns`; a rail seen too rarely is absent."""
        deadline = time.monotonic() + 20 * PERIOD_S
        readings = self._read()
        while (not readings or readings[-1][0] < end_ns) and time.monotonic() < deadline:
            time.sleep(PERIOD_S)
            readings = self._read()
        return integrate(readings, begin_ns, end_ns)

    def _read(self) -> list[tuple[int, dict[str, float]]]:
        *lines, _ = self._log.read_text().split("\n")  # the last one may not be whole yet
        parts = (line.partition(" ") for line in lines)
        return [(int(at), json.loads(watts)) for at, _, watts in parts]


def integrate(readings: list[tuple[int, dict[str, float]]], begin_ns: int, end_ns: int) -> dict[str, float]:
    """Return the energy of each rail between two moments, by the trapezoidal rule with the ends interpolated."""
    import numpy as np

    found = {}
    for name in sorted({name for _, watts in readings for name in watts}):
        known = [(at, watts[name]) for at, watts in readings if name in watts]
        times, values = np.array([at for at, _ in known], dtype=float), np.array([value for _, value in known])
        inside = times[(times > begin_ns) & (times < end_ns)]
        if len(known) < 2 or times[0] > begin_ns or times[-1] < end_ns or not len(inside):
            continue
        grid = np.concatenate([[begin_ns], inside, [end_ns]])
        heights = np.interp(grid, times, values)
        found[f"energy_{name}_j"] = float(np.sum((heights[1:] + heights[:-1]) / 2 * np.diff(grid)) / 1e9)
    return found


@contextlib.contextmanager
def meter() -> Iterator[Meter | None]:
    """Start a sampler where sensors tell power; give None where there is none, or on a system without /sys."""
    root = environment.SYS.parent
    if not sys.platform.startswith("linux") or not sources.power_w(root):
        yield None
        return
    package = str(Path(__file__).parent.parent.parent)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "power"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "effbench.profiles.power", str(root)],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])},
            )
        try:
            yield Meter(log)
        finally:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()


def main() -> None:
    """Print readings until the parent closes our standard input."""
    root = Path(sys.argv[1])
    while not select.select([sys.stdin], [], [], PERIOD_S)[0]:
        watts = sources.power_w(root)
        print(time.perf_counter_ns(), json.dumps(watts), flush=True)


if __name__ == "__main__":
    main()
