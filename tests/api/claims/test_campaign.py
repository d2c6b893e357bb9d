"""Passes are kept and found again; what failed says why; ranges are read."""

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
def test_what_is_no_range_is_refused(text: str):
    with pytest.raises(UsageError):
        sizes(text)


@pytest.mark.xdist_group("export")
@pytest.mark.target("ort")
def test_a_run_goes_on_where_it_was_stopped(own: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(own.folder)
    home = Path("runs")

    def campaign() -> Campaign:
        made = Campaign(home)
        made.measured("toy:net", 64, "ort")
        made.pair("toy:net", "toy:net", 64, "ort")
        made.prepare()
        return made

    first = campaign()
    assert not first.run(passes=2)
    lines = (home / "measurements.jsonl").read_bytes()
    pairs = [json.loads(line) for line in (home / "pairs.jsonl").read_text().splitlines()]
    assert 2 == len(pairs)
    # The same files on both sides: what differs is noise.
    assert all(abs(line["log_ratio"]) < 0.5 for line in pairs)

    again = campaign()
    assert (2, 2) == (
        len(again.point("toy:net", 64, "ort").rounds),
        len(again.pair("toy:net", "toy:net", 64, "ort").logs),
    )
    assert not again.run(passes=2)
    assert lines == (home / "measurements.jsonl").read_bytes()
    assert 2 == len(series(again, "toy:net", [64], "ort").latency_ms)

    other = Campaign(home, threads=2)
    other.measured("toy:net", 64, "ort")
    other.prepare()
    assert [] == other.point("toy:net", 64, "ort").rounds
    assert not other.run(passes=1, minutes=0)
    assert "not measured yet" == series(other, "toy:net", [64], "ort").failures[64]


@pytest.mark.xdist_group("export")
def test_what_cannot_be_exported_says_why(tmp_path: Path):
    campaign = Campaign(tmp_path)
    campaign.measured("rgma", 100, "ort")
    campaign.prepare()
    assert not campaign.run(passes=1)
    assert "stride 16" in campaign.point("rgma", 100, "ort").failure


def test_the_command_refuses_what_cannot_be_meant(run: Run):
    done = run("claims", "--scaling", "rgm", "--res", "128..1024")
    assert (2, True) == (done.returncode, "Did you mean rgma" in done.stderr)
    assert 2 == run("claims", "--scaling", "rgma", "--res", "512").returncode
    assert 2 == run("claims", "--scaling").returncode
