"""The agent as one file: the part of this package that runs on devices, importable from a zip archive."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[2]

EXCLUDED = ("api", "cli", "commands", "lab", "models", "pytest_plugin", "reports", "training")
"""Parts that a device never imports; all others are small enough to be included."""

MAIN = """\
import sys

if sys.version_info < (3, 10):
    sys.exit("effbench's agent needs Python 3.10 or newer; this is %d.%d" % sys.version_info[:2])
import runpy

from effbench.boundary import isolation

isolation.begin()
sys.argv[0:1] = []
runpy.run_module(sys.argv[0] if sys.argv else "effbench.device.agent", run_name="__main__")
"""


@dataclass(frozen=True)
class Agent:
    """The archive and its content hash, which names it on a device."""

    data: bytes
    sha256: str

    @property
    def path(self) -> str:
        """Its path below the home folder on a device."""
        return f"agents/{self.sha256[:16]}.pyz"


@cache
def agent() -> Agent:
    """Return the archive; equal sources give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "__main__.py", MAIN.encode())
        for path in sorted(PACKAGE.rglob("*.py")):
            name = path.relative_to(PACKAGE.parent).as_posix()
            if name.split("/")[1].removesuffix(".py") not in EXCLUDED:
                _add(archive, name, path.read_bytes())
    data = buffer.getvalue()
    return Agent(data, hashlib.sha256(data).hexdigest())


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name)  # dated 1980: a current time would change the hash
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, data)
