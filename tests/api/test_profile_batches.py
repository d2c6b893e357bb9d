"""Several batches of one model, measured beside each other."""

from __future__ import annotations

import json

import pytest

from conftest import Run


@pytest.mark.target("ort")
def test_batches_are_measured_beside_each_other_and_an_artifact_takes_its_own(run: Run) -> None:
    words = ("--rounds", "1", "--budget", "0.5", "--out", "runs")
    done = run("profile", "toy:net", "--res", "32", "-t", "ort", "--batch", "1,4", *words, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    measurements = json.loads(done.stdout)["data"]["measurements"]
    assert [1, 4] == [item["subject"]["batch"] for item in measurements]
    assert ["1", "4"] == [item["settings"]["batch"] for item in measurements]
    table = run("profile", "--batch", "4,16", *words).stdout.splitlines()
    assert [line.split()[:2] for line in table if "toy.net  32" in line] == [["toy.net", "32"]]
    none = run("profile", "--batch", "2,3", *words)
    assert (2, "") == (none.returncode, none.stdout)
    assert "No artifact takes a batch of 2, 3" in none.stderr


@pytest.mark.parametrize("text", ["0", "1,", "a", "1,-2"])
def test_a_list_that_holds_something_else_is_refused(run: Run, text: str) -> None:
    done = run("profile", "toy:net", "--batch", text)
    assert done.returncode == 2
    assert "is no list of whole numbers" in done.stderr
