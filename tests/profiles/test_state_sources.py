"""The state of devices, from recorded outputs and file trees."""

import json
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest

from effbench.commands.text import protocol
from effbench.profiles import environment, power, sources, trust
from effbench.profiles.sources import android, jetson, macos, nvml, rapl, raspberry, sensors
from effbench.schema import Measurement, Round, Samples

RECORDED = Path(__file__).parent / "recorded"
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /sys")


def recorded(name):
    return (RECORDED / name).read_text()


@pytest.fixture
def tree(tmp_path):
    """Return a root folder, and a function that writes the files of a test machine below it."""

    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"{text}\n")
        return tmp_path

    return write


def test_the_state_of_this_machine_is_read_without_an_error():
    state = sources.state(Path("/"))
    assert set(sources.STATE) <= state.keys()
    assert state == json.loads(json.dumps(state))
    assert all(value >= 0 for value in sources.power_w(Path("/")).values())


def test_a_machine_without_sensors_has_no_state(tmp_path):
    assert dict.fromkeys(sources.STATE) == sources.state(tmp_path)
    assert ({}, {}) == (sources.energy_counters(tmp_path), sources.power_w(tmp_path))


def test_the_keys_that_must_match_are_in_the_state():
    assert {"power_mode", "power_source", "thermal_status"} <= set(sources.STATE) & set(Measurement.MUST_MATCH)


def test_all_sources_are_registered():
    assert {"jetson", "macos", "nvml", "rapl", "raspberry", "sensors"} == {source.name for source in sources.sources()}


@pytest.fixture
def orin(tree):
    """Return the relevant files of a Jetson Orin Nano."""
    tree("proc/device-tree/compatible", "nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0")
    tree("var/lib/nvpmodel/status", "pmode:0001")
    tree("etc/nvpmodel.conf", "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=7W >\n")
    tree("sys/class/devfreq/17000000.gpu/cur_freq", "624750000")
    tree("sys/class/devfreq/17000000.gpu/max_freq", "624750000")
    tree("sys/class/devfreq/15340000.vic/cur_freq", "1")
    tree("sys/class/thermal/thermal_zone0/type", "cpu-thermal")
    tree("sys/class/thermal/thermal_zone0/temp", "48218")
    tree("sys/class/thermal/thermal_zone8/type", "tj-thermal")
    tree("sys/class/thermal/thermal_zone8/temp", "49031")
    tree("sys/class/hwmon/hwmon1/name", "ina3221")
    for channel, (label, millivolts, milliamperes) in enumerate(
        [("VDD_IN", 5000, 1184), ("VDD_CPU_GPU_CV", 4992, 337), ("VDD_SOC", 4992, 305)], 1
    ):
        tree(f"sys/class/hwmon/hwmon1/in{channel}_label", label)
        tree(f"sys/class/hwmon/hwmon1/in{channel}_input", millivolts)
        tree(f"sys/class/hwmon/hwmon1/curr{channel}_input", milliamperes)
    tree("sys/class/hwmon/hwmon1/in7_label", "sum of shunt voltages")
    return tree("sys/class/hwmon/hwmon1/curr4_input", "1826")


def test_the_power_mode_clocks_and_temperatures_of_a_jetson_are_read(orin):
    expected = {
        "power_mode": "1 (7W)",
        "gpu_mhz": 624.75,
        "gpu_mhz_max": 624.75,
        "temperature_cpu_c": 48.218,
        "temperature_tj_c": 49.031,
    }
    assert expected == pytest.approx(jetson.SOURCE.state(orin))


def test_the_power_of_a_jetson_is_read_by_rail(orin):
    expected = {"VDD_IN": 5.92, "VDD_CPU_GPU_CV": 4.992 * 0.337, "VDD_SOC": 4.992 * 0.305}
    assert expected == pytest.approx(sensors.SOURCE.power_w(orin))


def test_tegrastats_of_an_orin_nano():
    expected = {
        "gpu_pct": 37.0,
        "gpu_mhz": 624.0,
        "memory_mhz": 2133.0,
        "cpu_mhz": 1984.0,
        "temperature_cpu_c": 48.218,
        "temperature_soc0_c": 47.5,
        "temperature_soc1_c": 47.843,
        "temperature_soc2_c": 46.968,
        "temperature_gpu_c": 49.0,
        "temperature_tj_c": 49.0,
        "power_VDD_IN_w": 5.92,
        "power_VDD_CPU_GPU_CV_w": 1.684,
        "power_VDD_SOC_w": 1.524,
    }
    assert expected == jetson.tegrastats(recorded("tegrastats-orin-nano.txt"))


def test_tegrastats_of_a_xavier_with_a_sensor_that_is_off():
    values = jetson.tegrastats(recorded("tegrastats-xavier.txt"))
    assert (0.0, 1190.0, 33.5) == (values["gpu_pct"], values["cpu_mhz"], values["temperature_gpu_c"])
    assert {"temperature_aux_c", "gpu_mhz", "memory_mhz"}.isdisjoint(values)


def test_other_text_is_no_tegrastats_output():
    assert {} == jetson.tegrastats("no such command")


def test_the_status_and_the_hottest_current_sensor_of_android_are_read():
    answers = {
        "thermal": recorded("thermalservice-a52.txt"),
        "battery": recorded("battery-usb.txt"),
        "governors": "schedutil\nschedutil\n",
    }
    expected = {
        "thermal_status": "none",
        "temperature_cpu_c": 25.6,
        "temperature_battery_c": 23.8,
        "temperature_skin_c": 24.7,
        "power_source": "mains",
        "battery_pct": 87,
        "governor": "schedutil",
    }
    assert expected == android.parse(answers)


def test_android_on_its_battery_and_hot():
    hot = recorded("thermalservice-a52.txt").replace("Thermal Status: 0", "Thermal Status: 3")
    state = android.parse({"thermal": hot, "battery": recorded("battery-alone.txt")})
    assert ("severe", "battery", 54) == (state["thermal_status"], state["power_source"], state["battery_pct"])


def test_an_android_that_refuses_has_no_state():
    refused = "cat: /sys/devices/system/cpu/cpufreq: Permission denied"
    assert {} == android.parse({"thermal": "Can't find service: thermalservice", "governors": refused})


def test_the_pressure_limit_and_power_source_of_macos_are_read():
    names = ("notifyutil.txt", "pmset-therm.txt", "pmset-batt.txt", "pmset-settings.txt")
    expected = {
        "thermal_status": "heavy",
        "cpu_speed_limit_pct": 72,
        "throttle_reasons": "CPU speed limit 72 %",
        "power_source": "battery",
        "power_mode": "low power",
    }
    assert expected == macos.parse(*(recorded(name) for name in names))
    assert {} == macos.parse("", "", "", "")


@pytest.mark.parametrize(
    ("bits", "status", "reasons"),
    [
        ("0", "ok", None),
        ("50000", "ok", None),  # an event since boot, not a present state
        ("1", "throttled", "under-voltage"),
        ("e0008", "throttled", "soft temperature limit"),
        ("6", "throttled", "frequency capped, throttled"),
    ],
)
def test_the_throttle_reasons_of_a_raspberry_pi_are_read(tree, bits, status, reasons):
    root = tree(raspberry.FILE, bits)
    assert {"thermal_status": status, "throttle_reasons": reasons} == raspberry.SOURCE.state(root)


def test_nvml_names_what_slows_a_gpu_down():
    pynvml = pytest.importorskip("pynvml")
    bits = pynvml.nvmlClocksThrottleReasonSwPowerCap | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
    expected = {"thermal_status": "throttled", "throttle_reasons": "power cap, thermal (hardware)"}
    assert expected == nvml.reasons(bits)
    idle = pynvml.nvmlClocksThrottleReasonGpuIdle | pynvml.nvmlClocksThrottleReasonApplicationsClocksSetting
    assert {"thermal_status": "ok", "throttle_reasons": None} == nvml.reasons(idle)
    # The library's names for the same bits.
    own = {value for key, value in vars(pynvml).items() if key.startswith("nvmlClocksThrottleReason")}
    assert {0x4, 0x8, 0x20, 0x40, 0x80} <= own


def test_nvml_without_a_driver_has_no_state(tree):
    pytest.importorskip("pynvml")
    root = tree("dev/nvidiactl", "")
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    assert ({}, {}) == (nvml.SOURCE.state(root), nvml.SOURCE.energy(root))


def test_a_battery_gives_the_power_of_the_whole_device(tree):
    tree("sys/class/power_supply/AC/type", "Mains")
    tree("sys/class/power_supply/AC/online", 0)
    tree("sys/class/power_supply/BAT0/type", "Battery")
    tree("sys/class/power_supply/BAT0/status", "Discharging")
    tree("sys/class/power_supply/BAT0/capacity", 63)
    tree("sys/class/power_supply/BAT0/voltage_now", 11_400_000)
    root = tree("sys/class/power_supply/BAT0/current_now", 1_500_000)
    assert {"power_source": "battery", "battery_pct": 63.0} == sensors.SOURCE.state(root)
    assert {"battery-BAT0": pytest.approx(17.1)} == sensors.SOURCE.power_w(root)
    tree("sys/class/power_supply/BAT0/status", "Charging")
    tree("sys/class/power_supply/AC/online", 1)
    assert ("mains", {}) == (sensors.SOURCE.state(root)["power_source"], sensors.SOURCE.power_w(root))


@pytest.fixture
def package(tree):
    """Return an energy counter with a range of 262 J, like RAPL."""
    tree("sys/class/powercap/intel-rapl:0/name", "package-0")
    tree("sys/class/powercap/intel-rapl:0/max_energy_range_uj", 262_143_328_850)
    return tree


def test_rapl_gives_energy_across_a_counter_wrap(package):
    root = package("sys/class/powercap/intel-rapl:0/energy_uj", 262_143_000_000)
    before = sources.energy_counters(root)
    assert {"package-0"} == rapl.SOURCE.energy(root).keys()
    package("sys/class/powercap/intel-rapl:0/energy_uj", 2_000_000)
    energy = sources.energy_changes(before, sources.energy_counters(root))
    assert {"energy_package-0_j": pytest.approx(2.32885)} == energy


def test_a_round_observes_energy(package, monkeypatch):
    root = package("sys/class/powercap/intel-rapl:0/energy_uj", 1_000_000)
    monkeypatch.setattr(environment, "SYS", root / "sys")
    before = environment.counters()
    package("sys/class/powercap/intel-rapl:0/energy_uj", 4_000_000)
    assert 3.0 == environment.changes(before, environment.counters())["energy_package-0_j"]


def test_energy_per_inference_is_that_of_all_rounds():
    round_ = Round((1_000_000,) * 100, 20, True, 1.0, 1.0, 1, {"energy_VDD_IN_j": 0.5})
    two = replace(round_, samples_ns=(1_000_000,) * 300, observed={"energy_VDD_IN_j": 1.1})
    assert {"VDD_IN": pytest.approx(4.0)} == protocol.energy_mj([round_, two])
    assert {} == protocol.energy_mj([replace(round_, observed={})])


def test_power_is_integrated_between_two_times():
    # A ramp from 0 to 10 W over 10 s: from 2 s to 6 s it takes 16 J.
    readings = [(int(second * 1e9), {"VDD_IN": float(second)}) for second in range(11)]
    assert {"energy_VDD_IN_j": pytest.approx(16.0)} == power.integrate(readings, int(2e9), int(6e9))
    assert {"energy_VDD_IN_j": pytest.approx(12.0)} == power.integrate(readings, int(2.5e9), int(5.5e9))


def test_incomplete_power_readings_give_no_energy():
    readings = [(int(second * 1e9), {"VDD_IN": 1.0}) for second in range(5)]
    assert {} == power.integrate(readings, int(2e9), int(9e9))
    assert {} == power.integrate(readings[:1], 0, 1)


@linux
def test_a_sampler_measures_the_power_of_a_sensor(orin, monkeypatch):
    monkeypatch.setattr(environment, "SYS", orin / "sys")
    with power.meter() as meter:
        assert meter is not None
        deadline = time.monotonic() + 20
        while not meter._read() and time.monotonic() < deadline:
            time.sleep(0.02)
        begin = time.perf_counter_ns()
        time.sleep(0.5)
        end = time.perf_counter_ns()
        energy = meter.energy_j(begin, end)
    assert 5.92 * (end - begin) / 1e9 == pytest.approx(energy["energy_VDD_IN_j"], rel=0.01)


@linux
def test_a_sampler_ends_with_its_parent(orin):
    script = (
        "import sys, time; from pathlib import Path; from effbench.profiles import environment, power\n"
        f"environment.SYS = Path({str(orin / 'sys')!r})\n"
        "with power.meter(): print('ready', flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert "ready\n" == parent.stdout.readline()
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    assert children
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [] == [child for child in children if Path(f"/proc/{child}").exists()]


@linux
def test_without_a_power_sensor_no_process_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "SYS", tmp_path / "sys")
    with power.meter() as meter:
        assert meter is None


def test_a_device_that_reports_throttling_is_at_best_a_c():
    kernel = {"reference_compute_us": 800.0, "reference_memory_us": 3000.0}
    round_ = Round(tuple(10_000_000 + i for i in range(50)), 20, True, 1.0, 1.0, 1, kernel)
    samples = Samples((round_,) * 10)
    state = {"thermal_status": "ok", "throttle_reasons": None}
    assert "C" > trust.grade(samples, state, state)[0]
    grade, reasons = trust.grade(samples, state, {"thermal_status": "throttled", "throttle_reasons": "power cap"})
    assert "C" == grade
    assert "throttled: the device reports power cap" in reasons
    assert any(reason.startswith("heated up") for reason in reasons)


def test_measurements_in_different_states_are_not_compared():
    def must_match(**state):
        samples = Samples((Round((1,), 0, True, 1.0, 1.0, 1),))
        blank = dict.fromkeys(field.name for field in fields(Measurement))
        measurement = Measurement(**{**blank, "samples": samples, "settings": {}, "before": state, "after": {}})
        return measurement.must_match()

    assert must_match(power_mode="0 (MAXN)") == must_match(power_mode="0 (MAXN)", temperature_c=40.0)
    assert must_match(power_mode="0 (MAXN)") != must_match(power_mode="1 (7W)")
    assert must_match(power_source="mains") != must_match(power_source="battery")
    assert must_match(thermal_status="none") != must_match(thermal_status="severe")
