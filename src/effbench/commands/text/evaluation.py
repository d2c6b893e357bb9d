"""Plain text of evaluations for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from effbench.api.evaluate.accuracy import Share, Suspicion
from effbench.api.evaluate.run import Evaluated
from effbench.api.evaluate.session import Result

SHOWN = 5
"""Images on which an artifact parts from the reference; --json lists all."""


def evaluated(found: Evaluated) -> str:
    """Return a call's results for the terminal."""
    from tabulate import tabulate

    header = ("artifact", "engine", "images", "top-1 % [95 %]", "top-5 %", "agrees with fp32 %", "calibration error")
    rows = [
        (
            one.artifact,
            one.evaluation.engine,
            f"{len(one.evaluation.predictions)} of {found.data.images}",
            _percent(one.top1, True),
            _percent(one.top5),
            _percent(one.agreement),
            "" if one.calibration_error is None else f"{one.calibration_error:.3f}",
        )
        for one in found.results
    ]
    lines = [f"{found.data.name}: {found.data.images} images ({found.data.layout}), {found.data.sha256[:12]}"]
    lines.append(tabulate(rows, headers=list(header), tablefmt="simple", disable_numparse=True))
    for one in found.results:
        lines += _parted(one, found.classes)
    lines += [_doubt(model, doubt) for model, doubt in found.suspicions]
    for cell in found.cells:
        what = f"{cell.model} {cell.shapes} px {cell.precision} {cell.target}"
        lines.append(f"{what}: {cell.status}: {cell.reason}" + (f" {cell.next_step}" if cell.next_step else ""))
    if found.results:
        lines.append("next: effbench report")
    return "\n".join(lines)


def _percent(found: Share | None, interval: bool = False) -> str:
    if found is None:
        return ""
    low, high = found.interval_pct
    return f"{found.pct:.2f}" + (f" [{low:.1f}, {high:.1f}]" if interval else "") + f" ({found.hits}/{found.of})"


def _parted(one: Result, classes: Sequence[str] | None) -> list[str]:
    def name(number: int) -> str:
        return classes[number] if classes is not None and number < len(classes) else str(number)

    lines = [
        f"  {item.image}: {name(item.artifact_class)}, the reference {name(item.reference_class)}"
        + ("" if item.label is None else f", labelled {name(item.label)}")
        + f"; best two {item.artifact_margin:.3g} and {item.reference_margin:.3g} nats apart"
        for item in one.disagreements[:SHOWN]
    ]
    more = [f"  and {len(one.disagreements) - SHOWN} more (--json lists all)"] if len(one.disagreements) > SHOWN else []
    return [f"{one.artifact} parts from {one.reference}:", *lines, *more] if lines else []


def _doubt(model: str, doubt: Suspicion) -> str:
    return (
        f"{model}: is its preprocessing right? With {doubt.what} it knows {doubt.images} images better by "
        f"{doubt.gain_nats:.2f} nats on average (p {doubt.p_value:.1g}): {doubt.right_instead} right instead of "
        f"{doubt.right_as_declared}. See docs/tutorial/own-model.md."
    )
