"""The operators that join the fp32 islands where rounding is spread: what they bring along, and when none does."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

from effbench.deploy.artifact import fidelity
from effbench.deploy.graph import onnx_file
from effbench.deploy.precision.fp32_islands import HalfPrecisionJudge, Islands, add_noisiest

BESIDE = 8
"""Harmless operators behind the others."""
NONE: Islands = frozenset()


def experiment(lifts: int) -> HalfPrecisionJudge:
    """A network that lifts its values by 64 and lowers them again, so often: only storing them between does harm."""
    lines, last = [], "x"
    for index in range(lifts):
        lines += [f"up{index} = Add ({last}, lift)", f"down{index} = Sub (up{index}, lift)"]
        last = f"down{index}"
    for index in range(BESIDE):
        lines.append(f"t{index} = Neg ({last})")
        last = f"t{index}"
    head = f'<ir_version: 9, opset_import: ["" : 20]> g (float[1, 64] x) => (float[1, 64] {last})'
    model = parser.parse_model(f"{head} <float lift = {{64.0}}> {{ {' '.join(lines)} }}")
    random = np.random.default_rng(0)
    feeds = [{"x": random.uniform(0.1, 2, (1, 64)).astype(np.float32)} for _ in range(fidelity.NATURAL)]
    return HalfPrecisionJudge(onnx_file.infer_shapes(model, "lifts"), feeds)


def test_the_reader_of_what_must_not_be_stored_joins():
    found = experiment(1)
    assert not found.holds(NONE)
    assert not found.holds(frozenset({"up0"}))
    assert add_noisiest(found, NONE) == {"up0", "down0"}


def test_nothing_joins_where_the_limits_hold():
    assert add_noisiest(experiment(0), NONE) == NONE
    given = frozenset({"up0", "down0"})
    assert add_noisiest(experiment(1), given) == given


def test_what_the_largest_share_cannot_mend_stays_as_it_was():
    assert add_noisiest(experiment(4), NONE) == NONE


@pytest.mark.parametrize("mode", ["half-acc32", "half-acc16"])
def test_a_tensor_between_islands_is_not_rounded(mode: str):
    found = experiment(1)
    assert found.error(mode, frozenset({"up0", "down0"})) < 0.1 * found.error(mode, frozenset({"up0"}))
