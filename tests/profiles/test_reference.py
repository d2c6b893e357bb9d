"""The reference kernels, the best seen on a machine, and the kind of its cores."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from effbench.api.profile.references import FILE, with_best
from effbench.profiles.cores import core_type
from effbench.profiles.reference import readings

STATE = {"cpu_model": "x", "machine": "y", "cores_online": 2, "numpy": "2.4"}


def test_a_reading_is_the_median_of_the_timed_runs():
    clock = itertools.count(0, 2_000_000)
    assert {"reference_compute_us": 2000.0, "reference_memory_us": 2000.0} == readings(lambda: next(clock))
    assert {} == readings(lambda: 5)


def test_the_best_of_all_runs_is_kept_for_each_machine(tmp_path: Path):
    slow, fast = {"reference_compute_us": 900.0, "wall_s": 1.0}, {"reference_compute_us": 800.0}
    first = with_best(tmp_path, "local", "run1", STATE, slow)
    assert (900.0, 0) == (first["reference_compute_us_best"], first["reference_earlier_runs"])
    assert 0 == with_best(tmp_path, "local", "run1", STATE, fast)["reference_earlier_runs"]
    later = with_best(tmp_path, "local", "run2", STATE, slow)
    assert (800.0, 1) == (later["reference_compute_us_best"], later["reference_earlier_runs"])
    assert 0 == with_best(tmp_path, "phone", "run2", STATE, slow)["reference_earlier_runs"]
    assert STATE == with_best(tmp_path, "local", "run3", STATE, {"wall_s": 1.0})


@pytest.mark.parametrize(
    "content", ["[", "[]", '{"local | x | y | 2 | 2.4": {"reference_compute_us": "", "runs": [3]}}']
)
def test_a_broken_file_is_begun_anew(tmp_path: Path, content: str):
    (tmp_path / FILE).write_text(content)
    state = with_best(tmp_path, "local", "run1", STATE, {"reference_compute_us": 900.0})
    assert 900.0 == state["reference_compute_us_best"]
    assert json.loads((tmp_path / FILE).read_text())


@pytest.mark.parametrize(
    ("files", "cpus", "expected"),
    [
        ({}, [0, 1], None),
        ({"devices/cpu_atom/cpus": "4-7\n"}, [0, 1], "performance"),
        ({"devices/cpu_atom/cpus": "4-7\n"}, [4, 6], "efficiency"),
        ({"devices/cpu_atom/cpus": "4-5,7\n"}, [0, 7], "mixed"),
        ({f"devices/system/cpu/cpu{i}/cpu_capacity": f"{c}\n" for i, c in enumerate((400, 1024))}, [0], "efficiency"),
        ({f"devices/system/cpu/cpu{i}/cpu_capacity": "1024\n" for i in range(2)}, [0], None),
    ],
)
def test_the_kind_of_the_allowed_cores(tmp_path: Path, files: dict[str, str], cpus: list[int], expected: str | None):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert expected == core_type(tmp_path, cpus)
