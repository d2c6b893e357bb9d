"""Where operators run: fallback is what runs elsewhere than asked for."""

from __future__ import annotations

import pytest

from effbench.deploy.artifact import placement
from effbench.errors import ConversionError


def test_what_runs_elsewhere_is_fallback_and_fails():
    found = placement.record({"HTP": 3, "CPU": 1}, partitions=2, copies=1, wanted="HTP")
    assert ({"CPU": 1}, 0.75, 2, 1) == tuple(
        found[k] for k in ("fallback", "accelerator_share", "partitions", "copies")
    )
    with pytest.raises(ConversionError, match=r"1 on CPU, in 2 partitions.*\n.*--allow-fallback"):
        placement.check(found, "x")


@pytest.mark.parametrize(
    "found", [placement.record({"CPU": 4, "GPU": 0}, wanted="CPU"), placement.record({"CPU": 1, "GPU": 2}), {}]
)
def test_the_unit_asked_for_and_a_free_choice_are_none(found: dict[str, object]):
    placement.check(found, "x")
    assert "GPU" not in found.get("fallback", {})
