"""Published figures, one fact at a time: its value, image size, device and source; packed as CSV with the package.

A figure belongs to the model, weights and device it was published for. What a report does with it - show it beside a
measurement of something else, marked as borrowed - is decided in `effbench.reports.rows`.
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
"""What a source's text contains, and the entry of references.bib that it stands for."""

_PART = re.compile(r"; (?=(?:latency|top1|params\+gmacs): )")
_OTHER_SIZE = re.compile(r"(\d+) px there")
_QUANTITIES = {"top1": "top1", "params_M": "params+gmacs", "gmacs": "params+gmacs", "latency_ms": "latency"}
_DOWNSTREAM = {"coco_ap_box": "coco_ap", "coco_ap_mask": "coco_ap_mask", "ade20k_miou": "ade_miou"}


@dataclass(frozen=True)
class Fact:
    """One published figure.

    ``quantity`` is top1 (percent), coco_ap (box, points), coco_ap_mask (points), ade_miou (percent), params_M (1e6),
    gmacs (1e9) or latency_ms. ``image_px`` is the side of the square input of that very figure. ``status`` is
    ``published``, or ``implied`` where it was derived from published gains and nobody printed it.
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
def facts() -> tuple[Fact, ...]:
    """Return every packed fact, in the order of the files.

    Raises:
        DataError: A packed file holds something that is not a number where one is meant (file:line).
    """
    return (*_classification(), *_downstream())


@functools.cache
def bibliography() -> dict[str, str]:
    """Return the BibTeX entries by key."""
    text = _read("references.bib")
    entries = re.split(r"\n(?=@)", text.strip())
    return {re.split(r"[{,]", entry, maxsplit=2)[1]: entry.strip() for entry in entries}


def lookup(name: str, quantity: str) -> tuple[Fact, ...]:
    """Return the facts of one quantity for a published model name or a timm name; none gives an empty tuple.

    A recipe in parentheses belongs to the name: ``iFormer-M`` does not find ``iFormer-M (distilled)``. Downstream
    tables print one row per backbone, so there the recipe is ignored.
    """
    wanted = [fact for fact in facts() if fact.quantity == quantity]
    if quantity in _DOWNSTREAM.values():
        return tuple(fact for fact in wanted if _key(_bare(fact.model)) == _key(_bare(name)))
    exact = tuple(fact for fact in wanted if _key(fact.model) == _key(name))
    return exact or tuple(fact for fact in wanted if fact.timm_name and fact.timm_name == name)


def accuracy(name: str, metric: str = "top1", timm_name: str = "") -> Fact | None:
    """Return the accuracy that was published for a model under a metric, or None.

    Args:
        name: A published model name or a timm name.
        metric: top1, coco_ap or ade_miou.
        timm_name: Tried when the name itself has none, as in rows that only carry a latency.
    """
    found = lookup(name, metric) or (lookup(timm_name, metric) if timm_name else ())
    return found[0] if found else None


def latencies(resolution_px: int | None = None) -> tuple[Fact, ...]:
    """Return published latencies, at one image size or at all; what two tables repeat comes once."""
    chosen: dict[tuple[str, str, int], Fact] = {}
    for fact in facts():
        if fact.quantity == "latency_ms" and resolution_px in (None, fact.image_px):
            chosen.setdefault((_key(fact.model), fact.device, fact.image_px), fact)
    return tuple(chosen.values())


def display_name(fact: Fact) -> str:
    """Return a fact's model name without the image size, which a table states in its own place."""
    return re.sub(r" @\d+.*$", "", fact.model)


def same_architecture(name: str, other: str) -> bool:
    """Tell whether two published names are one architecture, whatever the recipe: ``iFormer-M (distilled)``."""
    return _key(_bare(name)) == _key(_bare(other))


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9.()]", "", re.sub(r" @\d+.*$", "", name).lower())


def _bare(name: str) -> str:
    return re.sub(r" [(@].*$", "", name)


def _read(name: str) -> str:
    return (files("effbench.reports") / "published" / name).read_text(encoding="utf-8")


def _classification() -> Iterator[Fact]:
    for number, row in enumerate(csv.DictReader(_read("published.csv").splitlines()), start=2):
        parts = dict(part.split(": ", 1) for part in _PART.split(row["source"]) if _PART.match(f"; {part}"))
        for column, prefix in _QUANTITIES.items():
            if not row[column]:
                continue
            source = parts.get(prefix, row["source"])
            size = _OTHER_SIZE.search(source) if column == "latency_ms" else None
            yield Fact(
                model=row["model"],
                timm_name=row["timm_name"],
                quantity=column,
                value=_number(row[column], f"published.csv:{number}: {column}"),
                image_px=int(size.group(1) if size else row["img_size"]),
                device=row["latency_device"] if column == "latency_ms" else "",
                source=source,
            )


def _downstream() -> Iterator[Fact]:
    for number, row in enumerate(csv.DictReader(_read("downstream.csv").splitlines()), start=2):
        where = f"downstream.csv:{number}"
        common = {"model": row["backbone"], "timm_name": "", "source": row["source"], "status": row["status"]}
        for column, quantity in _DOWNSTREAM.items():
            if row[column]:
                value = _number(row[column], f"{where}: {column}")
                yield Fact(quantity=quantity, value=value, image_px=512, device="", **common)
        if row["latency_ms_512"]:
            value = _number(row["latency_ms_512"], f"{where}: latency_ms_512")
            yield Fact(quantity="latency_ms", value=value, image_px=512, device=row["latency_device"], **common)


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{where}: '{text}' is not a number.") from None
