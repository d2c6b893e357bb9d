"""Plain text of evaluations for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from effbench.api.evaluate.accuracy import Share, Suspicion
from effbench.api.evaluate.run import Evaluated
from effbench.api.evaluate.session import Result
from effbench.commands.text.layout import table
from effbench.commands.text.results import outcomes

SHOWN = 5
"""Images on which an artifact disagrees with the reference; --json lists all."""

HEADER = ("artifact", "engine", "images", "top-1 % [95 %]", "top-5 %", "agrees with fp32 %", "calibration error")


def evaluated(evaluation: Evaluated, next_line: str | None = None) -> str:
    """Return the results of one call for the terminal."""
    data = evaluation.data
    lines = [f"{data.name}: {data.images} images ({data.layout}), {data.sha256[:12]}"]
    lines.append(table(HEADER, [_row(result, data.images) for result in evaluation.results]))
    for result in evaluation.results:
        lines += _disagreements(result, evaluation.classes)
    lines += [_suspicion(model, suspicion) for model, suspicion in evaluation.suspicions]
    lines += outcomes(evaluation.cells)
    return "\n".join([*lines, *([next_line] if next_line else [])])


def _row(result: Result, images: int) -> tuple[str, ...]:
    return (
        result.artifact,
        result.evaluation.engine,
        f"{len(result.evaluation.predictions)} of {images}",
        _percent(result.top1, True),
        _percent(result.top5),
        _percent(result.agreement),
        "" if result.calibration_error is None else f"{result.calibration_error:.3f}",
    )


def _percent(share: Share | None, interval: bool = False) -> str:
    if share is None:
        return ""
    low, high = share.interval_pct
    return f"{share.pct:.2f}" + (f" [{low:.1f}, {high:.1f}]" if interval else "") + f" ({share.hits}/{share.of})"


def _disagreements(result: Result, classes: Sequence[str] | None) -> list[str]:
    def name(number: int) -> str:
        return classes[number] if classes is not None and number < len(classes) else str(number)

    lines = [
        f"  {item.image}: {name(item.artifact_class)}, the reference {name(item.reference_class)}"
        + ("" if item.label is None else f", labelled {name(item.label)}")
        + f"; margin to the second class {item.artifact_margin:.3g} and {item.reference_margin:.3g} nats"
        for item in result.disagreements[:SHOWN]
    ]
    hidden = len(result.disagreements) - SHOWN
    more = [f"  and {hidden} more (--json lists all)"] if hidden > 0 else []
    return [f"{result.artifact} disagrees with {result.reference} on:", *lines, *more] if lines else []


def _suspicion(model: str, suspicion: Suspicion) -> str:
    return (
        f"{model}: is its preprocessing right? With {suspicion.what}, the likelihood of the labels of "
        f"{suspicion.images} images rises by {suspicion.gain_nats:.2f} nats on average (p {suspicion.p_value:.1g}): "
        f"{suspicion.right_instead} right instead of {suspicion.right_as_declared}. See docs/tutorial/own-model.md."
    )
