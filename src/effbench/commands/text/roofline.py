"""Plain text and images of a roofline."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from effbench.api.profile.roofline import LayerTiming, Peak, Peaks, Roof, Roofline
from effbench.commands.text.layout import table
from effbench.reports.grouping import grouped

WORST = 8
"""How many operators are listed, those that lose the most time against their roof first."""

HEADER = ("artifact", "p50 ms", "MACs", "MB moved", "FLOP/byte", "GFLOP/s", "roof ms", "of the roof")
OPERATORS = ("operator", "layers", "ms", "of the time", "of the roof", "bound by")


def text(roofline: Roofline) -> str:
    """Return the peaks, a line per measurement, and per model the operators that lose the most time."""
    roofs = roofline.roofs
    declared = {roof.peaks: None for roof in roofs if _declared(roof.peaks)}
    lines = [_peaks(peaks) for peaks in (*roofline.peaks, *declared)]
    remarks = [(roof.name, text) for roof in roofs for text in (roof.note, _contradiction(roof)) if text]
    notes = grouped(remarks, len(roofs))
    operators = [line for roof in roofs for line in _operators(roof)]
    return "\n".join([*lines, "", table(HEADER, map(_line, roofs)), *notes, *operators])


def _peaks(peaks: Peaks) -> str:
    parts = [f"peaks at {peaks.threads} thread{'s' * (peaks.threads > 1)}:"]
    for peak, unit in ((peaks.arithmetic, "GFLOP/s"), (peaks.bandwidth, "GB/s")):
        parts.append(f"{unit} unknown" if peak is None else _peak(peak, unit))
    return " ".join(parts)


def _peak(peak: Peak, unit: str) -> str:
    source = f"[{peak.source}]" if peak.declared else f"({peak.source}; {peak.low:.4g} to {peak.high:.4g})"
    return f"{peak.value:.4g} {unit} {source}"


def _declared(peaks: Peaks) -> bool:
    return any(peak is not None and peak.declared for peak in (peaks.arithmetic, peaks.bandwidth))


def _line(roof: Roof) -> list[str]:
    moved, share = roof.bytes, roof.share()
    flop = None if roof.macs is None else 2 * roof.macs
    return [
        roof.name,
        f"{roof.p50_ms:.3f}",
        "" if roof.macs is None else f"{roof.macs / 1e9:.3f} G",
        "" if moved is None else f"{moved / 1e6:.1f}",
        "" if flop is None or moved is None else f"{flop / moved:.1f}",
        "" if flop is None else f"{flop / roof.p50_ms / 1e6:.1f}",
        "" if roof.roof_ms is None else f"{roof.roof_ms:.3f}",
        _without_share(roof) if share is None else _share(*share),
    ]


def _share(middle: float, low: float, high: float) -> str:
    return f"{100 * middle:.0f} % ({100 * low:.0f} to {100 * high:.0f})"


def _without_share(roof: Roof) -> str:
    if roof.impossible_pct is not None:
        return "refused"
    return "in a cache" if roof.cached else ""


def _contradiction(roof: Roof) -> str:
    """Return why a roof has no share although its peaks are known; empty if it has one."""
    if roof.impossible_pct is not None:
        arithmetic = roof.peaks.arithmetic
        declared = arithmetic is not None and arithmetic.declared
        cause = "the declared peak is too low" if declared else "the peak was measured too low, also when repeated"
        return f"refused: p50 would need {roof.impossible_pct:.0f} % of the arithmetic peak, so that {cause}"
    if roof.cached:
        return "faster than its bytes could come from the memory: they stay in a cache, and that roof does not bound it"
    return ""


def _operators(roof: Roof) -> list[str]:
    if not roof.layers:
        return []
    total_us = sum(layer.us for layer in roof.layers)
    rows = []
    for operator, group in groupby(sorted(roof.layers, key=lambda item: item.operator), key=lambda item: item.operator):
        layers = list(group)
        us = sum(layer.us for layer in layers)
        least_us = sum(layer.roof_us(roof.peaks) or 0.0 for layer in layers)
        bound = sum(layer.us for layer in layers if bound_by_arithmetic(layer, roof.peaks)) / us if us else 0.0
        known = all(layer.macs is not None for layer in layers)
        limit = "arithmetic" if bound > 0.5 else "bandwidth"
        share = _operator_share(least_us / us, limit) if us and known else ""
        line = (operator, str(len(layers)), f"{us / 1e3:.3f}", f"{100 * us / total_us:.0f} %", share, limit)
        rows.append((us - least_us, line))
    rows.sort(key=lambda row: -row[0])
    title = f"{roof.model} at {roof.shapes.label}, {roof.target}: {total_us / 1e3:.3f} ms in the profiler"
    return [
        "",
        f"{title}; the operators that lose the most first",
        table(OPERATORS, [line for _, line in rows[:WORST]]),
    ]


def _operator_share(share: float, limit: str) -> str:
    """Return the share of the roof of layers; above it, their data came from a cache, or the peak is too low."""
    if share <= 1:
        return f"{100 * share:.0f} %"
    return "in a cache" if limit == "bandwidth" else "refused: above the peak"


def bound_by_arithmetic(layer: LayerTiming, peaks: Peaks) -> bool:
    """Return whether the arithmetic peak, rather than the bandwidth, bounds a layer."""
    if peaks.arithmetic is None or peaks.bandwidth is None:
        return True
    return 2 * (layer.macs or 0) / peaks.arithmetic.value > layer.bytes / peaks.bandwidth.value


def plot(roofline: Roofline, folder: Path) -> list[Path]:
    """Draw every measurement whose layers are known, one file per model, resolution and target.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    from effbench.reports import roofline as drawing

    files: list[Path] = []
    for roof in roofline.roofs:
        peaks, moved = roof.peaks, roof.bytes
        if peaks.arithmetic is None or peaks.bandwidth is None or moved is None or roof.macs is None:
            continue
        dots = [
            drawing.Dot(layer.operator, 2 * layer.macs / layer.bytes, 2 * layer.macs / layer.us / 1e3, layer.us)
            for layer in roof.layers
            if layer.macs and layer.us
        ]
        whole = drawing.Dot("whole model", 2 * roof.macs / moved, 2 * roof.macs / roof.p50_ms / 1e6, 0.0)
        roofs = (_triple(peaks.arithmetic), _triple(peaks.bandwidth))
        title = f"{roof.model} at {roof.shapes.label}, {roof.target} on {roofline.device}, "
        title += f"{peaks.threads} thread{'s' * (peaks.threads > 1)}"
        files += drawing.draw(dots, whole, roofs, title, folder / f"roofline-{roof.name}")
    return files


def _triple(peak: Peak) -> Sequence[float]:
    return (peak.value, peak.low, peak.high)
