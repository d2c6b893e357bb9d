"""Turn measurements and published latencies into rows: statistics of the samples, and what identifies the artifact."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from statistics import median
from typing import Any

from effbench.errors import DataError, counted, unknown_name
from effbench.reports import pareto, published
from effbench.reports.accuracy import Accuracy, accuracy_of, beside_latency, with_accuracy
from effbench.schema import InputShapes, Measurement, Row, Samples
from effbench.statistics import percentiles

METRICS = {"top1": "top-1 %", "coco_ap": "COCO box AP", "ade_miou": "ADE20K mIoU %"}
"""Accuracy metrics of a report, and their column headers."""

PUBLISHED_CHOICES = ("none", "same", "all")

Grader = Callable[[Measurement], tuple[str, Sequence[str]]]


def build_rows(
    measurements: Iterable[Measurement],
    *,
    grade: Grader,
    metric: str = "top1",
    accuracies: Mapping[str, Accuracy] | None = None,
    published_rows: str = "same",
) -> tuple[Row, ...]:
    """Turn measurements into rows with their fronts marked, in a fixed order.

    Of several measurements of one artifact in the same state, the best evidence is used (`best_evidence`).

    Args:
        measurements: All measurements, repeats included, in any order.
        grade: Returns a measurement's trust letter (A to D) and the reasons.
        metric: One of `METRICS`.
        accuracies: Accuracies measured here, by artifact digest; they take precedence over published ones.
        published_rows: Published latencies to add: ``none``, those of the ``same`` models and sizes, or ``all``.

    Raises:
        DataError: There is no measurement.
        UsageError: The metric, or the choice of published rows, is unknown.
    """
    check_metric(metric)
    if published_rows not in PUBLISHED_CHOICES:
        raise unknown_name(published_rows, PUBLISHED_CHOICES, "choice of published rows")
    graded = best_evidence(measurements, grade)
    if not graded:
        raise DataError("There is nothing to report yet: no measurement was found.", hint="Next: effbench profile")
    measured = [item for item, _ in graded]
    rows = [measured_row(item, metric, trust, (accuracies or {}).get(item.digest)) for item, trust in graded]
    names = {item.subject.published for item in measured if item.subject.published}
    sizes = {max(item.subject.resolution) for item in measured if item.subject.resolution}
    rows += _published_rows(metric, names, sizes, published_rows)
    return tuple(sorted(pareto.mark_fronts(rows), key=order))


def check_metric(metric: str) -> str:
    """Return the metric's column head.

    Raises:
        UsageError: It is not one of `METRICS`.
    """
    if metric not in METRICS:
        raise unknown_name(metric, METRICS, "metric")
    return METRICS[metric]


Graded = tuple[Measurement, tuple[str, Sequence[str]]]
"""A measurement, its trust letter and the reasons for it."""


def best_evidence(measurements: Iterable[Measurement], grade: Grader) -> tuple[Graded, ...]:
    """Return the best measurement of each artifact, device, settings and conditions, with its grade.

    One with enough rounds for an interval wins over one without, then the better grade, then the later one. Its notes
    say how old it is if a later one was weaker. Another version of the runtime is another state: the latest version
    replaces all earlier ones, because a table does not compare versions.

    Args:
        measurements: All measurements, repeats included, in any order.
        grade: Returns a measurement's trust letter (A to D) and the reasons.
    """
    by_key: dict[str, list[Measurement]] = {}
    for measurement in measurements:
        conditions = {name: value for name, value in measurement.must_match().items() if name != "runtime"}
        artifact = (measurement.digest, measurement.subject.model)  # two models may have equal files
        key = repr((artifact, sorted(conditions.items(), key=lambda item: item[0])))
        by_key.setdefault(key, []).append(measurement)
    return tuple(_best(items, grade) for items in by_key.values())


def _best(items: Sequence[Measurement], grade: Grader) -> Graded:
    # Of equal times, the last one counts as the latest.
    latest = max(enumerate(items), key=lambda entry: (entry[1].time, entry[0]))[1]
    graded = [(item, grade(item)) for item in items if item.before.get("runtime") == latest.before.get("runtime")]

    def strength(entry: tuple[int, Graded]) -> tuple[bool, int, str, int]:
        index, (item, (letter, _)) = entry
        return len(item.samples.rounds) >= percentiles.MIN_ROUNDS, -ord(letter[:1] or "Z"), item.time, index

    best, trust = max(enumerate(graded), key=strength)[1]
    if best is latest:
        return best, trust
    rounds, (letter, _) = len(latest.samples.rounds), next(own for item, own in graded if item is latest)
    note = (
        f"measured {_age(best.time, latest.time)} a later, weaker measurement "
        f"({counted(rounds, 'round')}, trust {letter})"
    )
    return replace(best, notes=(*best.notes, note)), trust


def _age(time: str, later: str) -> str:
    """Return ``on 2026-11-24, 6 days before``."""
    try:
        days = (datetime.fromisoformat(later) - datetime.fromisoformat(time)).days
    except (TypeError, ValueError):  # a time of another tool
        return f"on {time[:10]}, before"
    return f"on {time[:10]}, {counted(days, 'day')} before" if days else f"on {time[:10]}, the same day as"


def order(row: Row) -> tuple[Any, ...]:
    """Sort key of a report: measured before published, then device, size, conditions, latency, name."""
    return (
        row.source != "measured",
        row.device,
        row.machine,
        row.shapes,
        row.scope != "end-to-end",
        row.protocol,
        row.batch,
        row.threads or 0,
        row.p50_ms if row.p50_ms is not None else float("inf"),
        row.model,
        row.target,
        row.precision,
        row.settings,
        row.digest,
    )


def measured_row(
    measurement: Measurement, metric: str, graded: tuple[str, Sequence[str]], measured_accuracy: Accuracy | None = None
) -> Row:
    """Build the row of one measurement; `pareto.mark_fronts` sets its front later."""
    subject = measurement.subject
    accuracy = measured_accuracy or accuracy_of(subject, metric)
    letter, reasons = graded
    row = Row(
        device=measurement.device,
        machine=machine_text(measurement.before),
        system=_system_text(measurement.before),
        runtime=str(measurement.before.get("runtime") or ""),
        shapes=subject.shapes,
        model=subject.model,
        family=subject.family,
        reconstruction=subject.reconstruction,
        source=measurement.origin,
        target=subject.target,
        storage_precision=subject.storage_precision,
        compute_precision=subject.compute_precision or "?",
        weights=subject.weights.kind,
        batch=subject.batch,
        threads=_threads(measurement.settings),
        settings=_other_settings(measurement.settings),
        scope=measurement.samples.scope,
        protocol=measurement.samples.protocol,
        aggregate=measurement.samples.aggregate,
        accuracy_metric=metric,
        params=subject.params,
        macs=subject.macs,
        size_bytes=subject.size_bytes,
        fidelity_passed=subject.fidelity_passed,
        trust=letter,
        trust_reasons=tuple(reasons),
        digest=measurement.digest,
        notes=(*measurement.doubts, *subject.remarks, *measurement.notes),
    )
    complete = _with_statistics(with_accuracy(row, accuracy), measurement.samples)
    if not measurement.samples.aggregate:
        return complete
    # A tool's own statistic is one figure per run: it supports neither percentiles nor a rate.
    figure_ms = median(value for item in measurement.samples.rounds for value in item.samples_ns) / 1e6
    return replace(complete, p50_ms=figure_ms, p50_interval_ms=None, p90_ms=None, p99_ms=None, images_per_s=None)


def machine_text(before: Mapping[str, Any]) -> str:
    """Return in one line what must be equal for two rows of one device name to be ranked together."""
    parts = [str(before[key]) for key in ("cpu_model", "machine") if before.get(key)]
    states = {"governor": "governor", "power_mode": "power mode", "power_source": "on", "thermal_status": "thermal"}
    parts += [f"{word} {before[key]}" for key, word in states.items() if before.get(key)]
    if before.get("cgroup_cpus"):
        parts.append(f"{before['cgroup_cpus']:g} CPUs allowed" if _number(before["cgroup_cpus"]) else "")
    if _number(before.get("cgroup_memory_bytes")):
        parts.append(f"{before['cgroup_memory_bytes'] / 2**30:.1f} GiB allowed")
    return ", ".join(part for part in parts if part)


def _system_text(before: Mapping[str, Any]) -> str:
    named = (("os", ""), ("python", "Python "))
    return ", ".join(f"{label}{before[key]}" for key, label in named if before.get(key))


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _threads(settings: Mapping[str, str]) -> int | None:
    text = settings.get("threads", "")
    return int(text) if text.isdecimal() else None


def _other_settings(settings: Mapping[str, str]) -> str:
    shown_elsewhere = {"threads", "batch"}
    return " ".join(f"{key}={value}" for key, value in sorted(settings.items()) if key not in shown_elsewhere)


def _with_statistics(row: Row, samples: Samples) -> Row:
    rounds = [round_.samples_ns for round_ in samples.rounds]
    p50, p50_interval = _in_ms(percentiles.estimate(rounds, 0.5))
    p90, p90_interval = _in_ms(percentiles.typical(rounds, 0.9))
    p99, _ = _in_ms(percentiles.estimate(rounds, 0.99))
    share = percentiles.slow_processes(rounds)
    return replace(
        row,
        rounds=len(rounds),
        samples=sum(len(round_) for round_ in rounds),
        p50_ms=p50,
        p50_interval_ms=p50_interval,
        p90_ms=p90,
        p90_interval_ms=p90_interval,
        p99_ms=p99,
        slow_processes=share.slow,
        slow_processes_interval=share.interval,
        images_per_s=percentiles.images_per_second(rounds, row.batch),
        load_ms=median(round_.load_ms for round_ in samples.cached_starts),
        first_ms=median(round_.first_ms for round_ in samples.cached_starts),
        peak_rss_bytes=max(round_.peak_rss_bytes for round_ in samples.rounds),
    )


def _in_ms(estimate: percentiles.Estimate | None) -> tuple[float | None, tuple[float, float] | None]:
    """Return a percentile and its interval in milliseconds; no interval if it is open."""
    if estimate is None:
        return None, None
    if estimate.interval is None or math.isinf(estimate.interval[1]):
        return estimate.value / 1e6, None
    return estimate.value / 1e6, (estimate.interval[0] / 1e6, estimate.interval[1] / 1e6)


def _published_rows(metric: str, names: Collection[str], sizes: Collection[int], choice: str) -> list[Row]:
    if choice == "none":
        return []
    facts = published.latencies()
    if choice == "same":
        facts = tuple(
            fact
            for fact in facts
            if fact.image_px in sizes and any(published.same_architecture(fact.model, name) for name in names)
        )
    return [published_row(fact, metric) for fact in facts]


def published_row(fact: published.PublishedFact, metric: str) -> Row:
    """Build the row of a published latency on the device it was published for; ``p50_ms`` holds that figure."""
    name = published.display_name(fact)
    row = Row(
        device=fact.device,
        shapes=InputShapes((fact.image_px, fact.image_px)),
        model=name,
        source="published",
        weights="published",
        p50_ms=fact.value,
        accuracy_metric=metric,
        params=_count(fact, "params_M", 1e6),
        macs=_count(fact, "gmacs", 1e9),
        citations=fact.citations,
        notes=(f"latency: {fact.source}",),
    )
    return with_accuracy(row, beside_latency(fact, metric))


def _count(latency: published.PublishedFact, quantity: str, unit: float) -> int | None:
    facts = published.lookup(published.display_name(latency), quantity) or published.lookup(latency.timm_name, quantity)
    # Parameters do not depend on the image size; MACs do.
    fitting = [fact for fact in facts if quantity == "params_M" or fact.image_px == latency.image_px]
    return round(fitting[0].value * unit) if fitting else None
