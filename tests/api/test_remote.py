"""Commands on a device: another interpreter at the other end of a pipe, a recording, and devices that are not there."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from effbench.api.evaluate import remote_images
from effbench.api.evaluate.run import evaluate
from effbench.api.remote import check_clock
from effbench.errors import MeasurementError
from effbench.store import Store

pytestmark = pytest.mark.xdist_group("export")
ARTIFACT = "toy.net-64-b1-fp32-ort"


@pytest.fixture
def bench(own: Any, pipe: Any) -> Any:
    """A command line in a folder that declares the device ``bench``."""
    tape = '[devices.tape]\ntransport = "replay"\nconnection = { file = "exchange.jsonl" }\n'
    (own.folder / "effbench.toml").write_text(pipe("bench", own.folder) + tape)
    return own


def test_a_profile_is_recorded_and_replayed(bench: Any):
    result = bench(*f"profile {ARTIFACT} --device bench --rounds 2 --budget 2 --record exchange.jsonl".split())
    assert 0 == result.returncode, result.stderr
    again = bench(*f"profile {ARTIFACT} --device tape --rounds 2 --budget 2".split())
    assert 0 == again.returncode, again.stderr
    first, second = Store(bench.folder / "runs")
    assert first.samples.rounds == second.samples.rounds
    assert [("bench", "measured"), ("tape", "replayed")] == [(item.device, item.origin) for item in (first, second)]
    assert "tape, 64 px (replayed)" in bench("report").stdout
    assert ["agents"] == [path.name for path in (bench.folder / "home").iterdir()]


def test_fidelity_is_checked_on_the_device(bench: Any):
    result = bench("verify", ARTIFACT, "--device", "bench")
    assert 0 == result.returncode, result.stderr
    assert " ok " in result.stdout


def test_accuracy_is_that_of_the_files_on_the_device(bench: Any, monkeypatch: pytest.MonkeyPatch):
    for number in range(7):
        rng = np.random.default_rng(number)
        Image.fromarray(rng.integers(0, 256, (80, 70, 3), dtype=np.uint8)).save(bench.folder / f"{number}.png")
    lines = [f"{number}.png,{number % 3}" for number in range(7)]
    (bench.folder / "list.csv").write_text("\n".join(["path,label", *lines]))
    monkeypatch.chdir(bench.folder)
    monkeypatch.setattr(remote_images, "PORTION", 3)  # three pushes
    here = evaluate([ARTIFACT], "list.csv", check_preprocessing=False)
    there = evaluate([ARTIFACT], "list.csv", check_preprocessing=False, device="bench")
    (a,), (b,) = here.results, there.results
    assert (7, 7, "ONNX Runtime on bench", 7) == (a.computed, b.computed, b.evaluation.engine, b.agreement.hits)
    assert a.evaluation.predictions == b.evaluation.predictions
    assert 0 == evaluate([ARTIFACT], "list.csv", check_preprocessing=False, device="bench").results[0].computed
    refused = evaluate(["toy.net-64-b1-fp32-ov"], "list.csv", device="bench")
    assert ((), "'bench' runs ort, not ov.") == (refused.results, refused.cells[0].reason)


def test_pairs_run_inside_one_agent(bench: Any):
    line = f"compare {ARTIFACT} toy.net-64-b1-fp32-ov --device bench --budget 3 --inconclusive pass --json"
    result = bench(*line.split())
    assert result.returncode in (0, 1), result.stderr
    (verdict,) = json.loads(result.stdout)["data"]["verdicts"]
    assert verdict["rounds"] >= 1
    assert 0 == verdict["lost_rounds"]


def test_two_workers_are_not_for_a_device(bench: Any):
    result = bench(*f"compare {ARTIFACT} toy.net-64-b1-fp32-ov --device bench --budget 3 --workers 2".split())
    assert "both sides run in one process" in result.stdout + result.stderr


def test_what_a_device_does_not_run_is_unavailable(bench: Any):
    result = bench(*["profile", "toy.net-64-b1-fp32-ov", "--device", "bench"])
    assert 4 == result.returncode
    assert "'bench' runs ort, not ov" in result.stdout


def test_doctor_and_check_of_a_device(bench: Any):
    result = bench("doctor", "--device", "bench")
    assert 0 == result.returncode, result.stderr
    for check in ("connection", "space below", "Python", "target ort", "processor"):
        assert check in result.stdout
    checked = bench("devices", "bench", "--check")
    assert 0 == checked.returncode
    assert re.search(r"bench .* connected +Linux", checked.stdout)


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        ("doctor --device jetson-thor", 4, 'devices.jetson-thor.connection.host = "'),
        ("profile --device jetson-thor", 2, "The host of 'jetson-thor' is not declared"),
        ("profile --device iphone-13", 4, "effbench kit MODEL --device iphone-13"),
        ("profile --device jetson-thro", 2, "jetson-thor"),
        ("devices jetson-thor --check", 4, "not connected"),
        ("devices iphone-13 --check", 4, "effbench kit MODEL --device iphone-13"),
        ("devices nothing.toml", 2, "No such file"),
    ],
)
def test_a_device_that_cannot_be_used_says_what_to_do(run: Any, line: str, code: int, text: str):
    result = run(*line.split(), "--out", "runs") if line.startswith("profile") else run(*line.split())
    assert (code, True) == (result.returncode, text in result.stdout + result.stderr), result.stdout + result.stderr


def test_export_takes_target_precision_and_options_from_the_device(own: Any):
    result = own(*["export", "toy:net", "--res", "64", "--device", "core-ultra-npu", "--no-verify", "--json"])
    assert 0 == result.returncode, result.stderr
    (cell,) = json.loads(result.stdout)["data"]
    assert ("ov", "fp16") == (cell["target"], cell["precision"])
    manifest = json.loads((own.folder / cell["artifact"] / "manifest.json").read_text())
    assert "NPU" == manifest["options"]["device"]


def test_flags_win_over_the_device(own: Any):
    line = "export toy:net --res 64 --device core-ultra-npu -t ort --precision fp32 --no-verify --json"
    (cell,) = json.loads(own(*line.split()).stdout)["data"]
    assert ("ort", "fp32") == (cell["target"], cell["precision"])


@pytest.mark.parametrize(
    ("samples", "counted_s", "elapsed_s", "fine"),
    [((10**9,), 1.4, 1.5, True), ((10**9,), 0.0, 0.9, False), ((1,), 8.0, 1.0, False), ((1,), 1.0, 1.0, True)],
)
def test_the_clock_of_a_device_is_held_against_ours(
    samples: tuple[int, ...], counted_s: float, elapsed_s: float, fine: bool
):
    if fine:
        check_clock(samples, counted_s, elapsed_s)
        return
    with pytest.raises(MeasurementError, match="it jumped, or runs fast"):
        check_clock(samples, counted_s, elapsed_s)
