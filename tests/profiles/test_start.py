"""Starts of an artifact: their parts, and dropping files from the system's file cache."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from effbench.commands.text import starts
from effbench.profiles import start
from effbench.schema import Round, Samples, Start

ROUND = Round((1000, 1001), 1, True, 10.0, 2.0, 1)
CACHED = Start(5.0, 1.0, 4.0)


def test_the_parts_of_a_start_are_timed_apart():
    ticks = iter([0, 7_000_000, 7_000_000, 9_000_000, 9_000_000, 9_500_000])
    clock = start.StartClock(lambda: next(ticks))
    for name in ("read", "import", "session"):
        with clock.part(name):
            pass
    measured = clock.start()
    assert (7.0, 2.0, 0.5, 9.5) == (measured.read_ms, measured.import_ms, measured.session_ms, clock.load_ms)
    assert (False, ()) == (measured.cold, measured.still_cached)


def on_disk(path: Path) -> bool:
    """Return whether the file system of a file keeps it on a disk, so that it can leave the cache."""
    start.drop_from_cache([path])
    return 0 == start.cached_bytes(path)


def test_a_file_leaves_the_cache_and_a_mapped_one_stays(tmp_path: Path):
    path = tmp_path / "weights"
    with path.open("wb") as file:
        file.write(os.urandom(1 << 21))
        os.fsync(file.fileno())
    if not hasattr(os, "posix_fadvise") or not on_disk(path):
        pytest.skip("this file system keeps its files in memory")
    path.read_bytes()
    assert 1 << 21 == start.cached_bytes(path)
    clock = start.StartClock()
    clock.drop([path])
    assert 0 == start.cached_bytes(path)
    path.read_bytes()
    measured = clock.start()
    assert (True, ()) == (measured.cold, measured.still_cached)
    assert (measured.disk_bytes or 0) >= 1 << 21


def test_a_system_without_the_call_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    clock = start.StartClock()
    clock.drop([tmp_path], still_cached=("kernels",))
    measured = clock.start()
    assert (False, (start.NOT_DROPPED, "kernels")) == (measured.cold, measured.still_cached)


def test_a_start_that_reads_nothing_is_not_cold(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(start, "disk_bytes", lambda: 512)
    monkeypatch.setattr(start, "drop_from_cache", lambda _: True)
    clock = start.StartClock()
    clock.drop([])
    measured = clock.start()
    assert (False, 0, (start.NOTHING_READ,)) == (measured.cold, measured.disk_bytes, measured.still_cached)


def test_what_other_processes_use_is_named():
    assert "" == start.in_use(1000)
    assert "3 MiB of the files, which other processes use" == start.in_use(3 << 20)


def test_load_is_that_of_the_cached_starts():
    cold = replace(ROUND, load_ms=90.0, start=replace(CACHED, import_ms=85.0, cold=True, disk_bytes=5 << 20))
    samples = Samples((cold, replace(ROUND, start=CACHED), replace(ROUND, start=CACHED)))
    assert samples.rounds[1:] == samples.cached_starts
    assert [
        "cold start: 92 ms (import 85, read and check 1, session 4, first inference 2); 5 MiB read from the disk",
        "cached start (median of 2): 12 ms (import 5, read and check 1, session 4, first inference 2)",
    ] == starts.lines(samples)


def test_a_start_that_could_not_be_cold_says_why():
    samples = Samples((replace(ROUND, start=replace(CACHED, still_cached=(start.NOT_DROPPED,))), ROUND))
    (line,) = starts.lines(samples)
    assert line.startswith("first start, not cold: 12 ms (")
    assert line.endswith(f"; still cached: {start.NOT_DROPPED}")
    assert [] == starts.lines(Samples((ROUND,)))


def test_a_single_cold_round_still_has_a_load():
    cold = replace(ROUND, start=replace(CACHED, cold=True))
    assert (cold,) == Samples((cold,)).cached_starts
    assert 1 == len(starts.lines(Samples((cold,))))
