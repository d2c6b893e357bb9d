"""Passes are stored and read again; failures have reasons; ranges are parsed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import Run
from effbench.api.claims.campaign import Campaign
from effbench.api.claims.scaling import series, sizes
from effbench.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("128..1024", [128, 192, 256, 384, 512, 704, 1024]),
        ("224..1024", [224, 320, 448, 704, 1024]),
        ("224", [224]),
        ("32..64", [32, 64]),
    ],
)
def test_a_range_is_about_two_sizes_per_doubling(text: str, expected: list[int]):
    assert expected == sizes(text)


@pytest.mark.parametrize("text", ["1024..128", "a..b", "128..", "-1", "128...512"])
def test_an_invalid_range_is_refused(text: str):
    with pytest.raises(UsageError):
        sizes(text)


@pytest.mark.xdist_group("export")
@pytest.mark.target("ort")
def test_an_interrupted_campaign_continues(own: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(own.folder)
    home = Path("runs")

    def prepared() -> Campaign:
        campaign = Campaign(home)
        campaign.add("toy:net", 64, "ort")
        campaign.pair("toy:net", "toy:net", 64, "ort")
        campaign.prepare()
        return campaign

    first = prepared()
    assert not first.run(passes=2)
    lines = (home / "measurements.jsonl").read_bytes()
    stored = [json.loads(line)["log_ratio"] for line in (home / "pairs.jsonl").read_text().splitlines()]
    assert first.pair("toy:net", "toy:net", 64, "ort").logs == stored
    assert 2 == len(set(stored)), "two rounds are two measurements"

    again = prepared()
    assert 2 == len(again.point("toy:net", 64, "ort").rounds)
    assert stored == again.pair("toy:net", "toy:net", 64, "ort").logs
    assert not again.run(passes=2)
    assert lines == (home / "measurements.jsonl").read_bytes()
    assert 2 == len(series(again, "toy:net", [64], "ort").latency_ms)

    two_threads = Campaign(home, threads=2)
    two_threads.add("toy:net", 64, "ort")
    two_threads.prepare()
    assert [] == two_threads.point("toy:net", 64, "ort").rounds
    assert not two_threads.run(passes=1, minutes=0)
    assert "not measured yet" == series(two_threads, "toy:net", [64], "ort").failures[64]


@pytest.mark.xdist_group("export")
def test_a_failed_export_has_a_reason(tmp_path: Path):
    campaign = Campaign(tmp_path)
    campaign.add("rgma", 100, "ort")
    campaign.prepare()
    assert not campaign.run(passes=1)
    assert "stride 16" in campaign.point("rgma", 100, "ort").failure


def test_the_command_refuses_invalid_arguments(run: Run):
    result = run("claims", "--scaling", "rgm", "--res", "128..1024")
    assert (2, True) == (result.returncode, "Did you mean rgma" in result.stderr)
    assert 2 == run("claims", "--scaling", "rgma", "--res", "512").returncode
    assert 2 == run("claims", "--scaling").returncode
