"""The engine on a scripted pool and on threads: every job ends once, under any faults of devices."""

import random
import re

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from effbench.errors import UsageError
from effbench.lab import engine as engines
from effbench.lab.cluster import check_address
from effbench.lab.engine import JobEngine
from effbench.lab.job import FAILED, FAULT, OK, LabJob, run, unexpected
from effbench.lab.results import Results
from effbench.lab.threads import Threads

HERE = "simulated"


def job(name, device="d", folder=None, limit_s=60.0, function="work", **more):
    arguments = {"name": name, **({} if folder is None else {"folder": str(folder)}), **more}
    return LabJob(device, f"{HERE}:{function}", arguments, limit_s)


class Scripted:
    """A pool whose answers a function of job and unit chooses; a second passes with each poll."""

    def __init__(self, units, answer):
        self.there = dict(units)
        self.answer = answer
        self.now = 0.0
        self.running = {}
        self.started = []

    def clock(self):
        return self.now

    def units(self):
        return dict(self.there)

    def start(self, job, unit, store):
        assert unit not in self.running, "two jobs on one device"
        self.running[unit] = job
        self.started.append((job.key, unit))

    def finished(self, timeout_s):
        self.now += 1.0
        answers = []
        for unit, job in list(self.running.items()):
            answer = self.answer(job, unit)
            if answer == "lost":
                self.there.pop(unit, None)
            elif answer is not None:
                del self.running[unit]
                answers.append((unit, answer))
        return answers

    def abandon(self, unit):
        self.running.pop(unit, None)

    def close(self):
        pass


def sweep(pool, jobs, store=None):
    messages = []
    engine = JobEngine(pool, store, messages.append, pool.clock)
    return list(engine.run(jobs)), engine, messages


def good(job, unit):
    return {"status": OK, "result": job.arguments["name"]}


def test_each_device_runs_one_job_at_a_time_and_all_devices_are_used():
    pool = Scripted({"u1": "d", "u2": "d", "u3": "e"}, good)
    jobs = [job(str(i)) for i in range(9)] + [job(f"e{i}", "e") for i in range(3)]
    outcomes, _, _ = sweep(pool, jobs)
    assert [OK] * 12 == [item.status for item in outcomes]
    assert {item.key for item in jobs} == {item.job.key for item in outcomes}
    assert {"u1", "u2", "u3"} == {unit for _, unit in pool.started}
    assert all(unit == "u3" for key, unit in pool.started if key in {item.key for item in jobs[9:]})


def test_equal_jobs_are_one_job():
    outcomes, _, _ = sweep(Scripted({"u": "d"}, good), [job("a"), job("a"), job("b")])
    assert 2 == len(outcomes)


def test_a_failed_job_is_final_and_is_no_fault_of_the_device():
    pool = Scripted({"u": "d"}, lambda item, unit: {"status": FAILED, "reason": "no such model", "next_step": "x"})
    outcomes, engine, _ = sweep(pool, [job(str(i)) for i in range(5)])
    assert [FAILED] * 5 == [item.status for item in outcomes]
    assert ("no such model", {}) == (outcomes[0].reason, engine.set_aside)


def test_a_lost_worker_s_job_is_tried_elsewhere():
    def answer(item, unit):
        return "lost" if unit == "u1" else good(item, unit)

    outcomes, _, messages = sweep(Scripted({"u1": "d", "u2": "d"}, answer), [job(str(i)) for i in range(4)])
    assert [OK] * 4 == [item.status for item in outcomes]
    assert any("u1 (d) is lost" in text for text in messages)
    assert 2 == max(item.attempts for item in outcomes)


def test_a_device_that_fails_repeatedly_is_set_aside_with_its_reason():
    def answer(item, unit):
        return {"status": FAULT, "reason": "no answer"} if unit == "bad" else good(item, unit)

    pool = Scripted({"bad": "d", "fine": "d"}, answer)
    outcomes, engine, messages = sweep(pool, [job(str(i)) for i in range(20)])
    assert [OK] * 20 == [item.status for item in outcomes]
    assert {"bad": "no answer"} == engine.set_aside
    assert engines.FAULTS == sum(unit == "bad" for _, unit in pool.started)
    assert any("set aside after 3 faults in a row" in text for text in messages)


def test_when_all_devices_of_a_name_are_set_aside_the_rest_is_unavailable():
    pool = Scripted({"u1": "d", "u2": "e"}, lambda item, unit: {"status": FAULT, "reason": "dead"})
    outcomes, _, _ = sweep(pool, [job(str(i)) for i in range(6)])
    assert ["unavailable"] * 6 == [item.status for item in outcomes]
    assert all("every 'd' is set aside (u1: dead)" in item.reason or "after" in item.reason for item in outcomes)


def test_a_name_that_no_worker_offers_is_waited_for_and_then_unavailable():
    pool = Scripted({"u": "d"}, good)
    outcomes, _, _ = sweep(pool, [job("a"), job("b", "absent")])
    assert {OK: "", "unavailable": "no worker offers 'absent'"} == {
        outcome.status: outcome.reason for outcome in outcomes
    }
    assert pool.now >= engines.PATIENCE_S


def test_a_job_that_fails_on_every_device_is_given_up():
    def answer(item, unit):
        return {"status": FAULT, "reason": "rebooted"} if item.arguments["name"] == "poison" else good(item, unit)

    pool = Scripted({f"u{i}": "d" for i in range(9)}, answer)
    outcomes, engine, _ = sweep(pool, [job("poison"), *(job(str(i)) for i in range(30))])
    lost = [item for item in outcomes if item.status != OK]
    assert [("poison", "unavailable", engines.ATTEMPTS)] == [
        (item.job.arguments["name"], item.status, item.attempts) for item in lost
    ]
    assert {} == engine.set_aside


def test_an_overdue_job_is_tried_elsewhere_and_its_device_set_aside():
    pool = Scripted({"u1": "d", "u2": "d"}, lambda item, unit: None if unit == "u1" else good(item, unit))
    outcomes, engine, _ = sweep(pool, [job(str(i), limit_s=5.0) for i in range(4)])
    assert [OK] * 4 == [item.status for item in outcomes]
    assert {"u1": "did not answer within 5 s"} == engine.set_aside


@seed(0)
@settings(max_examples=60, deadline=None)
@given(
    units=st.integers(1, 8),
    jobs=st.integers(0, 40),
    fault=st.floats(0, 0.6),
    loss=st.floats(0, 0.1),
    dice=st.integers(),
)
def test_every_job_ends_exactly_once_under_random_faults(units, jobs, fault, loss, dice):
    chance = random.Random(dice)

    def answer(item, unit):
        roll = chance.random()
        if roll < loss:
            return "lost"
        if roll < loss + fault:
            return {"status": FAULT, "reason": "loose"}
        return None if roll > 0.95 else good(item, unit)

    pool = Scripted({f"u{i}": "d" for i in range(units)}, answer)
    outcomes, _, _ = sweep(pool, [job(str(i)) for i in range(jobs)])
    assert sorted(str(i) for i in range(jobs)) == sorted(item.job.arguments["name"] for item in outcomes)


def test_a_second_sweep_runs_only_missing_jobs(tmp_path):
    store = str(tmp_path / "lab")
    jobs = [job(str(i), folder=tmp_path) for i in range(6)]
    first = list(JobEngine(Threads(["d"]), store, print).run(jobs[:4]))
    assert [False] * 4 == [item.cached for item in first]
    second = list(JobEngine(Threads(["d"]), store, print).run(jobs))
    assert [True] * 4 + [False] * 2 == [item.cached for item in second]
    assert [1] * 6 == [len((tmp_path / f"{i}.runs").read_text().splitlines()) for i in range(6)]
    assert {item.key for item in jobs} == Results(store).keys()


def test_threads_drive_many_devices_at_once(tmp_path):
    jobs = [job(str(i), f"d{i % 4}", tmp_path, seconds=0.2) for i in range(8)]
    outcomes = list(JobEngine(Threads([f"d{i}" for i in range(4)]), None, print).run(jobs))
    assert [OK] * 8 == [outcome.status for outcome in outcomes]
    begins = sorted(float((tmp_path / f"{i}.runs").read_text().split()[0]) for i in range(8))
    assert begins[3] - begins[0] < 0.2 <= begins[4] - begins[0]


def test_an_unexpected_exception_becomes_an_answer():
    (outcome,) = JobEngine(Threads(["d"]), None, print).run([LabJob("d", f"{HERE}:bug", {"name": "x"})])
    assert FAILED == outcome.status
    assert re.fullmatch(r"ZeroDivisionError: x \(simulated\.py, line \d+\)", outcome.reason)


def test_a_failed_job_answers_with_reason_and_next_step(tmp_path):
    arguments = {"name": "x", "folder": str(tmp_path)}
    assert (FAULT, "no answer from the device") == tuple(
        run(f"{HERE}:broken", arguments)[k] for k in ("status", "reason")
    )
    assert FAILED == run(f"{HERE}:work", {**arguments, "fails": True})["status"]


@pytest.mark.parametrize("address", ["{folder}", "file://{folder}", "local://{folder}/deep", "memory://lab-{name}"])
def test_a_result_is_written_once_and_never_changed(tmp_path, address):
    if address.startswith(("memory", "local")):
        pytest.importorskip("fsspec")
    results = Results(address.format(folder=tmp_path / "r", name=tmp_path.name))
    assert set() == results.keys()
    assert [True, False, True] == [results.add("a", {"x": 1}), results.add("a", {"x": 2}), results.add("b", [])]
    assert {"a", "b"} == results.keys()
    assert [("a", {"x": 1}), ("b", [])] == list(results)


def test_a_partly_written_file_is_not_a_result(tmp_path):
    results = Results(tmp_path)
    results.add("a", 1)
    (tmp_path / ".making-xyz.json").write_text("{")
    assert {"a"} == results.keys()
    assert ["a.json"] == sorted(path.name for path in tmp_path.glob("*.json") if not path.name.startswith("."))


@pytest.mark.parametrize("address", ["tcp://10.0.0.1:8786", "tcp://lab.example:8786", "http://127.0.0.1:1", "8786"])
def test_a_remote_scheduler_needs_encryption(address):
    with pytest.raises(UsageError, match=r"tls://"):
        check_address(address)


def test_a_local_scheduler_may_be_unencrypted():
    assert [False, False, True] == [
        check_address(address) for address in ("tcp://127.0.0.1:8786", "tcp://localhost:1", "tls://lab.example:8786")
    ]


def test_an_exception_without_a_text_has_a_name_and_a_line():
    def broken() -> None:
        raise AssertionError

    with pytest.raises(AssertionError) as caught:
        broken()
    assert re.fullmatch(r"AssertionError \(test_engine.py, line \d+\)", unexpected(caught.value)["reason"])
    assert {"status": FAILED, "reason": "ValueError: one"} == unexpected(ValueError("one\ntwo"))
