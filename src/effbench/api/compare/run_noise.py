"""``gate --measure-noise``: how small a slowdown this machine can show, and how often the gate raises a false alarm."""

from __future__ import annotations

import shutil
from dataclasses import replace

from effbench.api.compare.noise import MachineNoise, measure_noise
from effbench.api.compare.request import NoiseRequest
from effbench.api.compare.run import round_settings
from effbench.api.export.artifacts import export_artifact
from effbench.api.export.request import ExportRequest
from effbench.api.keywords import from_fields
from effbench.errors import UnavailableError
from effbench.profiles import devices
from effbench.statistics.sequential import Rules
from effbench.store import home as home_of


@from_fields(NoiseRequest)
def measure_machine_noise(request: NoiseRequest) -> MachineNoise:
    """Run a model against a rebuilt copy of itself and store the noise with the machine's description.

    Arguments are the fields of `NoiseRequest`.

    Raises:
        UnavailableError: The device is not this machine.
        MeasurementError: Too few rounds were completed.
    """
    _check_device(request.device)
    home = home_of(request.out)
    export = ExportRequest(
        request.model, [request.target], [request.resolution], out=home, notify=request.notify, verify=False
    )
    a = export_artifact(export)
    # Exported again into another folder: other files, other memory pages, the same model.
    rebuilt_home = home / "rebuilt"
    shutil.rmtree(rebuilt_home, ignore_errors=True)
    rebuilt = export_artifact(replace(export, out=rebuilt_home))
    settings = round_settings(None, request.threads, budget_s=request.budget_s)
    return measure_noise(a, rebuilt, settings, request.rules or Rules(), request.minutes, home, request.notify)


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
