"""The noise of a machine, as `gate --measure-noise` prints it."""

from __future__ import annotations

from effbench.api.compare.noise import MachineNoise
from effbench.errors import counted


def text(noise: MachineNoise) -> str:
    """Return the noise of a machine as lines of text."""
    machine = noise.machine
    slowdown = "above 100 %" if noise.detectable_pct is None else f"+{noise.detectable_pct:g} %"
    cores, threads = f"{machine['cores_allowed']} cores", counted(int(machine["threads"]), "thread")
    lines = [
        f"{machine['cpu_model']}, {cores}, {threads}; {noise.model}",
        f"{noise.rounds} rounds of {noise.seconds_per_round:.1f} s, {counted(noise.workers, 'worker')} a round, "
        f"typical latency at quantile {noise.quantile:g}",
        "spread of a round's log ratio: "
        + ", ".join(f"{key} {value:.2f} %" for key, value in noise.spread_pct.items()),
        f"tail: {noise.tail_noise_pct:.2f} %",
        _false_alarms(noise),
        f"smallest slowdown detected in 95 % of runs of {noise.budget_s:g} s: {slowdown}",
        _floor(noise),
        f"not seen: a bias that other files have, or that changes more slowly than these {noise.rounds} rounds",
    ]
    return "\n".join(lines)


def _false_alarms(noise: MachineNoise) -> str:
    if noise.false_alarm_bound is None:
        return (
            f"false alarms: no bound; neighboring rounds depend on each other (correlation {noise.correlation:.2f}): "
            "a load slows one side for many rounds. Measure on a quieter machine"
        )
    low, high = noise.bias_interval_pct
    return (
        f"false alarms: at most {100 * noise.false_alarm_bound:.2f} % of runs, with 95 % confidence, for any bias that "
        f"{noise.rounds} rounds leave open ({low:+.2f} to {high:+.2f} %)"
    )


def _floor(noise: MachineNoise) -> str:
    if noise.bias_pct:
        return f"noise floor on this machine: {max(1.0, noise.bias_pct):.2f} %; one of two equal sides was slower"
    return "noise floor on this machine: 1 % or as requested; no bias of one side was found"
