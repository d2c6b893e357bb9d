"""Checkpoints: a state is equal after a round trip, and a broken checkpoint is an error that names it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from torch import nn

from effbench import drafts
from effbench.errors import DataError
from effbench.training import checkpoint

LEAVES = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=3)
STATES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=12,
)


@seed(0)
@settings(max_examples=100, deadline=None)
@given(STATES)
def test_a_state_is_equal_after_a_round_trip(state: object):
    tensors: dict[str, torch.Tensor] = {}
    assert state == checkpoint.unpack(checkpoint.pack(state, "s", tensors), tensors)


def test_an_optimizer_is_restored_bit_for_bit(tmp_path: Path):
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.8, 0.9))
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    checkpoint.save(tmp_path, 7, {"optimizer": optimizer.state_dict()})
    step, state = checkpoint.load(tmp_path)
    assert 7 == step
    expected = optimizer.state_dict()
    assert expected["param_groups"] == state["optimizer"]["param_groups"]
    assert expected["state"].keys() == state["optimizer"]["state"].keys()
    for index, values in expected["state"].items():
        assert all(torch.equal(value, state["optimizer"]["state"][index][name]) for name, value in values.items())


def test_values_that_json_cannot_hold_are_errors():
    with pytest.raises(TypeError, match=r"s\.a is a set"):
        checkpoint.pack({"a": {1}}, "s", {})


def test_no_checkpoint_is_no_error(tmp_path: Path):
    assert checkpoint.load(tmp_path) is None


def test_the_newest_two_are_kept(tmp_path: Path):
    for step in (1, 2, 10):
        checkpoint.save(tmp_path, step, {"x": torch.tensor(step)})
    assert ["step-000000002", "step-000000010"] == sorted(path.name for path in tmp_path.iterdir())
    assert 10 == checkpoint.load(tmp_path)[0]


def test_a_draft_is_no_checkpoint(tmp_path: Path):
    checkpoint.save(tmp_path, 1, {"x": torch.zeros(1)})
    (tmp_path / ".step-000000002.99").mkdir()
    assert 1 == checkpoint.load(tmp_path)[0]


@pytest.mark.parametrize("name", [checkpoint.TENSORS, checkpoint.STATE])
def test_a_broken_checkpoint_is_named(tmp_path: Path, name: str):
    folder = checkpoint.save(tmp_path, 1, {"x": torch.zeros(100)})
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-9])
    with pytest.raises(DataError, match=r"Remove .*step-000000001"):
        checkpoint.load(tmp_path)


def test_tensors_that_share_memory_are_saved(tmp_path: Path):
    base = torch.arange(6.0)
    checkpoint.save(tmp_path, 1, {"a": base, "b": base.view(2, 3), "c": base[:2]})
    _, state = checkpoint.load(tmp_path)
    assert torch.equal(base.view(2, 3), state["b"])
    assert torch.equal(base[:2], state["c"])


def test_the_draft_of_another_process_stays_and_that_of_a_killed_one_goes(tmp_path: Path):
    with drafts.draft(tmp_path, checkpoint.DRAFT) as held:
        held.mkdir()
        (tmp_path / ".step-killed").mkdir()
        (tmp_path / ".step-killed.lock").touch()
        checkpoint.save(tmp_path, 1, {"x": torch.zeros(1)})
        assert {held, tmp_path / f"{held.name}.lock", tmp_path / "step-000000001"} == set(tmp_path.iterdir())
    assert [tmp_path / "step-000000001"] == list(tmp_path.iterdir())
