"""From measurements to rows: statistics from the samples, accuracy with where it came from.

An accuracy is *borrowed* when the weights of the artifact did not produce it. Untrained weights borrow always.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from effbench.errors import DataError, unknown_name
from effbench.reports import pareto, published
from effbench.schema import Measurement, Row, Samples, Subject
from effbench.statistics import percentiles

METRICS = {"top1": "top-1 %", "coco_ap": "COCO box AP", "ade_miou": "ADE20K mIoU %"}
"""What a report may show as accuracy, and the head of its column."""

PUBLISHED_CHOICES = ("none", "same", "all")

Grader = Callable[[Measurement], tuple[str, Sequence[str]]]


@dataclass(frozen=True)
class Accuracy:
    """An accuracy with its provenance; ``image_px`` is None where a task fixes the size itself.

    Of one measured here, ``digest`` is that of the files that were run and ``data`` the data set's.
    """

    value: float
    status: str
    source: str
    borrowed: bool
    image_px: int | None = None
    citations: tuple[str, ...] = ()
    interval: tuple[float, float] | None = None
    digest: str = ""
    data: str = ""


def build_rows(
    measurements: Iterable[Measurement],
    *,
    grade: Grader,
    metric: str = "top1",
    accuracies: Mapping[str, Accuracy] | None = None,
    published_rows: str = "same",
) -> tuple[Row, ...]:
    """Turn measurements into rows with their fronts marked, in one fixed order.

    Of several measurements of one artifact under the same settings and conditions, the latest is shown.

    Args:
        measurements: Any order; all of them, repeats included.
        grade: Gives a measurement's trust letter (A to D) and the reasons.
        metric: One of `METRICS`.
        accuracies: Accuracies measured here, by artifact digest; they win over published ones.
        published_rows: Published latencies to set beside: ``none``, those of the ``same`` models and sizes, or ``all``.

    Raises:
        DataError: There is no measurement.
        UsageError: The metric, or the choice of published rows, is unknown.
    """
    check_metric(metric)
    if published_rows not in PUBLISHED_CHOICES:
        raise unknown_name(published_rows, PUBLISHED_CHOICES, "choice of published rows")
    shown = latest(measurements)
    if not shown:
        raise DataError("There is nothing to report yet: no measurement was found.", hint="Next: effbench profile")
    own = [measured_row(one, metric, grade(one), (accuracies or {}).get(one.digest)) for one in shown]
    names = {one.subject.published for one in shown if one.subject.published}
    sizes = {max(one.subject.resolution) for one in shown}
    theirs = _published_rows(metric, names, sizes, published_rows)
    return tuple(sorted(pareto.mark_fronts([*own, *theirs]), key=order))


def check_metric(metric: str) -> str:
    """Return the metric's column head.

    Raises:
        UsageError: It is not one of `METRICS`.
    """
    if metric not in METRICS:
        raise unknown_name(metric, METRICS, "metric")
    return METRICS[metric]


def latest(measurements: Iterable[Measurement]) -> tuple[Measurement, ...]:
    """Keep the latest measurement of each artifact, device, settings and conditions; later in the store wins a tie."""
    kept: dict[str, Measurement] = {}
    for one in measurements:
        # Another version of a runtime replaces its rows: comparing the two is not what a table is for.
        conditions = {name: value for name, value in one.must_match().items() if name != "runtime"}
        key = repr((one.digest, sorted(conditions.items(), key=lambda item: item[0])))
        if key not in kept or one.time >= kept[key].time:
            kept[key] = one
    return tuple(kept.values())


def order(row: Row) -> tuple[Any, ...]:
    """Sort key of a report: measured before published, then device, size, conditions, latency, name."""
    return (
        row.source != "measured",
        row.device,
        row.machine,
        row.resolution,
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
    one: Measurement, metric: str, graded: tuple[str, Sequence[str]], measured_accuracy: Accuracy | None = None
) -> Row:
    """Build the row of one measurement; its front is marked later, among the others."""
    subject = one.subject
    accuracy = measured_accuracy or accuracy_of(subject, metric)
    letter, reasons = graded
    row = Row(
        device=one.device,
        machine=machine_text(one.before),
        system=_system_text(one.before),
        runtime=str(one.before.get("runtime") or ""),
        resolution=subject.resolution,
        model=subject.model,
        family=subject.family,
        reconstruction=subject.reconstruction,
        source=one.origin,
        target=subject.target,
        precision=f"{subject.storage_precision}/{subject.compute_precision or '?'}",
        weights=subject.weights.kind,
        batch=subject.batch,
        threads=_threads(one.settings),
        settings=_other_settings(one.settings),
        scope=one.samples.scope,
        protocol=one.samples.protocol,
        aggregate=one.samples.aggregate,
        accuracy_metric=metric,
        params=subject.params,
        macs=subject.macs,
        size_bytes=subject.size_bytes,
        fidelity_passed=subject.fidelity_passed,
        trust=letter,
        trust_reasons=tuple(reasons),
        digest=one.digest,
        notes=(*subject.notes, *one.notes),
    )
    shown = _with_statistics(_with_accuracy(row, accuracy), one.samples)
    if not one.samples.aggregate:
        return shown
    # A tool's own statistic is one figure a run: it supports neither percentiles nor a rate.
    figure_ms = median(value for item in one.samples.rounds for value in item.samples_ns) / 1e6
    return replace(shown, p50_ms=figure_ms, p50_interval_ms=None, p90_ms=None, p99_ms=None, images_per_s=None)


def accuracy_of(subject: Subject, metric: str) -> Accuracy | None:
    """Return the accuracy published for a subject's model, borrowed unless its very weights produced it."""
    name = subject.weights.source if subject.weights.kind == "pretrained" and subject.weights.source else None
    own = published.accuracy(name, metric) if name else None
    fact = own or (published.accuracy(subject.published, metric) if subject.published else None)
    if fact is None:
        return None
    produced = own is not None and metric == "top1" and _as_published(subject, fact)
    return Accuracy(
        value=fact.value,
        status=fact.status,
        source=f"{published.display_name(fact)}: {fact.source}",
        borrowed=not produced,
        image_px=fact.image_px if metric == "top1" else None,
        citations=fact.citations,
    )


def _as_published(subject: Subject, fact: published.Fact) -> bool:
    # int8 changes the weights, another size changes the accuracy: then nobody has published this artifact's figure.
    return (
        subject.reconstruction is None
        and subject.fidelity_passed is True
        and subject.storage_precision in ("fp32", "fp16")
        and subject.resolution == (fact.image_px, fact.image_px)
    )


def machine_text(before: Mapping[str, Any]) -> str:
    """Return, in one line, what has to be the same before two rows of one device name are ranked together."""
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


def _with_accuracy(row: Row, accuracy: Accuracy | None) -> Row:
    if accuracy is None:
        return row
    return replace(
        row,
        accuracy=accuracy.value,
        accuracy_status=accuracy.status,
        accuracy_source=accuracy.source,
        accuracy_px=accuracy.image_px,
        accuracy_interval=accuracy.interval,
        accuracy_digest=accuracy.digest,
        accuracy_data=accuracy.data,
        borrowed=accuracy.borrowed,
        citations=tuple(sorted({*row.citations, *accuracy.citations})),
    )


def _with_statistics(row: Row, samples: Samples) -> Row:
    rounds = [one.samples_ns for one in samples.rounds]
    (p50, p50_interval), (p90, p90_interval), (p99, _) = (_percentile_ms(rounds, p) for p in (0.5, 0.9, 0.99))
    return replace(
        row,
        rounds=len(rounds),
        samples=sum(len(one) for one in rounds),
        p50_ms=p50,
        p50_interval_ms=p50_interval,
        p90_ms=p90,
        p90_interval_ms=p90_interval,
        p99_ms=p99,
        images_per_s=percentiles.images_per_second(rounds, row.batch),
        load_ms=median(one.load_ms for one in samples.rounds),
        first_ms=median(one.first_ms for one in samples.rounds),
        peak_rss_bytes=max(one.peak_rss_bytes for one in samples.rounds),
    )


def _percentile_ms(rounds: Sequence[Sequence[int]], p: float) -> tuple[float | None, tuple[float, float] | None]:
    found = percentiles.estimate(rounds, p)
    if found is None:
        return None, None
    return found.value / 1e6, found.interval and (found.interval[0] / 1e6, found.interval[1] / 1e6)


def _published_rows(metric: str, names: Collection[str], sizes: Collection[int], choice: str) -> list[Row]:
    if choice == "none":
        return []
    found = published.latencies()
    if choice == "same":
        found = tuple(
            fact
            for fact in found
            if fact.image_px in sizes and any(published.same_architecture(fact.model, name) for name in names)
        )
    return [published_row(fact, metric) for fact in found]


def published_row(fact: published.Fact, metric: str) -> Row:
    """Build the row of a published latency, on the device it was published for; p50_ms holds the printed figure."""
    name = published.display_name(fact)
    row = Row(
        device=fact.device,
        resolution=(fact.image_px, fact.image_px),
        model=name,
        source="published",
        weights="published",
        p50_ms=fact.value,
        accuracy_metric=metric,
        params=_count(fact, "params_M", 1e6),
        macs=_count(fact, "gmacs", 1e9),
        citations=fact.citations,
        notes=(f"latency: {fact.source.removeprefix('latency: ')}",),
    )
    accuracy = published.accuracy(name, metric, fact.timm_name)
    if accuracy is None:
        return row
    implied = accuracy.status == "implied"
    return _with_accuracy(
        row,
        Accuracy(
            value=accuracy.value,
            status=accuracy.status,
            source=f"{published.display_name(accuracy)}: {accuracy.source}",
            borrowed=implied,
            image_px=accuracy.image_px if metric == "top1" else None,
            citations=accuracy.citations,
        ),
    )


def _count(latency: published.Fact, quantity: str, unit: float) -> int | None:
    found = published.lookup(published.display_name(latency), quantity) or published.lookup(latency.timm_name, quantity)
    # Parameters do not depend on the image size; MACs do.
    fitting = [fact for fact in found if quantity == "params_M" or fact.image_px == latency.image_px]
    return round(fitting[0].value * unit) if fitting else None
