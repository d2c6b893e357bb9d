"""A local command that connects to another machine or another Python: a container, an emulator.

``command`` is a list that precedes the supervisor's command, such as ``docker exec -i NAME``.
"""

from __future__ import annotations

from effbench.errors import UsageError
from effbench.profiles.transports import session
from effbench.profiles.transports.channel import BOOT, Pipe
from effbench.profiles.transports.link import required
from effbench.profiles.transports.session import Supervised
from effbench.schema import Device

CONNECTION = {
    **session.CONNECTION,
    "command": "the command that connects, as a list of arguments; `python3 -u -c ...` is appended to it",
}
REQUIRED = {"command": "docker exec -i NAME"}


def _link(device: Device) -> Supervised:
    command = required(device, "command", REQUIRED["command"])
    if not isinstance(command, (list, tuple)) or not all(isinstance(part, str) for part in command):
        text = f'[devices.{device.name}.connection] command = ["docker", "exec", "-i", "NAME"]'
        raise UsageError(f"The command of '{device.name}' is not a list of arguments.", hint=text)
    return Supervised(device, lambda: Pipe([*command, *BOOT]))


TRANSPORT = _link
