from __future__ import annotations

import pytest

from effbench.reports import published


def test_every_fact_has_a_source_and_a_citation() -> None:
    assert len(published.facts()) > 700
    for fact in published.facts():
        assert fact.source, fact
        assert fact.citations, fact
        assert fact.image_px >= 224, fact


def test_bibliography_holds_exactly_what_is_cited() -> None:
    cited = {key for fact in published.facts() for key in fact.citations}
    assert cited == set(published.bibliography())
    for key, entry in published.bibliography().items():
        assert entry.startswith("@"), key
        assert entry.count("{") == entry.count("}"), key
        assert {"author", "title", "year"} <= {line.split("=")[0].strip() for line in entry.splitlines()}, key


@pytest.mark.parametrize(
    ("name", "top1"),
    [
        ("iFormer-T", 74.1),
        ("iFormer-S", 78.8),
        ("iFormer-M", 80.4),
        ("iFormer-M (distilled)", 81.1),
        ("iFormer-L", 81.9),
        ("iFormer-L (distilled)", 82.7),
        ("ReGLA-M", 80.85),
        ("fastvit_t12.apple_dist_in1k", 80.364),
    ],
)
def test_top1_by_published_or_timm_name(name: str, top1: float) -> None:
    fact = published.accuracy(name)
    assert fact is not None
    assert (top1, "published") == (fact.value, fact.status)


def test_a_recipe_is_part_of_the_name() -> None:
    assert published.accuracy("RepViT-M1.1") is None  # only its distilled weights have a published top-1
    assert published.accuracy("RepViT-M1.1 (distilled)") is not None


def test_downstream_figures_of_regla_are_implied_never_published() -> None:
    for metric, value in (("coco_ap", 43.9), ("ade_miou", 46.0)):
        fact = published.accuracy("ReGLA-M", metric)
        assert fact is not None
        assert (value, "implied") == (fact.value, fact.status)
    others = [fact for fact in published.facts() if not fact.model.startswith("ReGLA")]
    assert {"published"} == {fact.status for fact in others}


def test_the_latency_of_regla_has_no_device() -> None:
    (fact,) = published.lookup("ReGLA-M", "latency_ms")
    assert (4.98, 512, "") == (fact.value, fact.image_px, fact.device)


def test_a_latency_at_another_size_has_that_size() -> None:
    iphone = [fact for fact in published.lookup("EfficientNet-B1", "latency_ms") if "iPhone" in fact.device]
    assert [240] == [fact.image_px for fact in iphone]
    top1 = published.accuracy("EfficientNet-B1")
    assert top1 is not None
    assert top1.image_px == 256


def test_a_latency_in_two_tables_is_returned_once() -> None:
    names = [published.display_name(fact) for fact in published.latencies(512) if fact.device.startswith("iPhone 13")]
    assert len(names) == len(set(names))
    assert "iFormer-M" in names
    assert "PVTv2-B1" in names  # only in the downstream table


def test_unknown_names_give_nothing() -> None:
    assert published.accuracy("no such model") is None
    assert () == published.lookup("", "top1")
