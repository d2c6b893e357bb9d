"""Verdicts follow from whole intervals; the registry gives each claim's source; the page shows every finding."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from conftest import Run
from effbench.api.claims import campaign as campaign_module
from effbench.api.claims.campaign import Campaign
from effbench.api.claims.kinds import (
    Counted,
    Faster,
    Grows,
    LessMemory,
    Untestable,
    combined,
    decide,
    exactly_quadratic,
    weakness,
)
from effbench.api.claims.registry import CLAIMS, claims_named
from effbench.api.claims.run import claims, write_page
from effbench.api.compare.rounds import RoundSettings
from effbench.errors import UsageError
from effbench.models.mixers.local import LocalAttention
from effbench.profiles.paired import PairedRound
from effbench.reports.claims import FAILS, HOLDS, UNTESTED, VERDICTS, Finding, Judgement
from effbench.reports.growth import Series
from effbench.schema import Artifact, InputShapes, Round, Subject, Weights

PX = (224, 320, 448, 704, 1024)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.95, 1.05, HOLDS), (1.05, 1.15, UNTESTED), (1.11, 1.2, FAILS), (0.5, 0.8, FAILS), (0.5, 1.5, UNTESTED)],
)
def test_a_verdict_needs_a_whole_interval(low: float, high: float, expected: str):
    assert expected == decide(low, high, (0.9, 1.1))


def test_one_size_that_fails_fails_the_claim():
    assert [HOLDS, FAILS, UNTESTED, UNTESTED] == [
        combined([HOLDS, HOLDS]), combined([HOLDS, FAILS, UNTESTED]), combined([HOLDS, UNTESTED]), combined([]),
    ]  # fmt: skip


OBSERVED = {"other_cpu_pct": 2.0, "run_delay_pct": 0.1, "reference_compute_us": 800.0, "reference_memory_us": 3000.0}
"""On a quiet machine."""


def measured(tmp_path: Path, values: dict[tuple[str, int], float], scatter: float = 0.01) -> Campaign:
    """Return a campaign of eight passes with scripted rounds: value x (1 +- scatter) ms and MiB in turn."""
    campaign = Campaign(tmp_path)
    for (part, px), value in values.items():
        point = campaign.add(part, px, "ort")
        point.artifact = Counts(0)
        for index in range(8):
            scattered = value * (1 + scatter * (-1) ** (index + px // 64))
            samples_ns = (int(1e6 * scattered),) * 20
            point.rounds.append(Round(samples_ns, 0, True, 0.0, 0.0, int(2**20 * scattered), OBSERVED))
            point.states.append(({}, {}))
    return campaign


class Counts:
    """An artifact reduced to its MACs."""

    def __init__(self, macs: int) -> None:
        self.subject = self
        self.macs = macs


def grown(tmp_path: Path, p: float, macs_p: int) -> Judgement:
    """Return the judgement on a part whose latency grows as N**p and whose MACs grow as N**macs_p."""
    campaign = measured(tmp_path, {("rgma", px): 100 * (px / 1024) ** (2 * p) for px in PX})
    for (_, px, _), point in campaign.points.items():
        point.artifact = Counts(px ** (2 * macs_p))
    return Grows("rgma").judge(campaign, ["ort"])


def test_linear_growth_holds_and_other_growth_does_not(tmp_path: Path):
    assert HOLDS == grown(tmp_path, 1.0, 1).verdict
    assert FAILS == grown(tmp_path, 1.6, 1).verdict
    # Latency alone is not enough: the MACs have to be proportional.
    assert FAILS == grown(tmp_path, 1.0, 2).verdict


def test_evidence_of_grade_c_or_a_law_that_misses_its_points_gives_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert ("", "the evidence has grade C", "the law misses a point by 32 %") == (
        weakness(0.02, "B"),
        weakness(0.02, "C"),
        weakness(0.32, "A"),
    )
    monkeypatch.setitem(OBSERVED, "other_cpu_pct", 90.0)
    judgement = grown(tmp_path, 1.6, 1)
    assert UNTESTED == judgement.verdict
    assert "no verdict, the evidence has grade C" in judgement.result


def test_growth_that_was_not_measured_is_open(tmp_path: Path):
    judgement = Grows("rgma").judge(Campaign(tmp_path), ["ort"])
    assert UNTESTED == judgement.verdict
    assert "224 px: not measured yet" in judgement.result
    assert judgement.needs


def test_quadratic_macs_are_recognized():
    def series(macs: list[int]) -> Series:
        return Series("x", "ort", "", PX, tuple(macs), (), ())

    n = [px * px for px in PX]
    assert exactly_quadratic(series([3 * x + 2 * x * x for x in n]))
    assert not exactly_quadratic(series([3 * x for x in n]))
    assert not exactly_quadratic(series([x**3 for x in n]))


@pytest.mark.parametrize(
    ("logs", "expected"), [([-0.2, -0.21] * 4, HOLDS), ([0.2, 0.21] * 4, FAILS), ([0.1, -0.1] * 4, UNTESTED),
                           ([-0.2, -0.21], UNTESTED)]
)  # fmt: skip
def test_which_is_faster_is_decided_by_pairs(tmp_path: Path, logs: list[float], expected: str):
    campaign = Campaign(tmp_path)
    campaign.pair("iformer_m", "regla_m", 512, "ort").logs = logs
    judgement = Faster("iformer_m", "regla_m", (512,)).judge(campaign, ["ort"])
    assert expected == judgement.verdict
    assert f"{math.exp(sum(logs) / len(logs)):.3f}" in judgement.result


def test_an_unknown_model_cannot_be_tested(tmp_path: Path):
    campaign = Campaign(tmp_path)
    test = Faster("no_such_model", "regla_m", (512,))
    test.plan(campaign, ["ort"])
    assert not campaign.pairs
    assert "no_such_model" in test.judge(campaign, ["ort"]).needs
    assert UNTESTED == Counted("no_such_model", "x", lambda counts: 1.0, 1.0).judge(campaign, []).verdict


def test_memory_is_compared_by_its_rise(tmp_path: Path):
    values = {("softmax", 224): 100.0, ("softmax", 1024): 500.0, ("aft-conv", 224): 100.0, ("aft-conv", 1024): 200.0}
    test = LessMemory("softmax", "aft-conv")
    judgement = test.judge(measured(tmp_path, values, 0.001), ["ort"])
    assert HOLDS == judgement.verdict
    assert "aft-conv 100 MiB, softmax 400 MiB" in judgement.result
    assert FAILS == LessMemory("aft-conv", "softmax").judge(measured(tmp_path, values, 0.001), ["ort"]).verdict


def test_counts_are_compared_with_published_figures(tmp_path: Path):
    judgements = {
        claim.name: claim.test.judge(Campaign(tmp_path), []) for claim in CLAIMS if isinstance(claim.test, Counted)
    }
    assert HOLDS == judgements["iformer-m-params"].verdict
    assert HOLDS == judgements["iformer-m-macs"].verdict
    # The released code takes 2.83 GMACs as well.
    assert FAILS == judgements["iformer-l-macs"].verdict
    assert "counted 2.827 G, published 2.63 G" in judgements["iformer-l-macs"].result


def test_the_registry_names_sources_and_leaves_phones_untested():
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)
    assert all(re.search(r"arXiv:\d{4}\.\d{5}", claim.source) for claim in CLAIMS)
    for claim in CLAIMS:
        if re.search(r"iphone|phone|top-1| ms | V100", claim.text, re.IGNORECASE):
            assert isinstance(claim.test, Untestable), claim.name


def test_unknown_claims_are_refused():
    with pytest.raises(UsageError, match="Did you mean rgma-linear"):
        claims_named(("rgma-linea",))
    assert CLAIMS == claims_named(())


def test_the_page_has_every_claim(tmp_path: Path):
    findings = [
        Finding(v.replace(" ", "-"), f"It {v}", "arXiv:0000.00000", "how", Judgement(v, "r", "n")) for v in VERDICTS
    ]
    (page,) = write_page(findings, [], tmp_path / "docs" / "claims.md", ["ort"], 1)
    text = page.read_text()
    anchors = re.findall(r"\(#([\w-]+)\)", text)
    assert anchors == re.findall(r"^### ([\w-]+)$", text, re.MULTILINE)
    assert all(text.count(f"**{verdict}**") == 1 for verdict in VERDICTS)
    assert "A measurement on a CPU supports no claim about a phone" in " ".join(text.split())


def test_claims_that_need_no_measurement_are_judged_at_once(run: Run):
    result = run("claims", "iformer-l-macs", "iformer-m-latency")
    assert (0, "") == (result.returncode, result.stderr)
    assert "does not hold here: iFormer-L takes 2.63 GMACs" in result.stdout
    assert "iPhone 13 with iOS 17.7" in result.stdout
    assert (run.folder / "runs" / "claims" / "claims.md").is_file()
    assert 2 == run("claims", "iformer-l-mac").returncode
    assert 2 == run("claims", "--res", "224..512").returncode


@torch.no_grad()
def test_local_attention_is_softmax_over_a_neighbourhood():
    torch.manual_seed(0)
    layer, x = LocalAttention(8, heads=2, kernel=3).double(), torch.randn(2, 8, 5, 6).double()
    query, key, value = layer.query(x) / 2, layer.key(x), layer.value(x)
    # Each neighbourhood gathered at once: (B, heads, 4, 9, N).
    keys = F.unfold(key, 3, padding=1).reshape(2, 2, 4, 9, 30) + layer.offsets.reshape(9, 2, 4, 1).permute(1, 2, 0, 3)
    inside = F.unfold(torch.ones_like(x[:, :1]), 3, padding=1).reshape(2, 1, 9, 30)
    scores = (query.reshape(2, 2, 4, 1, 30) * keys).sum(2).masked_fill(inside == 0, -torch.inf)
    values = F.unfold(value, 3, padding=1).reshape(2, 2, 4, 9, 30)
    expected = (torch.softmax(scores, dim=2)[:, :, None] * values).sum(3).reshape(2, 8, 5, 6)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("b_over_a", "expected"), [(0.8, HOLDS), (1.25, FAILS)])
def test_a_pair_is_measured_stored_and_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, b_over_a: float, expected: str
):
    """Scripted rounds go through a campaign: exchanged sides or ratios in place of logarithms give another verdict."""
    a_ns, waits = tuple(range(10_000, 10_020)), (0,) * 20
    costs = {"digest-shma": 1.0, "digest-shma-window": b_over_a}

    def run_round(a: Artifact, b: Artifact, settings: RoundSettings, seed: int) -> PairedRound:
        sides = [tuple(int(costs[side.digest] * value) for value in a_ns) for side in (a, b)]
        return PairedRound(sides[0], sides[1], waits, waits)

    monkeypatch.setattr(campaign_module, "run_round", run_round)
    monkeypatch.setattr(Campaign, "_machine", lambda self, target: {})
    campaign = Campaign(tmp_path)
    test = Faster("shma", "shma-window", (512,))
    test.plan(campaign, ["ort"])
    for point in campaign.points.values():
        point.artifact = artifact(f"digest-{point.model}")
    assert not campaign.run(passes=6)
    judgement = test.judge(campaign, ["ort"])
    assert expected == judgement.verdict
    assert f"{b_over_a:.3f}" in judgement.result
    stored = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert [("digest-shma", "digest-shma-window")] * 6 == [(line["a"], line["b"]) for line in stored]
    assert [line["log_ratio"] for line in stored] == pytest.approx([math.log(b_over_a)] * 6, rel=0.01)


def artifact(digest: str) -> Artifact:
    subject = Subject("x", "user", Weights(), InputShapes((512, 512)), 1, "ort", "fp32")
    return Artifact(Path(digest), digest, digest, subject, (), (), {}, "model.onnx")


@pytest.mark.slow
@pytest.mark.target("ort")
def test_a_claim_is_measured_and_judged(tmp_path: Path):
    """Windows take little more than half of the time of the whole map, so that exchanged sides would fail."""
    (finding,) = claims(["windowed-shma"], targets=["ort"], passes=6, out=tmp_path).findings
    assert HOLDS == finding.judgement.verdict
    assert "ort 512 px" in finding.judgement.result
