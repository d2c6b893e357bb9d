"""The state of a machine, read on this machine and from prepared file trees."""

import json
import os
import subprocess
import sys

import pytest

from effbench.profiles import environment
from effbench.schema import Measurement

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Return a function that writes a file of a test machine: (path below proc or sys, text)."""
    monkeypatch.setattr(environment, "PROC", tmp_path / "proc")
    monkeypatch.setattr(environment, "SYS", tmp_path / "sys")

    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    environment.identity.cache_clear()
    yield write
    environment.identity.cache_clear()


def test_every_key_that_must_match_is_observed():
    state = environment.observe(packages=("numpy",))
    assert set(Measurement.MUST_MATCH) <= state.keys()
    assert f"numpy {state['numpy']}" == state["runtime"]
    assert state == json.loads(json.dumps(state))


def test_a_machine_without_readable_state_has_the_same_keys(tree):
    expected = environment.observe().keys()
    assert expected == environment.observe().keys()
    assert environment.observe()["cgroup_cpus"] is None
    assert {"wall_s", "own_cpu_s"} <= environment.counters().keys()
    assert "busy_cpu_s" not in environment.counters()


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/box\n", {"box/cpu.max": "150000 100000", "box/memory.max": "max"}, (1.5, None)),
        ("0::/a/b\n", {"a/cpu.max": "50000 100000", "a/b/cpu.max": "max 100000", "memory.max": "1024"}, (0.5, 1024)),
        (
            "4:memory:/box\n2:cpu,cpuacct:/\n",
            {
                "memory/box/memory.limit_in_bytes": "4096",
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
            },
            (None, 4096),
        ),
        (
            "2:cpu:/gone\n4:memory:/gone\n",
            {
                "cpu/cpu.cfs_quota_us": "200000",
                "cpu/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            (2.0, None),
        ),
    ],
    ids=["v2", "v2-parent-binds", "v1", "v1-inside-a-container"],
)
def test_cgroup_limits(tree, membership, files, expected):
    tree("proc/self/cgroup", membership)
    for name, text in files.items():
        tree(f"sys/fs/cgroup/{name}", text)
    state = environment.observe()
    assert expected == (state["cgroup_cpus"], state["cgroup_memory_bytes"])


@linux
def test_frequency_governor_and_temperature_are_read(tree):
    for cpu in os.sched_getaffinity(0):
        tree(f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor", "powersave\n")
        tree(f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq", "1800000\n")
    tree("sys/class/thermal/thermal_zone0/temp", "41500\n")
    tree("sys/class/thermal/thermal_zone1/temp", "not a number\n")
    state = environment.observe()
    expected = {"governor": "powersave", "cpu_mhz": 1800.0, "temperature_c": 41.5}
    assert expected == {key: state[key] for key in expected}


@linux
def test_changes_account_for_own_and_other_work(tree):
    tick = os.sysconf("SC_CLK_TCK")
    tree("proc/stat", f"cpu  {10 * tick} 0 0 5 0 0 0 {tick} 0 0\n")
    before = {**environment.counters(), "wall_s": 100.0, "own_cpu_s": 1.0}
    tree("proc/stat", f"cpu  {12 * tick} 0 {tick} 9 0 0 0 {2 * tick} 0 0\n")
    after = {**environment.counters(), "wall_s": 102.0, "own_cpu_s": 3.0}
    changes = environment.changes(before, after)
    # Three busy core-seconds in two seconds of wall time, two of them of this process; one second stolen.
    expected = {"other_cpu_pct": 50.0, "steal_pct": 50.0, "cpu_ratio": 1.0}
    assert expected == pytest.approx({key: changes[key] for key in expected})


@linux
def test_the_load_of_another_process_is_observed():
    before = environment.counters()
    burn = "import time\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    changes = environment.changes(before, environment.counters())
    # At least the CPU time of the child, minus two kernel ticks of rounding.
    assert changes["other_cpu_pct"] * changes["wall_s"] >= 100 * (0.4 - 0.02)
    assert changes["cpu_ratio"] < 0.5


@linux
def test_peak_memory_is_not_inherited_from_the_parent():
    ballast = b"x" * (300 << 20)
    script = "from effbench.profiles.environment import peak_rss_bytes; print(peak_rss_bytes())"
    peak = int(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout)
    assert 1 << 20 < peak < len(ballast) // 2
    assert environment.peak_rss_bytes() > len(ballast)


def test_modules_for_devices_import_nothing_heavy():
    script = (
        "import sys, effbench.profiles.measure, effbench.profiles.environment as e; e.observe(); "
        "print([m for m in ('torch', 'pandas', 'scipy', 'psutil', 'onnx', 'click', 'rich') if m in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert process.stdout.strip() == "[]"
