"""The search for the shortest prefix: what it finds, how many judgements it takes, and where it starts."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effbench.deploy.precision.float_nodes import shortest_prefix

LENGTHS = st.lists(st.integers(0, 500), max_size=60, unique=True).map(sorted)


class Judge:
    """Holds as the function says, and keeps the lengths that it judged."""

    def __init__(self, holds: dict[int, bool]) -> None:
        self._holds = holds
        self.judged: list[int] = []

    def __call__(self, length: int) -> bool:
        self.judged.append(length)
        return self._holds[length]


@settings(derandomize=True, deadline=None)
@given(LENGTHS, st.integers(-1, 501), st.data())
def test_the_shortest_prefix_is_found_in_few_judgements(lengths: list[int], least: int, data: st.DataObject) -> None:
    judge = Judge({length: length >= least for length in lengths})
    first = data.draw(st.none() | st.sampled_from(range(len(lengths)))) if lengths else None
    expected = next((length for length in lengths if length >= least), None)
    assert expected == shortest_prefix(lengths, judge, first)
    assert len(set(judge.judged)) == len(judge.judged)
    if first is None:
        assert len(judge.judged) <= math.ceil(math.log2(len(lengths) + 1))
    else:
        assert judge.judged[0] == lengths[first]
        assert len(judge.judged) <= 1 + math.ceil(math.log2(len(lengths)))


@settings(derandomize=True, deadline=None)
@given(LENGTHS, st.randoms(use_true_random=False))
def test_if_longer_prefixes_may_fail_the_result_holds_and_its_shorter_neighbor_does_not(
    lengths: list[int], random: object
) -> None:
    holds = {length: random.random() < 0.5 for length in lengths}  # type: ignore[attr-defined]
    judge = Judge(holds)
    length = shortest_prefix(lengths, judge)
    if length is None:
        assert not any(holds[judged] for judged in judge.judged)
    else:
        assert holds[length]
        shorter = lengths[lengths.index(length) - 1] if length != lengths[0] else None
        assert shorter is None or (shorter in judge.judged and not holds[shorter])


@pytest.mark.parametrize(
    ("first", "judged"),
    [(0, [0, 4, 2, 3]), (7, [7, 3, 1, 2]), (None, [3, 1, 2])],
    ids=("the empty prefix", "the longest", "the middle"),
)
def test_the_first_judgement_is_chosen_by_the_caller(first: int | None, judged: list[int]) -> None:
    judge = Judge({length: length >= 3 for length in range(8)})
    assert shortest_prefix(range(8), judge, first) == 3
    assert judge.judged == judged


def test_nothing_shorter_is_judged_if_the_longest_fails_first() -> None:
    judge = Judge(dict.fromkeys(range(8), False))
    assert shortest_prefix(range(8), judge, first=7) is None
    assert judge.judged == [7]


def test_without_lengths_nothing_is_judged() -> None:
    assert shortest_prefix([], Judge({}), first=-1) is None
