"""The accuracy in a row of a report, with its provenance.

An accuracy is *borrowed* if the weights of the artifact did not produce it. Untrained weights always borrow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from effbench.reports import published
from effbench.schema import Row, Subject


@dataclass(frozen=True)
class Accuracy:
    """An accuracy with its provenance; ``image_px`` is None for a task that fixes the size.

    For an accuracy measured here, ``digest`` is that of the evaluated files and ``data`` names the data set.
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


def accuracy_of(subject: Subject, metric: str) -> Accuracy | None:
    """Return the accuracy published for a subject's model; it is borrowed unless the subject's weights produced it."""
    name = subject.weights.source if subject.weights.kind == "pretrained" and subject.weights.source else None
    exact = published.accuracy(name, metric) if name else None
    fact = exact or (published.accuracy(subject.published, metric) if subject.published else None)
    if fact is None:
        return None
    produced = exact is not None and metric == "top1" and _as_published(subject, fact)
    return _published(fact, metric, borrowed=not produced)


def _as_published(subject: Subject, fact: published.PublishedFact) -> bool:
    # int8 changes the weights and another size changes the accuracy, so the published figure is not this artifact's.
    return (
        subject.reconstruction is None
        and subject.fidelity_passed is True
        and subject.storage_precision in ("fp32", "fp16")
        and subject.resolution == (fact.image_px, fact.image_px)
    )


def beside_latency(latency: published.PublishedFact, metric: str) -> Accuracy | None:
    """Return the accuracy published for the model of a published latency; it is borrowed if it is only implied."""
    fact = published.accuracy(published.display_name(latency), metric, latency.timm_name)
    if fact is None:
        return None
    return _published(fact, metric, borrowed=fact.status == "implied")


def _published(fact: published.PublishedFact, metric: str, borrowed: bool) -> Accuracy:
    return Accuracy(
        value=fact.value,
        status=fact.status,
        source=f"{published.display_name(fact)}: {fact.source}",
        borrowed=borrowed,
        image_px=fact.image_px if metric == "top1" else None,
        citations=fact.citations,
    )


def with_accuracy(row: Row, accuracy: Accuracy | None) -> Row:
    """Fill the fields of a row that describe its accuracy; None leaves them empty."""
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
