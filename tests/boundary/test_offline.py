"""Nothing leaves the machine: every command and every target, in a network namespace without interfaces."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from offline import COMMANDS, prepare, record, record_program, why_not

pytestmark = [
    pytest.mark.skipif(why_not() is not None, reason=f"cannot record attempts: {why_not()}"),
    pytest.mark.xdist_group("offline"),
]

REACHES = """
import socket, pathlib
with socket.socket() as one:
    try:
        one.connect(("192.0.2.1", 443))
    except OSError:
        pass
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
    try:
        other.sendto(b"x", ("192.0.2.1", 53))
    except OSError:
        pass
try:
    socket.getaddrinfo("example.invalid", 443)
except OSError:
    pass
pathlib.Path.home().joinpath("device-id").write_text("x")
"""


def test_the_recorder_sees_what_it_is_for(tmp_path: Path) -> None:
    """A connection, a datagram, a look-up and a file in the home folder."""
    done = record_program([sys.executable, "-c", REACHES], tmp_path, tmp_path / "home")
    assert {"connect", "sendto"} <= {line.partition("(")[0] for line in done.attempts}
    assert any("resolv.conf" in line or "host.conf" in line for line in done.attempts)
    assert (str(tmp_path / "home" / "device-id"),) == done.files


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("offline") / "work"
    prepare(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_reaches_nothing_and_leaves_nothing(words: tuple[str, ...], work: Path) -> None:
    """In the order of the list: later commands use what earlier ones exported."""
    done = record(words, work, work.parent / "home")
    assert () == done.attempts
    assert () == done.files
    assert done.code in (0, 3, 4), done.output
