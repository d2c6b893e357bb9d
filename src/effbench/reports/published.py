"""Published figures as facts: value, image size, device and source; shipped as CSV with the package.

A figure belongs to the model, weights and device it was published for. `effbench.reports.accuracy` decides whether
it is shown beside a measurement of something else, marked as borrowed.
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from effbench.errors import DataError

CITATIONS = (
    ("arXiv:2501.15369", "zheng2025iformer"),
    ("arXiv:2602.05262", "li2026regla"),
    ("arXiv:2404.10518", "qin2024mobilenetv4"),
    ("arXiv:2105.14103", "zhai2021aft"),
    ("timm@", "wightman2019timm"),
    ("ml-mobileone", "vasu2023mobileone"),
    ("ml-fastvit", "vasu2023fastvit"),
    ("THU-MIG/RepViT", "wang2024repvit"),
    ("snap-research/EfficientFormer", "li2023efficientformerv2"),
    ("Amshaker/SwiftFormer", "shaker2023swiftformer"),
    ("Rewrite-the-Stars", "ma2024starnet"),
    ("mit-han-lab/efficientvit", "cai2023efficientvit"),
    ("d-li14/lambda.pytorch", "li2021lambda"),
)
"""A part of a source's text, and the entry of references.bib that it refers to."""

_SOURCES = {
    "top1": "top1_source",
    "params_M": "counts_source",
    "gmacs": "counts_source",
    "latency_ms": "latency_source",
}
"""Columns of published.csv: a quantity, and where it is from."""

_DOWNSTREAM = {"coco_ap_box": "coco_ap", "coco_ap_mask": "coco_ap_mask", "ade20k_miou": "ade_miou"}


@dataclass(frozen=True)
class PublishedFact:
    """One published figure.

    ``quantity`` is top1 (percent), coco_ap (box, points), coco_ap_mask (points), ade_miou (percent), params_M (1e6),
    gmacs (1e9) or latency_ms. ``image_px`` is the side of the square input of that figure. ``device`` is empty if the
    publication does not state it. ``status`` is ``published``, or ``implied`` if it was derived from published gains.
    """

    model: str
    timm_name: str
    quantity: str
    value: float
    image_px: int
    device: str
    source: str
    status: str = "published"

    @property
    def citations(self) -> tuple[str, ...]:
        """Keys in references.bib."""
        return tuple(key for text, key in CITATIONS if text in self.source)


@functools.cache
def facts() -> tuple[PublishedFact, ...]:
    """Return every shipped fact, in the order of the files.

    Raises:
        DataError: A number in a shipped file cannot be read (file:line).
    """
    return (*_classification(), *_downstream())


@functools.cache
def bibliography() -> dict[str, str]:
    """Return the BibTeX entries by key."""
    text = _read("references.bib")
    entries = re.split(r"\n(?=@)", text.strip())
    return {re.split(r"[{,]", entry, maxsplit=2)[1]: entry.strip() for entry in entries}


def lookup(name: str, quantity: str) -> tuple[PublishedFact, ...]:
    """Return the facts of one quantity for a published model name or a timm name; empty if there is none.

    A recipe in parentheses belongs to the name: ``iFormer-M`` does not match ``iFormer-M (distilled)``. Downstream
    tables have one row per backbone, so the recipe is ignored there.
    """
    candidates = [fact for fact in facts() if fact.quantity == quantity]
    if quantity in _DOWNSTREAM.values():
        return tuple(fact for fact in candidates if _key(_bare(fact.model)) == _key(_bare(name)))
    exact = tuple(fact for fact in candidates if _key(fact.model) == _key(name))
    return exact or tuple(fact for fact in candidates if fact.timm_name and fact.timm_name == name)


def accuracy(name: str, metric: str = "top1", timm_name: str = "") -> PublishedFact | None:
    """Return the accuracy that was published for a model under a metric, or None.

    Args:
        name: A published model name or a timm name.
        metric: top1, coco_ap or ade_miou.
        timm_name: Used if the name itself has none, as for rows that only hold a latency.
    """
    matches = lookup(name, metric) or (lookup(timm_name, metric) if timm_name else ())
    return matches[0] if matches else None


def latencies(resolution_px: int | None = None) -> tuple[PublishedFact, ...]:
    """Return published latencies at one image size, or at all sizes; a figure in two tables is returned once."""
    chosen: dict[tuple[str, str, int], PublishedFact] = {}
    for fact in facts():
        if fact.quantity == "latency_ms" and resolution_px in (None, fact.image_px):
            chosen.setdefault((_key(fact.model), fact.device, fact.image_px), fact)
    return tuple(chosen.values())


def display_name(fact: PublishedFact) -> str:
    """Return a fact's model name without the image size, which a table states separately."""
    return re.sub(r" @\d+.*$", "", fact.model)


def same_architecture(name: str, other: str) -> bool:
    """Return whether two published names are the same architecture, ignoring a recipe such as ``(distilled)``."""
    return _key(_bare(name)) == _key(_bare(other))


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9.()]", "", re.sub(r" @\d+.*$", "", name).lower())


def _bare(name: str) -> str:
    return re.sub(r" [(@].*$", "", name)


def _read(name: str) -> str:
    return (files("effbench.reports") / "published" / name).read_text(encoding="utf-8")


def _classification() -> Iterator[PublishedFact]:
    for number, row in enumerate(csv.DictReader(_read("published.csv").splitlines()), start=2):
        for column, source in _SOURCES.items():
            if not row[column]:
                continue
            is_latency = column == "latency_ms"
            yield PublishedFact(
                model=row["model"],
                timm_name=row["timm_name"],
                quantity=column,
                value=_number(row[column], f"published.csv:{number}: {column}"),
                image_px=int(row["latency_px"] if is_latency else row["img_size"]),
                device=row["latency_device"] if is_latency else "",
                source=row[source],
            )


def _downstream() -> Iterator[PublishedFact]:
    for number, row in enumerate(csv.DictReader(_read("downstream.csv").splitlines()), start=2):
        line = f"downstream.csv:{number}"
        common = {"model": row["backbone"], "timm_name": "", "source": row["source"], "status": row["status"]}
        for column, quantity in _DOWNSTREAM.items():
            if row[column]:
                value = _number(row[column], f"{line}: {column}")
                yield PublishedFact(quantity=quantity, value=value, image_px=512, device="", **common)
        if row["latency_ms_512"]:
            value = _number(row["latency_ms_512"], f"{line}: latency_ms_512")
            yield PublishedFact(
                quantity="latency_ms", value=value, image_px=512, device=row["latency_device"], **common
            )


def _number(text: str, location: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{location}: '{text}' is not a number.") from None
