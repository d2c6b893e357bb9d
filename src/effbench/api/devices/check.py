"""Connect to devices, and check what would disturb a measurement on one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from effbench import deploy, process
from effbench.api.devices.catalogue import Check, machine_checks
from effbench.api.remote import Remote
from effbench.device import AGENT
from effbench.errors import EffbenchError
from effbench.profiles import devices, transports
from effbench.schema import Device

FREE_BYTES = 1 << 30
LOAD_LIMIT_S = 120.0
HOT_C = 70.0
"""Above this, small boards and phones begin to lower their clocks."""

CONNECTED, NOT_CONNECTED, NOT_TRIED = "connected", "not connected", "not tried"


@dataclass(frozen=True)
class Connection:
    """The result of one attempt to connect to a device: a state, with the device's answer or the reason.

    ``declared`` says whether the user declares how to connect (``[devices.NAME]`` in effbench.toml, or a device file).
    """

    device: str
    state: str
    detail: str = ""
    declared: bool = False
    next_step: str = ""


def connect(rows: Sequence[Device]) -> list[Connection]:
    """Connect to all of these devices at the same time, and close each connection again."""
    with ThreadPoolExecutor(max(1, min(len(rows), 16))) as pool:
        return list(pool.map(_connect, rows))


def all_connected(connections: Sequence[Connection], named: bool) -> bool:
    """Return whether every requested device was connected.

    Args:
        connections: Results of `connect`.
        named: The user named the devices. Otherwise those are requested whose connection is declared, and at least one
            device other than this machine has to be connected.
    """
    if named:
        return all(connection.state == CONNECTED for connection in connections)
    others = [connection for connection in connections if connection.device != "local"]
    failed = any(connection.declared and connection.state == NOT_CONNECTED for connection in others)
    return not failed and any(connection.state == CONNECTED for connection in others)


def _connect(device: Device) -> Connection:
    declared = bool(device.connection)
    if device.transport == transports.NONE:
        step = f"effbench kit MODEL --device {device.name}"
        return Connection(device.name, NOT_TRIED, "effbench cannot drive it; its owner can", next_step=step)
    try:
        with Remote(device) as remote:
            facts = remote.link().facts()
    except EffbenchError as error:
        return Connection(device.name, NOT_CONNECTED, error.message, declared, error.hint or "")
    detail = " ".join(str(facts[key]) for key in ("system", "machine", "python") if facts.get(key))
    return Connection(device.name, CONNECTED, detail, declared)


def doctor(name: str) -> list[Check]:
    """Check a device: connection, space, Python, runtimes, power mode and temperature, with what to do about each."""
    device = devices.get(name)
    checks = [Check("device", True, f"{device.description} ({device.evidence})")]
    if device.transport == transports.NONE:
        step = f"effbench kit MODEL --device {name}"
        return [*checks, Check("connection", False, "effbench cannot drive it; its owner can", step)]
    with Remote(device) as remote:
        try:
            link = remote.link()
        except EffbenchError as error:
            return [*checks, Check("connection", False, error.message, error.hint or "")]
        facts = link.facts()
        checks.append(Check("connection", True, f"{device.transport}, {facts.get('system', '')} {facts['machine']}"))
        checks += _space(facts)
        if device.transport == "adb":
            return [*checks, *_android(facts)]
        return [*checks, *_agent(remote, device)]


def _space(facts: dict[str, Any]) -> Iterator[Check]:
    free = facts.get("free_bytes")
    if free is not None:
        enough = free >= FREE_BYTES
        step = "" if enough else "free some space there, or set home in [connection]"
        yield Check(f"space below {facts.get('home', '')}", enough, f"{free / 2**30:.1f} GiB free", step)


def _agent(remote: Remote, device: Device) -> Iterator[Check]:
    try:
        answer = process.single(remote.run(AGENT, {"op": "observe"}, time_limit_s=LOAD_LIMIT_S))
    except EffbenchError as error:
        step = "install Python 3.10 or newer with numpy there, and name it as python in [connection]"
        yield Check("agent", False, f"{error.message} {error.hint or ''}".strip(), step)
        return
    with process.reading_answer(f"'{remote.device.name}'"):
        environment = {**answer["environment"]}
    yield Check("Python", True, f"{environment['python']}, numpy {environment['numpy'] or 'not installed'}")
    for name in device.targets:
        if name in deploy.registered():
            yield _runtime(remote, name)
    yield from machine_checks(environment)
    yield from _state(environment)


def _runtime(remote: Remote, name: str) -> Check:
    extra = deploy.get(name).extra
    try:
        answer = process.single(remote.run(AGENT, {"op": "load", "target": name}, time_limit_s=LOAD_LIMIT_S))
    except EffbenchError as error:
        packages = " ".join(deploy.get(name).packages)
        return Check(f"target {name}", False, error.message, f"install there: {packages} (here it is [{extra}])")
    with process.reading_answer(f"'{remote.device.name}'"):
        versions = ", ".join(f"{key} {value}" for key, value in answer["versions"].items())
    return Check(f"target {name}", True, f"loads ({versions})")


def _state(environment: dict[str, Any]) -> Iterator[Check]:
    temperature = environment.get("temperature_c")
    if temperature is not None:
        cool = temperature < HOT_C
        step = "" if cool else "let it cool down (--cool-down waits)"
        yield Check("temperature", cool, f"{temperature:.0f} °C", step)
    mode = environment.get("power_mode")
    if mode is not None:
        yield Check("power mode", True, str(mode))


def _android(facts: dict[str, Any]) -> Iterator[Check]:
    thermal = facts.get("thermal_status")
    if thermal is not None:
        yield Check("thermal status", thermal == 0, str(thermal), "" if thermal == 0 else "let it cool down")
    if facts.get("battery_pct") is not None:
        enough = facts["battery_pct"] >= 20
        yield Check("battery", enough, f"{facts['battery_pct']} %", "" if enough else "charge it above 20 %")
    if facts.get("governor") is not None:
        yield Check("frequency governor", True, str(facts["governor"]))
