"""Plain text of what a paced or a sustained measurement shows beyond its percentiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from effbench.schema import Measurement, Round

BARS = "▁▂▃▄▅▆▇█"
BAR_COUNT = 60


def lines(item: Measurement) -> Iterator[str]:
    """Yield a line on energy where it is known, on frames where they were paced, on the curve of sustained rounds."""
    from effbench.profiles import sustained

    rounds = item.samples.rounds
    energy = energy_mj(rounds)
    if energy:
        told = ", ".join(f"{value:.3g} mJ ({name})" for name, value in energy.items())
        yield f"energy per inference, idle power included: {told}"
    missed = [one.observed["missed_frames_pct"] for one in rounds if "missed_frames_pct" in one.observed]
    if missed:
        worst = max(missed)
        yield "no frame was missed" if worst == 0 else f"frames missed while one was under way: {worst:.1f} %"
    if sustained.is_sustained(item.samples):
        for number, one in enumerate(rounds, 1):
            yield from _sustained(one, f"round {number}: " if len(rounds) > 1 else "")


def energy_mj(rounds: Sequence[Round]) -> dict[str, float]:
    """Return millijoules an inference by what was measured, such as ``package-0`` or ``VDD_IN``; none where unknown.

    All that the rail took while inferences were timed is divided by their number: what the machine draws when idle is
    in it, and so are the waits of a paced round.
    """
    names = sorted({key for one in rounds for key in one.observed if key.startswith("energy_")})
    found = {}
    for name in names:
        known = [one for one in rounds if name in one.observed]
        joules = sum(one.observed[name] for one in known)
        found[name.removeprefix("energy_").removesuffix("_j")] = 1e3 * joules / sum(len(r.samples_ns) for r in known)
    return found


def _sustained(one: Round, prefix: str) -> Iterator[str]:
    from effbench.errors import MissingDependencyError
    from effbench.profiles import sustained

    found = sustained.curve(one, BAR_COUNT)
    low, high = min(found.median_ms), max(found.median_ms)
    yield f"{prefix}{bars(found.median_ms)} {low:.3f} to {high:.3f} ms over {found.time_s[-1] / 60:.1f} min"
    for key, what, unit in (("cpu_mhz", "clock", "MHz"), ("temperature_c", "temperature", "°C")):
        if key in one.trace:
            series = one.trace[key]
            yield f"{prefix}{what}: {series[0]:.0f} {unit} at the start, {series[-1]:.0f} {unit} at the end"
    try:
        step = sustained.throttling(sustained.curve(one))
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


def plot(found: Sequence[Measurement], folder: Path) -> list[Path]:
    """Draw the curves of sustained measurements, one file for each model and resolution; returns the files.

    Raises:
        MissingDependencyError: matplotlib or ruptures is not installed.
    """
    from effbench.profiles import sustained
    from effbench.reports import curve
    from effbench.schema import InputShapes

    long = [item for item in found if sustained.is_sustained(item.samples)]
    files = []
    for (model, resolution), items in groupby(
        sorted(long, key=lambda item: (item.subject.model, item.subject.resolution)),
        key=lambda item: (item.subject.model, item.subject.resolution),
    ):
        drawn = []
        for item in items:
            for one in item.samples.rounds:
                series = sustained.curve(one)
                step = sustained.throttling(series)
                label = f"{item.subject.target} {item.subject.storage_precision}"
                at_s = None if step is None else step.at_s
                drawn.append(curve.Line(label, series.time_s, series.median_ms, at_s))
        title = f"{model} at {InputShapes(resolution)} px"
        files += curve.draw(drawn, title, folder / f"sustained-{model}-{InputShapes(resolution)}")
    return files


def bars(values: Sequence[float]) -> str:
    """Return values as a line of bars, the lowest to the highest."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(BARS[min(int((value - low) / span * len(BARS)), len(BARS) - 1)] for value in values)
