"""Roofline: the peaks of a device, and the share of them that each measured model and layer reaches."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from effbench import process
from effbench.api.export.stage import Notify, silent
from effbench.api.remote import Remote, device_of
from effbench.codec import plain
from effbench.deploy.artifact import bundle
from effbench.device import AGENT
from effbench.errors import UnavailableError, counted
from effbench.schema import FORMAT_VERSION, Device, InputShapes, Measurement
from effbench.statistics import percentiles
from effbench.store import home as home_of
from effbench.store import write_atomically

ROUNDS = 5
"""Fresh processes that measure the peaks; the best value and the range are kept."""
REPEATS = 2
"""Times that peaks are measured again if they contradict something: noise only lowers a peak."""
RUNS = 30
LIMIT_S = 180.0
ON_CPU = ("ort", "ov", "torch", "litert")
"""Targets that run on the CPU, whose peaks are measured; other units have declared peaks or none."""


@dataclass(frozen=True)
class Peak:
    """A rate that is not exceeded: GFLOP/s, or GB/s. ``low`` and ``high`` are the range over rounds, or equal it."""

    value: float
    low: float
    high: float
    source: str

    @property
    def declared(self) -> bool:
        """Whether it comes from the device's profile and was not measured here."""
        return self.source.startswith("declared")


@dataclass(frozen=True)
class Peaks:
    """The two roofs at a number of threads; None if unknown."""

    threads: int
    arithmetic: Peak | None
    bandwidth: Peak | None


@dataclass(frozen=True)
class LayerTiming:
    """One layer as executed; ``macs`` is None if its shapes do not determine them."""

    name: str
    operator: str
    us: float
    macs: int | None
    bytes: int

    def roof_us(self, peaks: Peaks) -> float | None:
        """Return the least time that the peaks allow."""
        return roof_us(self.macs, self.bytes, peaks)


@dataclass(frozen=True)
class Roof:
    """One measurement under its roof; layers only where ONNX Runtime executes them."""

    name: str
    model: str
    shapes: InputShapes
    precision: str
    target: str
    p50_ms: float
    macs: int | None
    peaks: Peaks
    layers: tuple[LayerTiming, ...] = ()
    note: str = ""

    @property
    def bytes(self) -> int | None:
        """Bytes that all layers move, weights included."""
        return sum(layer.bytes for layer in self.layers) or None

    @property
    def roof_ms(self) -> float | None:
        """The least time that the peaks allow: layer by layer where they are known, else by arithmetic alone."""
        if not self.layers:
            least = roof_us(self.macs, 0, self.peaks)
            return None if least is None else least / 1e3
        times = [layer.roof_us(self.peaks) for layer in self.layers]
        return None if None in times else sum(time for time in times if time is not None) / 1e3

    @property
    def impossible_pct(self) -> float | None:
        """The share of the arithmetic peak that p50 needs, if it is above 100 %: then the peak, or p50, is wrong."""
        least = roof_us(self.macs, 0, self.peaks)
        return None if least is None or least <= 1e3 * self.p50_ms else least / self.p50_ms / 10

    @property
    def cached(self) -> bool:
        """Whether it is faster than the memory allows, and not than the arithmetic: its data stay in a cache."""
        return self.impossible_pct is None and self.roof_ms is not None and self.roof_ms > self.p50_ms

    def share(self) -> tuple[float, float, float] | None:
        """Return the share of the roof that is reached, with its range from the range of the peaks.

        None where the peaks are unknown or the share is impossible, and where the memory is no bound (`cached`).
        """
        if self.impossible_pct is not None or self.cached:
            return None
        edges = (self.peaks, _edge(self.peaks, "high"), _edge(self.peaks, "low"))
        roofs_ms = [replace(self, peaks=edge).roof_ms for edge in edges]
        if None in roofs_ms:
            return None
        mid, low, high = (float(roof_ms) / self.p50_ms for roof_ms in roofs_ms if roof_ms is not None)
        return mid, low, high


@dataclass(frozen=True)
class Roofline:
    """The result of one call: a roof per measurement, and the peaks by number of threads."""

    device: str
    roofs: tuple[Roof, ...]
    peaks: tuple[Peaks, ...]


def roof_us(macs: int | None, moved: int, peaks: Peaks) -> float | None:
    """Return the least microseconds for so much work; None where work or a peak is not known."""
    if macs is None or peaks.arithmetic is None or (moved and peaks.bandwidth is None):
        return None
    by_bytes = moved / peaks.bandwidth.value / 1e3 if peaks.bandwidth is not None else 0.0
    return max(2 * macs / peaks.arithmetic.value / 1e3, by_bytes)


def roofline(
    measurements: Sequence[Measurement], device: str = "local", out: str | Path | None = None, notify: Notify = silent
) -> Roofline:
    """Measure a device's peaks and compare measurements and their layers with them.

    Args:
        measurements: Of one device, as `profile` returned them.
        device: Its name.
        out: The folder that their artifacts lie below; the result is kept there as ``roofline-DEVICE.json``.
        notify: Called with one line per step.

    Raises:
        UnavailableError: The peaks of the device are unknown: no agent runs there, and none are declared.
    """
    profiled = device_of(device)
    home = home_of(out)
    counts = sorted({int(measurement.settings.get("threads", 1)) for measurement in measurements} or {1})
    extra = [1, _cores()] if profiled.transport == "local" else []
    with Remote(profiled) as remote:
        measure = partial(measured, remote, notify=notify)
        peaks = rising({n: measure(n) for n in sorted({*counts, *extra})} if _has_agent(profiled) else {}, measure)
        roofs = [_roof(measurement, peaks, profiled, remote, home, notify) for measurement in measurements]
        for _ in range(REPEATS):
            again = {roof.peaks.threads for roof in roofs if roof.impossible_pct is not None} & set(peaks)
            for threads in again:
                notify(f"above the peaks at {counted(threads, 'thread')}, which is impossible: measured again")
                peaks[threads] = best(peaks[threads], measure(threads))
            roofs = [_under(roof, peaks) for roof in roofs]
    if not peaks and all(roof.peaks.arithmetic is None for roof in roofs):
        hint = (
            f"Declare them: [devices.{profiled.name}.facts.fp32_tflops] and bandwidth_gb_per_s, with value and source."
        )
        raise UnavailableError(f"The peaks of '{profiled.name}' are unknown.", hint=hint)
    result = Roofline(profiled.name, tuple(roofs), tuple(peaks.values()))
    text = json.dumps({"format": FORMAT_VERSION, "data": plain(result)}, indent=1) + "\n"
    write_atomically(home / f"roofline-{profiled.name}.json", text)
    return result


def measured(remote: Remote, threads: int, notify: Notify = silent) -> Peaks:
    """Return the peaks of a processor: the best that any of several fresh processes reached, and their range."""
    rounds = []
    for index in range(ROUNDS):
        answer = process.single(remote.run(AGENT, {"op": "roofline", "threads": threads}, time_limit_s=LIMIT_S))
        rounds.append(answer)
        with process.reading_answer(f"'{remote.device.name}'"):
            answer = {key: float(answer[key]) for key in ("gflops", "gb_per_s")}
        text = f"{answer['gflops']:.0f} GFLOP/s, {answer['gb_per_s']:.1f} GB/s"
        notify(f"peaks at {counted(threads, 'thread')}, {index + 1}/{ROUNDS}: {text}")
    return Peaks(
        threads, _peak([answer["gflops"] for answer in rounds]), _peak([answer["gb_per_s"] for answer in rounds])
    )


def best(first: Peaks, second: Peaks) -> Peaks:
    """Return the higher of two peaks each, with the range of both: noise only lowers a peak."""

    def higher(one: Peak | None, other: Peak | None) -> Peak | None:
        if one is None or other is None:
            return one or other
        top = max(one, other, key=lambda peak: peak.value)
        return replace(top, low=min(one.low, other.low), high=max(one.high, other.high))

    return Peaks(first.threads, higher(first.arithmetic, second.arithmetic), higher(first.bandwidth, second.bandwidth))


def rising(peaks: dict[int, Peaks], measure: Callable[[int], Peaks]) -> dict[int, Peaks]:
    """Return peaks that do not fall with the number of threads, as more of them can do what fewer do.

    Those that do are measured again. If they stay below, the peak of fewer threads counts, and its source says so.

    Args:
        peaks: By the number of threads.
        measure: Measures the peaks at a number of threads once more.
    """
    result: dict[int, Peaks] = {}
    lower: Peaks | None = None
    for threads in sorted(peaks):
        own = peaks[threads]
        for _ in range(REPEATS):
            if lower is not None and _at_least(lower, own) != own:
                own = best(own, measure(threads))
        lower = result[threads] = own if lower is None else _at_least(lower, own)
    return result


def _at_least(fewer: Peaks, more: Peaks) -> Peaks:
    """Return the peaks of more threads, with those of fewer where these are higher."""

    def of(one: Peak | None, other: Peak | None) -> Peak | None:
        if one is None or other is None or other.value >= one.value:
            return other
        source = f"measured with {counted(fewer.threads, 'thread')}; {more.threads} were slower, {other.value:.4g}"
        return replace(one, source=source)

    arithmetic, bandwidth = of(fewer.arithmetic, more.arithmetic), of(fewer.bandwidth, more.bandwidth)
    return Peaks(more.threads, arithmetic, bandwidth)


def _under(roof: Roof, peaks: dict[int, Peaks]) -> Roof:
    """Return the roof under the present peaks; declared ones stay, and so does the arithmetic that is not fp32."""
    now = peaks.get(roof.peaks.threads)
    if now is None or roof.peaks.arithmetic is None or roof.peaks.arithmetic.declared:
        return roof
    return replace(roof, peaks=now)


def _peak(values: Sequence[float]) -> Peak:
    """Return the best of all rounds: noise only lowers a peak, so the range lies below it."""
    return Peak(max(values), min(values), max(values), "measured")


def declared(device: Device, precision: str, threads: int) -> Peaks:
    """Return the peaks that a device's profile declares for a precision."""
    facts = device.facts
    name = next((key for key in (f"{precision}_tflops", f"{precision}_tops") if key in facts), None)
    arithmetic = None if name is None else _fact(1e3 * float(facts[name].value), facts[name].source)
    rate = facts.get("bandwidth_gb_per_s")
    return Peaks(threads, arithmetic, None if rate is None else _fact(float(rate.value), rate.source))


def _fact(value: float, source: str) -> Peak:
    return Peak(value, value, value, f"declared: {source}")


def _roof(
    measurement: Measurement, peaks: dict[int, Peaks], device: Device, remote: Remote, home: Path, notify: Notify
) -> Roof:
    subject, threads = measurement.subject, int(measurement.settings.get("threads", 1))
    p50 = percentiles.estimate([item.samples_ns for item in measurement.samples.rounds], 0.5)
    assert p50 is not None, "a measurement has samples"
    artifact = next((item for item in bundle.artifacts(home, skip=True) if item.digest == measurement.digest), None)
    on_cpu = subject.target in ON_CPU and threads in peaks
    precision = subject.compute_precision or subject.storage_precision
    roof = Roof(
        f"{subject.model} {subject.target}" if artifact is None else artifact.name,
        subject.model,
        subject.shapes,
        precision,
        subject.target,
        p50.value / 1e6,
        None if subject.macs is None else subject.macs * subject.batch,
        peaks[threads] if on_cpu else declared(device, precision, threads),
    )
    if on_cpu and precision != "fp32":
        note = f"computes in {precision}; the measured peak is that of fp32"
        return replace(roof, peaks=replace(roof.peaks, arithmetic=None), note=note)
    if not on_cpu or subject.target != "ort" or artifact is None:
        return roof
    notify(f"layers of {artifact.name}")
    job = {"op": "layers", "artifact": remote.place(artifact), "threads": threads, "runs": RUNS}
    answer = process.single(remote.run(AGENT, job, time_limit_s=LIMIT_S))
    with process.reading_answer(f"'{remote.device.name}'"):
        return replace(roof, layers=tuple(LayerTiming(**layer) for layer in answer["layers"]))


def _edge(peaks: Peaks, side: str) -> Peaks:
    def at(peak: Peak | None) -> Peak | None:
        return None if peak is None else replace(peak, value=getattr(peak, side))

    return replace(peaks, arithmetic=at(peaks.arithmetic), bandwidth=at(peaks.bandwidth))


def _has_agent(device: Device) -> bool:
    return device.transport in ("local", "pipe", "ssh")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
