"""Two models that displace each other in the last-level cache are timed in blocks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from effbench.api.compare import caches, run
from effbench.api.compare.caches import block, last_level_bytes, note
from effbench.api.compare.comparison import Comparison
from effbench.api.compare.pairs import Pair
from effbench.api.compare.rounds import RoundSettings
from effbench.api.remote import Remote, device_of
from effbench.schema import Artifact, InputShapes, Subject, Weights
from effbench.statistics.sequential import Rules


def test_the_last_level_cache_is_the_largest(tmp_path: Path):
    for index, size in enumerate(("48K", "2048K", "32M", "?")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    assert 32 * 2**20 == last_level_bytes(tmp_path)
    assert last_level_bytes(tmp_path / "none") is None


CACHE = 32 * 2**20


def artifact(name: str, mib: int) -> Artifact:
    """Return an artifact with weights of this size."""
    subject = Subject(name, "user", Weights(), InputShapes((64, 64)), 1, "ort", "fp32", size_bytes=mib * 2**20)
    return Artifact(
        folder=Path(name), key=name, digest=name, subject=subject, inputs=(), outputs=(), files={}, entry="model.onnx"
    )


LARGE = 20 * 2**20, 21 * 2**20


def test_two_models_that_fit_together_alternate_one_by_one():
    for sizes in ((CACHE // 2, CACHE // 2, CACHE), (CACHE, CACHE, None)):
        assert (1, "") == (block(*sizes), note(*sizes))


def test_two_models_that_do_not_fit_together_are_timed_in_blocks():
    assert 3 == block(*LARGE, CACHE)
    text = "(20 and 21 MiB) exceed the last-level cache (32 MiB): timed in blocks of 3"
    assert text in note(*LARGE, CACHE)


def test_two_workers_take_turns_and_are_warned():
    assert 1 == block(*LARGE, CACHE, workers=2)
    assert "hide part of a change that is bound by memory: use --workers 1" in note(*LARGE, CACHE, workers=2)


def test_a_comparison_of_large_models_runs_in_blocks(monkeypatch: pytest.MonkeyPatch):
    compared: list[Comparison] = []

    def stop(comparisons: list[Comparison], *_: object) -> bool:
        compared.extend(comparisons)
        return True

    monkeypatch.setattr(caches, "last_level_bytes", lambda: CACHE)
    monkeypatch.setattr(run, "run_comparisons", stop)
    large, small = artifact("large", 20), artifact("small", 2)
    pairs = [Pair("large", large, replace(large, digest="b")), Pair("small", small, replace(small, digest="b"))]
    with Remote(device_of("local")) as remote:
        verdicts, _ = run.compare_pairs(pairs, RoundSettings(), Rules(), lambda text: None, remote, always_time=True)
    assert [3, 1] == [comparison.settings.block for comparison in compared]
    assert [True, False] == [any("in blocks" in note for note in verdict.notes) for verdict in verdicts]
