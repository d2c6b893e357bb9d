"""``gate --calibrate``: what can this machine tell, and how often would it cry wolf?"""

from __future__ import annotations

import shutil
from pathlib import Path

from effbench.api.compare.noise import Calibration, calibrate
from effbench.api.compare.run import RESOLUTION, TARGET, exported, setting_of
from effbench.api.export.run import Notify, silent
from effbench.errors import UnavailableError
from effbench.profiles import devices
from effbench.schema import parse_resolution
from effbench.statistics.sequential import Rules
from effbench.store import home as home_of

DEFAULT_MODEL = "regla_m"


def calibrate_machine(
    model: str = DEFAULT_MODEL,
    *,
    resolution: str | int = RESOLUTION,
    target: str = TARGET,
    threads: int = 1,
    device: str = "local",
    budget_s: float = 60.0,
    minutes: float = 5.0,
    rules: Rules | None = None,
    out: str | Path | None = None,
    notify: Notify = silent,
) -> Calibration:
    """Run a model against a rebuilt copy of itself and store what was found with the machine's description.

    Args:
        model: A registered name, an .onnx file, or ``package.module:factory``.
        resolution: Pixels.
        target: The runtime.
        threads: Intra-operator threads; a calibration counts for these only.
        device: Where to run.
        budget_s: The time budget that the detectable slowdown is told for.
        minutes: How long to run.
        rules: Floor, margin, chance of a false alarm.
        out: The folder to write below.
        notify: Called with one line per step.
    """
    _check_device(device)
    home = home_of(out)
    size = parse_resolution(resolution)
    a = exported(model, target, size, None, home, notify)
    # Rebuilt from the source and laid anew: other files, other pages, the same model.
    rebuilt_home = home / "calibration"
    shutil.rmtree(rebuilt_home, ignore_errors=True)
    rebuilt = exported(model, target, size, None, rebuilt_home, notify)
    setting = setting_of(None, threads, None, budget_s, None, None, None)
    return calibrate(a, rebuilt, setting, rules or Rules(), minutes, home, notify)


def _check_device(device: str) -> None:
    """Refuse a device that a gate cannot be calibrated for.

    Raises:
        UsageError: The device is unknown.
        UnavailableError: It is another machine.
    """
    found = devices.get(device)
    if found.transport != "local":
        raise UnavailableError(
            f"A gate is calibrated for this machine only, not for '{device}' ({found.transport}).",
            hint=f"A gate with --device {device} needs no calibration: it takes the default noise floor.",
        )


def text(found: Calibration) -> str:
    """Return a calibration in words."""
    machine = found.machine
    share = f"{found.false_alarms} of {found.replays} replays, so below {100 * found.false_alarm_bound:.2f} %"
    seen = "above 100 %" if found.detectable_pct is None else f"+{found.detectable_pct:g} %"
    lines = [
        f"{machine['cpu_model']}, {machine['cores_allowed']} cores, {machine['threads']} thread(s); {found.model}",
        f"{found.rounds} rounds of {found.seconds_per_round:.1f} s, {found.workers} worker(s) a round, "
        f"typical latency at quantile {found.quantile:g}",
        "spread of a round's log ratio: "
        + ", ".join(f"{key} {value:.2f} %" for key, value in found.spread_pct.items()),
        f"tail: {found.tail_noise_pct:.2f} %",
        f"false alarms: {share}, with 95 % confidence",
        f"found in 95 % of runs of {found.budget_s:g} s: {seen}",
        f"the noise floor is {max(1.0, found.layout_noise_pct):.2f} % or more here",
    ]
    return "\n".join(lines)
