"""``effbench numerics``: a sound model holds; invalid arguments are refused."""

from __future__ import annotations

import json

import pytest

from conftest import Run

pytestmark = [pytest.mark.target("torch"), pytest.mark.target("ort")]


def test_a_sound_model_holds_without_islands(own: Run) -> None:
    done = own("numerics", "toy:net", "--res", "64", "--json")
    report = json.loads(done.stdout)["data"]
    assert (done.returncode, report["passed"], report["islands"]) == (0, True, []), done.stderr
    assert {e["mode"] for e in report["errors"]} == {"half-acc32", "half-acc16"}
    assert all(0 < e["without_islands"] <= 1 for e in report["errors"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--precision", "int8"), "numerics examines fp16"), (("--max-images", "1"), "at least two images")],
)
def test_what_cannot_be_meant_is_refused(run: Run, arguments: tuple[str, ...], message: str) -> None:
    done = run("numerics", "toy:net", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
