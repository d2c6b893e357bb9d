"""The noise of a machine, as `gate --measure-noise` prints it."""

from __future__ import annotations

from effbench.api.compare.noise import MachineNoise
from effbench.errors import counted


def text(noise: MachineNoise) -> str:
    """Return the noise of a machine as lines of text."""
    machine = noise.machine
    share = f"{noise.false_alarms} of {noise.replays} replays, so below {100 * noise.false_alarm_bound:.2f} %"
    slowdown = "above 100 %" if noise.detectable_pct is None else f"+{noise.detectable_pct:g} %"
    cores, threads = f"{machine['cores_allowed']} cores", counted(int(machine["threads"]), "thread")
    lines = [
        f"{machine['cpu_model']}, {cores}, {threads}; {noise.model}",
        f"{noise.rounds} rounds of {noise.seconds_per_round:.1f} s, {counted(noise.workers, 'worker')} a round, "
        f"typical latency at quantile {noise.quantile:g}",
        "spread of a round's log ratio: "
        + ", ".join(f"{key} {value:.2f} %" for key, value in noise.spread_pct.items()),
        f"tail: {noise.tail_noise_pct:.2f} %",
        f"false alarms: {share}, with 95 % confidence",
        f"smallest slowdown detected in 95 % of runs of {noise.budget_s:g} s: {slowdown}",
        f"noise floor on this machine: {max(1.0, noise.layout_noise_pct):.2f} % or more",
    ]
    return "\n".join(lines)
