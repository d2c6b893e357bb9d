"""Figures of other tools in the store and in a report: OpenVINO's own benchmark_app is the one that runs here."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from effbench.deploy.artifact import bundle
from effbench.store import Store

pytestmark = pytest.mark.xdist_group("export")
SYNC = ("-hint", "none", "-nstreams", "1", "-nthreads", "1", "-api", "sync", "-niter", "30")


def benchmark_app(own: Any, *options: str) -> str:
    model = next(item for item in bundle.artifacts(own.folder / "runs") if item.subject.target == "ov")
    tool = [sys.executable, "-c", "from openvino.tools.benchmark.main import main; main()", "-m", str(model.path)]
    result = subprocess.run([*tool, *options], capture_output=True, text=True, timeout=120, check=False, cwd=own.folder)
    assert 0 == result.returncode, result.stdout + result.stderr
    return result.stdout


@pytest.mark.target("ov")
def test_benchmark_app_is_imported_as_an_aggregate(own: Any):
    (own.folder / "report").mkdir()
    console = benchmark_app(own, *SYNC, "-report_type", "no_counters", "-report_folder", "report", "-json_stats")
    (own.folder / "console.txt").write_text(console)
    for file in ("report/benchmark_report.json", "console.txt"):
        result = own("import", file, "-a", "toy.net-64-b1-fp32-ov", "-d", "core-ultra-cpu")
        assert 0 == result.returncode, result.stderr
        assert "aggregate: median of 30 runs" in result.stdout
    first, second = Store(own.folder / "runs")
    assert "median of 30 runs" == first.samples.aggregate
    assert ("imported", "core-ultra-cpu", "benchmark_app") == (first.origin, first.device, first.settings["tool"])
    one, two = (item.samples.rounds[0].samples_ns[0] for item in (first, second))
    assert abs(one - two) <= 6_000, "the report rounds to 10 us what the console prints in full"
    report = own("report")
    assert "core-ultra-cpu, 64 px (imported)" in report.stdout
    assert "aggregate: median of 30 runs" in report.stdout


@pytest.mark.target("ov")
def test_throughput_of_benchmark_app_is_refused(own: Any):
    (own.folder / "report").mkdir()
    report = ("-report_type", "no_counters", "-report_folder", "report", "-json_stats")
    benchmark_app(own, "-niter", "8", "-nireq", "2", *report)
    result = own("import", "report/benchmark_report.json", "-a", "toy.net-64-b1-fp32-ov", "-d", "core-ultra-cpu")
    assert 2 == result.returncode
    assert "that is throughput, not latency" in result.stderr


def test_plain_times_become_rounds(own: Any):
    for index in range(6):
        (own.folder / f"{index}.txt").write_text("".join(f"{10 + 0.01 * (n + index)}\n" for n in range(30)))
    files = [f"{index}.txt" for index in range(6)]
    result = own("import", *files, "-a", "toy.net-64-b1-fp32-ort", "-d", "iphone-13", "--set", "power=low")
    assert 0 == result.returncode, result.stderr
    (one,) = Store(own.folder / "runs")
    assert (6, "low") == (len(one.samples.rounds), one.settings["power"])
    assert "aggregate" not in result.stdout
    assert "10.1" in own("report").stdout


def test_a_file_that_is_no_measurement_stores_nothing(own: Any):
    (own.folder / "x.txt").write_text("nothing")
    result = own("import", "x.txt", "-a", "toy.net-64-b1-fp32-ort", "-d", "iphone-13")
    assert 2 == result.returncode
    assert "not the output of a known tool" in result.stderr
    assert [] == list(Store(own.folder / "runs"))
