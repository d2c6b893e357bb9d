"""Which layers a slowdown is blamed on: matched by structure, and only if their paired times differ."""

from __future__ import annotations

from typing import Any

from effbench.api.compare.explanation import changed_layers, matched_layers


def layer(operator: str, *times: float) -> list[Any]:
    return [operator, list(times)]


def test_layers_with_another_number_are_the_same_layer():
    left = {"conv": layer("Conv", 5), "node_ReduceMean_12": layer("ReduceMean", 1), "node_Add_13": layer("Add", 1)}
    right = {
        "conv": layer("Conv", 5),
        "node_Mul_12": layer("Mul", 1),
        "node_ReduceMean_13": layer("ReduceMean", 1),
        "node_Add_14": layer("Add", 1),
    }
    expected = {
        ("conv", "conv"),
        (None, "node_Mul_12"),
        ("node_ReduceMean_12", "node_ReduceMean_13"),
        ("node_Add_13", "node_Add_14"),
    }
    assert expected == set(matched_layers(left, right))
    assert {("old", None), (None, "new")} == set(matched_layers({"old": layer("A")}, {"new": layer("A")}))


def test_only_layers_whose_paired_times_differ_are_listed():
    noise = [0, 1, -1, 0, 2, -2, 1, -1, 0, 1, -1, 0]
    left = {"slow": layer("Conv", *[20 + n for n in noise]), "same": layer("Add", *[21 + n for n in noise])}
    right = {
        "slow": layer("Conv", *[25 + n for n in reversed(noise)]),
        "same": layer("Add", *[22 - n for n in noise[6:]], *[20 + n for n in noise[:6]]),
        "extra": layer("Mul", *[3 for _ in noise]),
    }
    changed = changed_layers(left, right)
    assert [("slow", 20.0, 25.0), ("extra", 0.0, 3.0)] == [(item.name, item.a_us, item.b_us) for item in changed]


def test_a_few_runs_show_no_change():
    assert () == changed_layers({"a": layer("Conv", 1, 1)}, {"a": layer("Conv", 9, 9)})
