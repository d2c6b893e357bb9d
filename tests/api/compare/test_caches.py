"""The warning about two models that displace each other in the last-level cache."""

from __future__ import annotations

from pathlib import Path

from effbench.api.compare.caches import last_level_bytes, warning


def test_the_last_level_cache_is_the_largest(tmp_path: Path):
    for index, size in enumerate(("48K", "2048K", "32M", "?")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    assert 32 * 2**20 == last_level_bytes(tmp_path)
    assert last_level_bytes(tmp_path / "none") is None


def test_two_models_that_do_not_fit_together_are_warned_about():
    cache = 32 * 2**20
    assert "" == warning(cache // 2, cache // 2, cache)
    assert "" == warning(cache, cache, None)
    assert "(20 and 21 MiB) exceed the last-level cache (32 MiB)" in warning(20 * 2**20, 21 * 2**20, cache)
