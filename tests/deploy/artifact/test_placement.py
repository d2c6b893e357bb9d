"""Where operators run: fallback is what runs on another unit than the requested one."""

from __future__ import annotations

import pytest

from effbench.deploy.artifact import placement
from effbench.errors import ConversionError


def test_operators_on_another_unit_are_fallback_and_fail():
    recorded = placement.record({"HTP": 3, "CPU": 1}, partitions=2, copies=1, requested="HTP")
    expected = {"units": {"HTP": 3, "CPU": 1}, "partitions": 2, "copies": 1}
    assert {**expected, "fallback": {"CPU": 1}, "accelerator_share": 0.75} == recorded
    with pytest.raises(ConversionError, match=r"1 on CPU, in 2 partitions.*\n.*--allow-fallback"):
        placement.check(recorded, "x")


def test_a_unit_without_operators_is_no_fallback():
    recorded = placement.record({"CPU": 4, "GPU": 0}, requested="CPU")
    # No accelerator was requested, so there is no share of one.
    assert {"units": {"CPU": 4}, "partitions": 1, "copies": 0, "fallback": {}} == recorded
    placement.check(recorded, "x")
    with pytest.raises(ConversionError, match="4 on CPU"):
        placement.check(placement.record({"CPU": 4, "GPU": 0}, requested="GPU"), "x")


def test_a_free_choice_has_no_fallback():
    recorded = placement.record({"CPU": 1, "GPU": 2}, partitions=None, copies=None)
    assert {"units": {"CPU": 1, "GPU": 2}, "partitions": None, "copies": None} == recorded
    placement.check(recorded, "x")
    with pytest.raises(ConversionError, match=r"1 on CPU, in \? partitions"):
        placement.check({**recorded, "fallback": {"CPU": 1}}, "x")


def test_a_placement_without_operators_passes():
    # A bundle that is not built yet has none; neither has a simulator that cannot know the units.
    placement.check({}, "x")
    placement.check(placement.record({}, requested="HTP"), "x")
