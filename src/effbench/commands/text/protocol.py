"""Plain text of a measurement beyond its percentiles: energy, missed frames, and the course of sustained rounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from effbench.schema import Measurement, Round

BARS = "▁▂▃▄▅▆▇█"
BAR_COUNT = 60


def lines(item: Measurement) -> Iterator[str]:
    """Yield the energy if it was measured, the missed frames of a paced and the course of a sustained measurement."""
    from effbench.profiles import sustained

    rounds = item.samples.rounds
    energy = energy_mj(rounds)
    if energy:
        amounts = ", ".join(f"{value:.3g} mJ ({name})" for name, value in energy.items())
        yield f"energy per inference, idle power included: {amounts}"
    missed = [round_.observed["missed_frames_pct"] for round_ in rounds if "missed_frames_pct" in round_.observed]
    if missed:
        worst = max(missed)
        yield "no frame was missed" if worst == 0 else f"frames missed during an inference: {worst:.1f} %"
    if sustained.is_sustained(item.samples):
        for number, round_ in enumerate(rounds, 1):
            yield from _sustained(round_, f"round {number}: " if len(rounds) > 1 else "")


def energy_mj(rounds: Sequence[Round]) -> dict[str, float]:
    """Return millijoules per inference of each measured power rail, such as ``package-0`` or ``VDD_IN``.

    The energy of a rail during the timed inferences is divided by their number, so it includes the idle power of the
    machine and the waits of a paced round.
    """
    names = sorted({key for item in rounds for key in item.observed if key.startswith("energy_")})
    energies = {}
    for name in names:
        observed = [item for item in rounds if name in item.observed]
        inferences = sum(len(item.samples_ns) for item in observed)
        millijoules = 1e3 * sum(item.observed[name] for item in observed)
        energies[name.removeprefix("energy_").removesuffix("_j")] = millijoules / inferences
    return energies


def _sustained(item: Round, prefix: str) -> Iterator[str]:
    from effbench.errors import MissingDependencyError
    from effbench.profiles import sustained

    curve = sustained.curve(item, BAR_COUNT)
    low, high = min(curve.median_ms), max(curve.median_ms)
    yield f"{prefix}{bars(curve.median_ms)} {low:.3f} to {high:.3f} ms over {curve.time_s[-1] / 60:.1f} min"
    for key, quantity, unit in (("cpu_mhz", "clock", "MHz"), ("temperature_c", "temperature", "°C")):
        if key in item.trace:
            series = item.trace[key]
            yield f"{prefix}{quantity}: {series[0]:.0f} {unit} at the start, {series[-1]:.0f} {unit} at the end"
    try:
        step = sustained.throttling(sustained.curve(item))
    except MissingDependencyError as error:
        yield f"{prefix}{error.message} {error.hint}"
        return
    if step is None:
        yield f"{prefix}no throttling: no lasting rise of {100 * sustained.RISE:.0f} % or more"
    else:
        yield (
            f"{prefix}throttling from minute {step.at_s / 60:.1f} on: {step.before_ms:.3f} ms, "
            f"then {step.after_ms:.3f} ms ({100 * step.rise:+.0f} %)"
        )


def plot(measurements: Sequence[Measurement], folder: Path) -> list[Path]:
    """Draw the curves of sustained measurements, one file for each model and resolution; return the files.

    Raises:
        MissingDependencyError: matplotlib or ruptures is not installed.
    """
    from effbench.profiles import sustained
    from effbench.reports import curve
    from effbench.schema import InputShapes

    long = [item for item in measurements if sustained.is_sustained(item.samples)]
    files = []
    for (model, resolution), items in groupby(
        sorted(long, key=lambda item: (item.subject.model, item.subject.resolution)),
        key=lambda item: (item.subject.model, item.subject.resolution),
    ):
        curves = []
        for item in items:
            for round_ in item.samples.rounds:
                series = sustained.curve(round_)
                step = sustained.throttling(series)
                label = f"{item.subject.target} {item.subject.storage_precision}"
                at_s = None if step is None else step.at_s
                curves.append(curve.Line(label, series.time_s, series.median_ms, at_s))
        title = f"{model} at {InputShapes(resolution)} px"
        files += curve.draw(curves, title, folder / f"sustained-{model}-{InputShapes(resolution)}")
    return files


def bars(values: Sequence[float]) -> str:
    """Return values as a line of bars, the lowest to the highest."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(BARS[min(int((value - low) / span * len(BARS)), len(BARS) - 1)] for value in values)
