"""The noisiest operators that join the fp32 islands: with which readers, how many, and when none does."""

from __future__ import annotations

import math

import numpy as np
import pytest
from onnx import parser

from effbench.deploy.artifact import fidelity
from effbench.deploy.graph import onnx_file
from effbench.deploy.precision.diagnose import find_islands
from effbench.deploy.precision.fp32_islands import HalfPrecisionJudge, Islands, add_noisiest, find_culprits

BESIDE = 8
"""Harmless operators behind the others."""
NONE: Islands = frozenset()


def judge_of(lifts: int) -> HalfPrecisionJudge:
    """Judge a network that adds 64 and subtracts it again, so many times: only storing the sums in half does harm."""
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


def test_the_reader_of_a_result_that_must_not_be_stored_in_half_joins():
    judge = judge_of(1)
    assert not judge.holds(NONE)
    assert not judge.holds(frozenset({"up0"}))
    assert add_noisiest(judge, NONE) == {"up0", "down0"}


def test_nothing_joins_where_the_limits_hold():
    assert add_noisiest(judge_of(0), NONE) == NONE
    islands = frozenset({"up0", "down0"})
    assert add_noisiest(judge_of(1), islands) == islands


def test_islands_stay_if_the_largest_share_does_not_suffice():
    assert add_noisiest(judge_of(4), NONE) == NONE


@pytest.mark.parametrize("mode", ["half-acc32", "half-acc16"])
def test_a_tensor_between_islands_is_not_rounded(mode: str):
    judge = judge_of(1)
    assert judge.error(mode, frozenset({"up0", "down0"})) < 0.1 * judge.error(mode, frozenset({"up0"}))


def overflowing(until: float = math.inf) -> HalfPrecisionJudge:
    """Judge a network whose middle leaves the range of half precision."""
    model = parser.parse_model("""<ir_version: 9, opset_import: ["" : 20]> g (float[1, 64] x) => (float[1, 64] y)
        <float big = {1000.0}>
        { up = Mul (x, big)   square = Mul (up, up)   root = Sqrt (square)   y = Div (root, big) }""")
    random = np.random.default_rng(0)
    feeds = [{"x": random.uniform(0.5, 2, (1, 64)).astype(np.float32)} for _ in range(fidelity.NATURAL)]
    return HalfPrecisionJudge(onnx_file.infer_shapes(model, "overflowing"), feeds, until=until)


def test_a_search_that_is_late_returns_what_it_has():
    assert find_culprits(overflowing())
    late = overflowing(until=0)
    assert (NONE, True) == (find_culprits(late), late.late)


def test_the_limit_of_a_search_is_told():
    judge = overflowing()
    names, late = find_islands(judge.model, judge.feeds, 3)
    assert (True, False) == (bool(names), late)
    assert find_islands(judge.model, judge.feeds, 3, search_s=0)[1]
