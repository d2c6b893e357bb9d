"""Arguments, ``effbench.toml`` and defaults become one plan: every key of a suite is used by the gate, or refused."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from effbench.api.compare import tree_worker
from effbench.api.compare.budgets import GATE_KEYS, SUITE_KEYS, read_suite
from effbench.api.compare.gate_plan import GatePlan, gate_plan
from effbench.api.compare.request import CompareRequest, GateRequest
from effbench.api.sweep.request import SweepRequest
from effbench.errors import DataError, UsageError
from effbench.schema import InputShapes

DEVICE = '[devices.bench]\ntransport = "pipe"\nconnection = { command = ["env"], home = "~" }\n'


def plan(folder: Path, text: str, **arguments: Any) -> GatePlan:
    (folder / "effbench.toml").write_text(text)
    return gate_plan(
        GateRequest(folder=folder, out=folder / "runs", **{"base": "HEAD", "models": ["a:b"], **arguments})
    )


OF_THE_SUITE = {
    "models": ('["a:b", "c:d"]', lambda item: item.models, ("a:b", "c:d")),
    "targets": ('["ov"]', lambda item: item.exports.targets, ("ov",)),
    "resolutions": ('[96, "64x128"]', lambda item: item.exports.resolutions, ("96", "64x128")),
    "precisions": ('["fp32", "fp16"]', lambda item: item.exports.precisions, ("fp32", "fp16")),
    "devices": ('["bench"]', lambda item: item.device, "bench"),
    "threads": ("3", lambda item: item.settings.threads, 3),
    "batch": ("2", lambda item: (item.exports.batch, item.settings.batch), (2, 2)),
    "seed": ("7", lambda item: item.exports.seed, 7),
    "images": ('"synthetic"', lambda item: item.exports.images, "synthetic"),
    "allow_fallback": ("true", lambda item: item.exports.allow_fallback, True),
}


@pytest.mark.parametrize("key", OF_THE_SUITE)
def test_a_gate_uses_every_key_of_the_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str):
    monkeypatch.chdir(tmp_path)
    text, value, expected = OF_THE_SUITE[key]
    assert expected != value(plan(tmp_path, DEVICE))
    assert expected == value(
        plan(tmp_path, f"[suite]\n{key} = {text}\n{DEVICE}", models=[] if key == "models" else ["a:b"])
    )


def test_both_commands_know_the_keys_that_a_suite_may_have():
    assert set(SUITE_KEYS) == set(OF_THE_SUITE)
    assert set(SUITE_KEYS) - {"devices"} <= {field.name for field in fields(SweepRequest)}


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("base", '"main"', lambda item: item.base == "main"),
        ("floor_pct", "2", lambda item: item.rules.floor_pct == 2),
        ("margin_pct", "7", lambda item: item.rules.margin_pct == 7),
        ("fail_above_pct", "3", lambda item: item.rules.fail_above_pct == 3),
        ("false_alarms", "0.01", lambda item: item.rules.false_alarms == 0.01),
        ("budget_s", "5", lambda item: item.settings.budget_s == 5.0),
        ("inconclusive", '"fail"', lambda item: item.inconclusive == "fail"),
        ("path", '["lib"]', lambda item: item.path == ("lib",)),
    ],
)
def test_a_gate_uses_the_keys_of_its_own_table(tmp_path: Path, key: str, text: str, expected: Any):
    assert key in GATE_KEYS
    assert expected(plan(tmp_path, f"[gate]\n{key} = {text}\n", base=None if key == "base" else "HEAD"))


def test_an_argument_wins_over_the_suite(tmp_path: Path):
    text = '[suite]\nprecisions = ["fp16"]\nseed = 7\nbatch = 2\ndevices = ["a", "b"]\nallow_fallback = true\n'
    arguments = {"precisions": ["fp32"], "seed": 0, "batch": 1, "device": "local", "allow_fallback": False}
    item = plan(tmp_path, text, **arguments)
    assert (("fp32",), 0, 1, False) == (
        item.exports.precisions, item.exports.seed, item.exports.batch, item.exports.allow_fallback,
    )  # fmt: skip
    assert "local" == item.device


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('devices = ["a", "b"]', "a gate runs on one"),
        ('devices = ["a,b"]', "a gate runs on one"),
        ('calibration = "images"', "Valid: allow_fallback, batch, devices, images"),
        ('precisions = ["fp61"]', "Did you mean fp16"),
        ('precisions = ["int8"]', "images to calibrate with"),
        ('models = "a:b"', "is not an array"),
        ("threads = true", "is not a whole number"),
        ('threads = "2"', "is not a whole number"),
        ("threads = 0", "--threads 0 is not above zero"),
    ],
)
def test_a_key_that_a_gate_cannot_use_is_refused(tmp_path: Path, text: str, words: str):
    with pytest.raises(UsageError) as caught:
        plan(tmp_path, f"[suite]\n{text}\n")
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["budget_s", "threads", "batch"])
def test_zero_is_refused_and_not_taken_for_the_default(name: str):
    with pytest.raises(UsageError, match="not above zero"):
        GateRequest(**{name: 0})
    with pytest.raises(UsageError, match="not above zero"):
        CompareRequest("a", "b", **{name: 0})


def test_both_trees_are_calibrated_with_the_same_images(tmp_path: Path):
    (tmp_path / "images").mkdir()
    item = plan(tmp_path, '[suite]\nimages = "images"\nprecisions = ["int8"]\n')
    assert str((tmp_path / "images").resolve()) == item.exports.images
    with pytest.raises(DataError, match="no such folder"):
        plan(tmp_path, '[suite]\nimages = "other"\n')


def test_a_budget_selects_a_precision(tmp_path: Path):
    (tmp_path / "effbench.toml").write_text('[[budget]]\nprecision = "int8"\nsize_mib = 1\n')
    (budget,) = read_suite(tmp_path).budgets
    subject = type(
        "Subject", (), {"model": "m", "target": "ort", "shapes": InputShapes((64, 64)), "storage_precision": "int8"}
    )()
    artifact = type("Artifact", (), {"subject": subject})()
    assert budget.matches(artifact, "local")
    subject.storage_precision = "fp32"
    assert not budget.matches(artifact, "local")


def test_a_tree_exports_each_precision_with_the_seed_and_images_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(tree_worker, "export", lambda *_, **options: calls.append(options) or [])
    exports = replace(plan(tmp_path, "").exports, precisions=("fp32", "int8"), seed=3, images="synthetic")
    exports = replace(exports, allow_fallback=True)
    list(tree_worker._cells("a:b", {**exports.job("a:b"), "out": str(tmp_path)}, lambda event: None))
    keys = ("precision", "images", "seed", "allow_fallback")
    assert [("fp32", None, 3, True), ("int8", "synthetic", 3, True)] == [
        tuple(call[key] for key in keys) for call in calls
    ]
