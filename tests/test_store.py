from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from effbench.codec import to_json
from effbench.errors import DataError
from effbench.reports import rows
from effbench.schema import InputShapes, Measurement, Round, Samples, Subject, Weights
from effbench.store import BadLineWarning, Store, TornLineWarning, home


def measurement(run: str = "a", samples: tuple[int, ...] = (1000, 1100, 1050)) -> Measurement:
    subject = Subject("net", "user", Weights(), InputShapes((64, 64)), 1, "ort", "fp32")
    item = Round(samples, 3, True, 1.0, 2.0, 1 << 20)
    return Measurement(
        "d" * 64, subject, "local", {"threads": "1"}, Samples((item,)), {"cpu_model": "x"}, {}, "2026-01-01", run
    )


def test_appended_measurements_are_read_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    store.append(measurement("a"))
    store.append(measurement("b"))
    assert [item.run for item in store] == ["a", "b"]


def test_rounds_of_one_run_are_joined_in_order(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append(measurement("a", (1, 2)))
    store.append(measurement("b", (9,)))
    store.append(replace(measurement("a", (3,)), after={"load": 1}))
    first, second = store
    assert [item.samples_ns for item in first.samples.rounds] == [(1, 2), (3,)]
    assert first.after == {"load": 1}
    assert [item.samples_ns for item in second.samples.rounds] == [(9,)]


def test_two_models_with_equal_files_are_measured_apart(tmp_path: Path) -> None:
    store, first = Store(tmp_path), measurement("a", (1,))
    second = replace(measurement("a", (2,)), subject=replace(first.subject, model="its-copy"))
    for item in (first, second, first):
        store.append(item)
    assert [2, 1] == [len(item.samples.rounds) for item in store]
    assert [first.subject.model, "its-copy"] == [
        item.subject.model for item, _ in rows.best_evidence(store, lambda _: ("A", ()))
    ]


def test_an_incomplete_last_line_is_reported_with_its_number_and_all_others_are_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append(measurement("a"))
    store.append(measurement("b"))
    with store.path.open("r+b") as stream:
        stream.truncate(store.path.stat().st_size - 40)
    with pytest.warns(TornLineWarning, match=r"measurements\.jsonl:2"):
        assert [item.run for item in store] == ["a"]


def test_a_line_after_an_incomplete_one_is_complete(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append(measurement("a"))
    with store.path.open("ab") as stream:
        stream.write(b'{"cut')
    store.append(measurement("c"))
    with pytest.warns(TornLineWarning, match=":2"):
        assert [item.run for item in store] == ["a", "c"]


BAD_LINES = {
    "another format": (json.dumps({**to_json(measurement("bad")), "format": 99}), "format 99"),
    "a field of another kind": (json.dumps({**to_json(measurement("bad")), "after": 5}), "after: expected"),
    "no object": ("[1]", "expected a JSON object"),
    "a list without end": ("[" * 100_000, "nested deeper"),
    "a number without end": ('{"a": ' + "9" * 100_000 + "}", "a number of 100000 digits"),
    "no number": (json.dumps(to_json(measurement("bad"))).replace("1.0", "NaN"), "NaN, which is no JSON"),
    "no text": (b'{"format": 2, "digest": "\xff"}', "can't decode byte 0xff"),
    "half a character": (json.dumps({**to_json(measurement("bad")), "device": "\ud800"}), "half of a surrogate pair"),
    "a key twice": ('{"format": 2, "format": 2}', "'format' twice"),
    "a long note": (json.dumps({**to_json(measurement("bad")), "notes": ["x" * 100_000]}), "a text of 100000"),
    "a latency of years": (json.dumps(to_json(measurement("bad"))).replace("1050", str(10**18)), "below a day"),
    "a temperature in words": (json.dumps({**to_json(measurement("bad")), "before": {"a_c": "warm"}}), "no number"),
}


@pytest.mark.parametrize(("line", "reason"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_line_that_cannot_be_read_is_named_and_all_others_are_kept(
    tmp_path: Path, line: str | bytes, reason: str
) -> None:
    store = Store(tmp_path)
    store.append(measurement("a"))
    with store.path.open("ab") as stream:
        stream.write((line.encode() if isinstance(line, str) else line) + b"\n")
    store.append(measurement("b"))
    with pytest.warns(BadLineWarning, match=r"measurements\.jsonl:2: .*" + reason):
        assert [item.run for item in store] == ["a", "b"]


def test_many_bad_lines_are_not_named_one_by_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.path.write_text("{}\n" * 1000)
    store.append(measurement("a"))
    with pytest.warns(BadLineWarning) as caught:
        assert [item.run for item in store] == ["a"]
    assert len(caught) < 10
    assert "Further ones are not named" in str(caught[-1].message)


def test_what_could_not_be_read_back_is_not_stored(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(DataError, match="no object"):
        replace(measurement(), after=5)  # type: ignore[arg-type]
    for bad in (replace(measurement(), time=5), replace(measurement(), notes=("x" * 100_000,))):  # type: ignore[arg-type]
        with pytest.raises(DataError, match="this measurement"):
            store.append(bad)
    assert not store.path.exists()


def test_a_pipe_in_the_place_of_a_store_is_refused_at_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    os.mkfifo(store.path)
    with pytest.raises(DataError, match="not a regular file"):
        list(store)
    with pytest.raises(DataError, match=r"[Nn]ot a regular file|No such device"):
        store.append(measurement())


def test_a_held_lock_ends_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import effbench.store
    from effbench.drafts import file_lock

    monkeypatch.setattr(effbench.store, "LOCK_S", 0.2)
    store = Store(tmp_path)
    with file_lock(store.path.with_suffix(".lock"), 1), pytest.raises(DataError, match=r"held its lock for 0\.2 s"):
        store.append(measurement())


def test_a_group_shares_a_store(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o770)
    Store(folder).append(measurement())
    assert 0o660 == (folder / "measurements.lock").stat().st_mode & 0o777


def _append_many(folder: Path, name: str) -> None:
    for index in range(20):
        Store(folder).append(measurement(f"{name}{index}"))


def test_concurrent_writers_lose_no_line(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append_many, args=(tmp_path, name)) for name in "xyz"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(list(Store(tmp_path))) == 60


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_disk_keeps_earlier_lines(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine does not allow mounting a file system")
    try:
        store = Store(tmp_path)
        written = 0
        with pytest.raises(DataError, match="No space left"):  # noqa: PT012 the call that fails is the last of many
            for index in range(1000):
                store.append(measurement(str(index), tuple(range(1, 500))))
                written += 1
        assert written > 0
        assert len(list(store)) == written
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_home_prefers_the_argument_then_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFBENCH_HOME", "/somewhere")
    assert home("here") == Path("here")
    assert home() == Path("/somewhere")
    monkeypatch.delenv("EFFBENCH_HOME")
    assert home() == Path("runs")
