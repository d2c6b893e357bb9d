"""Which artifacts a comparison is about: names, beginnings of names, models, in either order."""

from __future__ import annotations

from pathlib import Path

import pytest

from effbench.api.compare.pairs import pairs_of
from effbench.api.compare.request import CompareRequest
from effbench.errors import UsageError


def targets(a: str, b: str, home: Path) -> list[tuple[str, str]]:
    return [(pair.a.subject.target, pair.b.subject.target) for pair in pairs_of(CompareRequest(a, b), home)]


@pytest.mark.target("ort")
@pytest.mark.target("ov")
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("toy.net-64-b1-fp32-ort", "toy.net-64-b1-fp32-ov"),
        ("toy.net-64-b1-fp32-ov", "toy.net-64-b1-fp32-ort"),
        ("toy.net-64-b1-fp32-ov-", "toy.net-64-b1-fp32-or"),
    ],
)
def test_artifacts_are_found_by_the_beginning_of_their_names_in_either_order(exported: Path, a: str, b: str):
    expected = tuple("ov" if "-ov" in name else "ort" for name in (a, b))
    assert [expected] == targets(a, b, exported / "runs")


def test_a_beginning_that_two_artifacts_share_is_refused(exported: Path):
    with pytest.raises(UsageError, match=r"beginning of \d names"):
        targets("toy.net-64", "toy.net-64-b1-fp32-ort", exported / "runs")
