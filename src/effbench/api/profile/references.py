"""The best that the reference kernels ever took on each machine, kept in the output folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effbench import reading
from effbench.errors import DataError
from effbench.profiles.reference import KERNELS
from effbench.store import locked, write_atomically

FILE = "reference-kernels.json"

IDENTITY = ("cpu_model", "machine", "cores_online", "numpy")
"""What makes two readings comparable, beside the device's name."""


def with_best(home: Path, device: str, run: str, before: Mapping[str, Any], observed: Mapping[str, float]) -> Any:
    """Record a round's readings; return the state before it with the best seen so far on that machine.

    The keys ``reference_NAME_us_best`` are added, and ``reference_earlier_runs``, the number of other runs that these
    come from. A file that cannot be read is begun anew: it only holds what further rounds show again.

    Args:
        home: The output folder.
        device: The name of the device.
        run: The identity of this run.
        before: The state of the machine before the round.
        observed: The observations of the round.
    """
    keys = [key for key in (f"reference_{name}_us" for name in KERNELS) if key in observed]
    if not keys:
        return before
    path = home / FILE
    with locked(path):
        try:
            stored = reading.json_file(path)
        except DataError:
            stored = {}
        stored = stored if isinstance(stored, dict) else {}
        machine = " | ".join([device, *(str(before.get(key)) for key in IDENTITY)])
        entry = stored.get(machine)
        best: dict[str, Any] = entry if isinstance(entry, dict) else {}
        known = best.get("runs")
        runs = [one for one in (known if isinstance(known, list) else ()) if isinstance(one, str) and one != run]
        for key in keys:
            earlier = best.get(key)
            if not isinstance(earlier, int | float) or earlier <= 0:
                earlier = observed[key]
            best[key] = min(observed[key], earlier)
        best["runs"] = [*runs[-9:], run]
        write_atomically(path, json.dumps({**stored, machine: best}, indent=1) + "\n")
    return {**before, **{f"{key}_best": best[key] for key in keys}, "reference_earlier_runs": len(runs)}
