"""``gate --measure-noise``: how small a slowdown this machine can show, and how often the gate raises a false alarm."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from effbench.api.compare.noise import MachineNoise, measure_noise
from effbench.api.compare.pairs import TARGET
from effbench.api.compare.run import round_settings
from effbench.api.export.artifacts import export_artifact
from effbench.api.export.request import ExportRequest
from effbench.api.export.stage import Notify, silent
from effbench.errors import UnavailableError
from effbench.profiles import devices
from effbench.schema import DEFAULT_RESOLUTION, Resolution
from effbench.statistics.sequential import Rules
from effbench.store import home as home_of

DEFAULT_MODEL = "regla_m"


def measure_machine_noise(
    model: str = DEFAULT_MODEL,
    *,
    resolution: Resolution = DEFAULT_RESOLUTION,
    target: str = TARGET,
    threads: int = 1,
    device: str = "local",
    budget_s: float = 60.0,
    minutes: float = 5.0,
    rules: Rules | None = None,
    out: str | Path | None = None,
    notify: Notify = silent,
) -> MachineNoise:
    """Run a model against a rebuilt copy of itself and store the noise with the machine's description.

    Args:
        model: A registered name, an .onnx file, or ``package.module:factory``.
        resolution: Pixels.
        target: The runtime.
        threads: Intra-operator threads; the result holds for this number only.
        device: Where to run.
        budget_s: The time budget that the detectable slowdown is stated for.
        minutes: How long to run.
        rules: Floor, margin, chance of a false alarm.
        out: The folder to write below.
        notify: Called with one line per step.
    """
    _check_device(device)
    home = home_of(out)
    request = ExportRequest(model, [target], [resolution], out=home, notify=notify, verify=False)
    a = export_artifact(request)
    # Exported again into another folder: other files, other memory pages, the same model.
    rebuilt_home = home / "rebuilt"
    shutil.rmtree(rebuilt_home, ignore_errors=True)
    rebuilt = export_artifact(replace(request, out=rebuilt_home))
    settings = round_settings(None, threads, budget_s=budget_s)
    return measure_noise(a, rebuilt, settings, rules or Rules(), minutes, home, notify)


def _check_device(name: str) -> None:
    """Refuse a device other than this machine.

    Raises:
        UsageError: The device is unknown.
        UnavailableError: It is another machine.
    """
    device = devices.get(name)
    if device.transport != "local":
        raise UnavailableError(
            f"Noise is measured on this machine only, not on '{name}' ({device.transport}).",
            hint=f"A gate with --device {name} does not need it: it takes the default noise floor.",
        )
