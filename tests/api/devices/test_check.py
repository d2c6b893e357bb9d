"""Connecting to devices: the state of each, and whether the requested ones were connected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from effbench.api.devices.check import CONNECTED, NOT_CONNECTED, NOT_TRIED, Connection, all_connected, connect
from effbench.profiles import devices

HERE = Connection("local", CONNECTED)
REACHABLE = Connection("bench", CONNECTED, declared=True)
DOWN = Connection("rig", NOT_CONNECTED, "no route to host", declared=True)
UNDECLARED = Connection("jetson-thor", NOT_CONNECTED, "The host is not declared.")
PHONE = Connection("iphone-13", NOT_TRIED)


@pytest.mark.parametrize(
    ("connections", "named", "expected"),
    [
        ([UNDECLARED], True, False),
        ([PHONE], True, False),
        ([HERE], True, True),
        ([HERE, UNDECLARED, PHONE], False, False),  # nothing but this machine was connected
        ([HERE, REACHABLE, UNDECLARED, PHONE], False, True),
        ([HERE, REACHABLE, DOWN], False, False),
    ],
)
def test_all_requested_devices_have_to_be_connected(connections: list[Connection], named: bool, expected: bool):
    assert expected == all_connected(connections, named)


def test_every_device_has_a_state(pipe: Callable[[str, Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "effbench.toml").write_text(pipe("bench", tmp_path))
    names = ("local", "bench", "jetson-thor", "iphone-13")
    results = connect([devices.get(name) for name in names])
    assert names == tuple(result.device for result in results)
    assert [CONNECTED, CONNECTED, NOT_CONNECTED, NOT_TRIED] == [result.state for result in results]
    assert [False, True, False, False] == [result.declared for result in results]
    assert "not declared" in results[2].detail
    assert "effbench kit MODEL --device iphone-13" == results[3].next_step
