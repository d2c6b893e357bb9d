"""What a worker of a lab sends is data: it is checked, and nothing of it runs."""

from __future__ import annotations

import json
import pickle
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from effbench.lab import inert
from effbench.lab.engine import JobOutcome
from effbench.lab.job import FAILED, FAULT, OK, LabJob, read_answer, run_text
from effbench.lab.measure import checked


class Bomb:
    def __reduce__(self) -> Any:
        return Path("escaped").touch, ()


class Deep:
    """Several ways to call something: a class, a state, items of a list and of a dictionary."""

    def __reduce__(self) -> Any:
        return getattr, (Path, "home"), {"x": Bomb()}, iter([Bomb()]), iter([("key", Bomb())])


IDS = ("bare", "deep", "list", "dict", "tuple")


@pytest.mark.parametrize("value", [Bomb(), Deep(), [Bomb()], {"a": Bomb()}, (Bomb(), "text")], ids=IDS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_runs_nothing(value: Any, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    inert.loads(pickle.dumps(value, protocol))
    assert not Path("escaped").exists()
    if isinstance(value, Bomb):
        pickle.loads(pickle.dumps(value, protocol))  # noqa: S301 - the attack works where it is let through
        assert Path("escaped").exists()


def test_plain_values_stay_and_an_exception_keeps_its_name() -> None:
    value = {"status": "OK", "numbers": [1, 2.5, None, True], "bytes": b"x", "set": {1}}
    assert value == inert.loads(pickle.dumps(value))
    # As the standard library pickles it; a package may have changed how this process pickles exceptions.
    error = inert.loads(b"cbuiltins\nZeroDivisionError\n(Vby zero\ntR.")
    assert ("ZeroDivisionError", "by zero") == (type(error).__name__, str(error))


def test_damaged_data_is_an_unpickling_error() -> None:
    for data in (b"", b"\x80\x05", b"garbage", pickle.dumps([1])[:-3]):
        with pytest.raises(pickle.UnpicklingError):
            inert.loads(data)


def test_dask_unpickles_nothing_in_the_process_of_the_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    from distributed import protocol

    monkeypatch.chdir(tmp_path)
    client, pickles, core, serialize = (
        import_module(f"distributed.{name}")
        for name in ("client", "protocol.pickle", "protocol.core", "protocol.serialize")
    )
    for module, name in (
        *((pickles, "loads"), (client, "loads"), (client, "pickle"), (core, "pickle"), (serialize, "pickle")),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))  # restored at the end
    bomb = protocol.dumps({"data": protocol.to_serialize(Bomb()), "other": serialize.ToPickle(Bomb())})
    warning = pickle.dumps(Bomb())
    inert.protect()
    inert.protect()
    received = protocol.loads(bomb)
    client.pickle.loads(warning)
    import_module("distributed.core").clean_exception(warning)
    assert {"data", "other"} == set(received)
    assert not Path("escaped").exists()


BROKEN = {
    "no text": {"status": OK},
    "no JSON": "{",
    "no object": "[]",
    "an unknown status": json.dumps({"status": "fine"}),
    "a status that is a list": json.dumps({"status": ["ok"]}),
    "no reason": json.dumps({"status": "failed"}),
    "a reason that is a number": json.dumps({"status": "failed", "reason": 3}),
    "an unknown field": json.dumps({"status": "ok", "exit_code": 0}),
    "deep": "[" * 100_000,
    "long": '"' + "x" * (17 * 2**20) + '"',
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_answer_of_another_form_is_a_fault_of_the_worker(case: str) -> None:
    answer = read_answer(BROKEN[case])
    assert FAULT == answer["status"]
    assert "none of effbench" in answer["reason"]


@pytest.mark.parametrize("run", ["../../x", "/etc/passwd", "", None, 3, "0123456789ab\n", "0123456789AB"])
def test_a_run_that_is_a_path_is_no_run(run: Any) -> None:
    job = LabJob("orin", "effbench.lab.measure:measure")
    good = {"run": "0123456789ab", "digest": "0" * 64}
    assert OK == checked(JobOutcome(job, OK, good)).status
    assert FAILED == checked(JobOutcome(job, OK, {**good, "run": run})).status
    assert FAILED == checked(JobOutcome(job, OK, {**good, "digest": run})).status


def test_a_job_is_text_in_and_text_out() -> None:
    job = {"function": "simulated:work", "arguments": {}, "store": None, "key": "k"}
    answer = json.loads(run_text(json.dumps({**job, "function": "json:dumps", "arguments": {"obj": [1]}})))
    assert (OK, "[1]") == (answer["status"], answer["result"])
    assert FAILED == json.loads(run_text(json.dumps({**job, "function": "json:loads"})))["status"]
    assert FAILED == json.loads(run_text("{"))["status"]
