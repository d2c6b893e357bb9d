"""The bill of materials is that of the archive that devices get."""

from __future__ import annotations

import hashlib
from importlib.metadata import distribution

import supply
from effbench.profiles.transports.zipapp import agent


def test_the_bill_of_the_agent_has_every_file_with_its_hash():
    bill = supply.agent_bill()
    hashes = {item["name"]: item["hashes"][0]["content"] for item in bill["components"]}
    source = supply.ROOT / "src" / "effbench" / "process" / "child.py"
    assert hashlib.sha256(source.read_bytes()).hexdigest() == hashes["effbench/process/child.py"]
    assert agent().sha256 == bill["metadata"]["component"]["hashes"][0]["content"]
    assert {"__main__.py", "effbench/device/agent.py"} <= set(hashes)
    assert not [name for name in hashes if "/api/" in name]


def test_the_environment_is_listed_with_versions_and_licences():
    packages = {item["name"].lower(): item for item in supply.environment_bill()["components"]}
    assert distribution("click").version == packages["click"]["version"]
    assert "BSD" in packages["click"]["licenses"][0]["license"]["name"]
    assert packages["click"]["purl"].startswith("pkg:pypi/click@")


def test_a_constraint_is_pinned_by_the_hash_of_its_file():
    def entry(name: str, archive: dict[str, object]) -> dict[str, object]:
        return {"metadata": {"name": name, "version": "1"}, "download_info": {"archive_info": archive}}

    report = {"install": [entry("A", {"hashes": {"sha256": "0" * 64}}), entry("b", {})]}
    assert [f"a==1 --hash=sha256:{'0' * 64}", "# b==1: no hash"] == list(supply.hashed(report))
