"""Damaged inputs at every door end as data or as one sentence; `benchmarks/fuzz.py` runs a thousand of each."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fuzzing import FORMATS, Format, attempt, corpus, inputs, mutate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CORPUS = Path(__file__).parent / "corpus"
BY_NAME = {form.name: form for form in FORMATS}


def run(form: Format, count: int, seed: int, folder: Path) -> list[str]:
    ends = []
    for number, data in enumerate(inputs(form, count, seed)):
        place = folder / str(number)
        place.mkdir()
        ends.append(attempt(form, data, place))
        shutil.rmtree(place)
    return ends


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_good_example_is_read(form: Format, tmp_path: Path):
    recorded_error = {"recording": "DeviceError"}
    assert recorded_error.get(form.name, "read") == attempt(form, form.example(), tmp_path)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_damaged_inputs_end_as_data_or_as_one_sentence(form: Format, tmp_path: Path):
    assert len(set(run(form, 12, 0, tmp_path))) > 0


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_many_damaged_inputs(form: Format, tmp_path: Path):
    assert len(run(form, 300, 1, tmp_path)) == 300


READABLE = ("headings-of-qnn", "nothing-predicted", "timeout-in-words")
"""Inputs of the corpus that hold nothing wrong by themselves; all others are refused."""


@pytest.mark.parametrize("case", list(corpus(CORPUS)), ids=lambda case: case[0])
def test_an_input_that_once_failed(case: tuple[str, str, bytes], tmp_path: Path):
    name, form, data = case
    assert (name in READABLE) == (attempt(BY_NAME[form], data, tmp_path) == "read")


def test_mutation_is_seeded_and_changes_something():
    form = BY_NAME["store"]
    first, again = list(inputs(form, 20)), list(inputs(form, 20))
    assert first == again
    assert form.example() not in first[:3]
    assert first != list(inputs(form, 20, seed=1))


@given(data=st.binary(max_size=300), random_=st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_can_be_mutated(data: bytes, random_: object):
    assert isinstance(mutate(data, random_), bytes)  # type: ignore[arg-type]
