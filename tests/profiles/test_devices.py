"""Devices: every fact has a source, users extend them, and wrong declarations are explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from effbench.api.export.run import targets_of
from effbench.deploy.targets.qnn.snapdragon import soc
from effbench.errors import DataError, UsageError
from effbench.profiles import devices, transports
from effbench.schema import EVIDENCE, PRECISIONS, Device

UNITS = ("_mhz", "_gb", "_gb_per_s", "_tops", "_tflops", "_w", "_mt_per_s")
PLAIN = ("compute_capability", "htp_arch", "cores", "gpu_cores", "cuda_cores", "xe_cores")
WANTED = {
    "local", "jetson-orin-nano", "jetson-agx-orin", "jetson-thor", "desktop-rtx", "nvidia-h100", "iphone-13",
    "iphone-16-pro", "mac-m2", "pixel-8", "pixel-9", "galaxy-s24", "galaxy-s25", "raspberry-pi-5", "core-ultra-cpu",
    "core-ultra-gpu", "core-ultra-npu",
}  # fmt: skip
ALL = sorted(devices.packaged().values(), key=lambda item: item.name)


def test_all_planned_devices_exist():
    assert WANTED == set(devices.packaged())


@pytest.mark.parametrize("device", ALL, ids=lambda item: item.name)
def test_every_fact_of_a_device_has_a_source(device: Device):
    assert device.source.startswith(("http://", "https://", "observed"))
    assert device.evidence in EVIDENCE
    assert device.targets
    assert set(device.precisions) <= set(device.targets)
    assert set(device.precisions.values()) <= set(PRECISIONS)
    assert set(device.options) <= set(device.targets)
    for name, fact in device.facts.items():
        assert name in PLAIN or name.endswith(UNITS), name
        assert fact.source.startswith(("http://", "https://")), name
        assert isinstance(fact.value, str) or fact.value > 0
    transports.check(device)
    assert (device.evidence == "run on hardware") == (device.name == "local")


@pytest.mark.parametrize("name", ["galaxy-s24", "galaxy-s25"])
def test_the_htp_version_of_a_galaxy_is_that_of_its_chip(name: str):
    device = devices.get(name)
    htp = device.options["qnn"]["htp"]
    assert htp == device.facts["htp_arch"].value
    assert soc(htp).name in device.soc


def declare(folder: Path, text: str) -> dict[str, Device]:
    (folder / "effbench.toml").write_text(text)
    return devices.devices(folder)


def test_a_users_connection_is_added_to_a_packaged_device(tmp_path: Path):
    device = declare(tmp_path, '[devices.jetson-orin-nano.connection]\nhost = "10.0.0.7"\n')["jetson-orin-nano"]
    packaged = devices.packaged()["jetson-orin-nano"]
    assert ({"host": "10.0.0.7"}, packaged.facts) == (device.connection, device.facts)
    assert {} == packaged.connection


def test_a_users_device_builds_on_another(tmp_path: Path):
    text = '[devices.mine]\nbase = "raspberry-pi-5"\ndescription = "on my desk"\nsettings = { threads = "4" }\n'
    device = declare(tmp_path, text)["mine"]
    assert ("mine", "on my desk", ("ort", "ov"), "4") == (
        device.name,
        device.description,
        device.targets,
        device.settings["threads"],
    )


def test_a_new_device_needs_a_transport_only(tmp_path: Path):
    device = declare(tmp_path, '[devices.box]\ntransport = "ssh"\nconnection = { host = "box" }\n')["box"]
    assert (("ort",), "declared by its owner") == (device.targets, device.evidence)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[devices.x]\nbase = "raspberry"\n', "raspberry-pi-5"),
        ('[devices.x]\ntransport = "ssh"\ncolour = "red"\n', "unknown field 'colour'"),
        ("[devices]\nx = 3\n", "not a table"),
        ("[devices.x\n", "effbench.toml"),
        ('[devices.x]\ntransport = "ssh"\nevidence = "seen it"\n', "run on hardware"),
    ],
)
def test_a_wrong_declaration_is_refused_with_a_reason(tmp_path: Path, text: str, message: str):
    with pytest.raises((DataError, UsageError), match=message):
        declare(tmp_path, text)


def test_a_device_is_read_from_a_file(tmp_path: Path):
    (tmp_path / "mine.toml").write_text('base = "raspberry-pi-5"\nconnection = { host = "pi" }\n')
    device = devices.get(str(tmp_path / "mine.toml"))
    assert ("mine", "pi") == (device.name, device.connection["host"])


def test_the_preferred_target_is_exported(monkeypatch: pytest.MonkeyPatch):
    assert ["ov"] == targets_of(devices.get("core-ultra-npu"))
    assert 1 == len(targets_of(devices.get("raspberry-pi-5")))
