"""Nothing leaves the machine: vendors' telemetry is switched off before their libraries can be imported.

``import effbench`` calls `switch_off`, so it holds in the process of the command line, in every child, in the agent on
a device, in a kit and in the tests of other projects. Children are offline for model hubs as well (`go_offline`).
docs/threat-model.md lists the switches.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

SWITCHES = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime 1.29 and newer; later than its import has no effect
    "NNCF_CI": "1",  # NNCF takes its stub in place of openvino_telemetry
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",  # older names of Hugging Face's switch, and further libraries
    "DO_NOT_TRACK": "1",
}
"""Environment variables, which child processes inherit."""

BLOCKED = ("openvino_telemetry",)
"""Packages that are made impossible to import. OpenVINO and NNCF then take stubs of their own, in which every function
is empty; openvino_telemetry itself has no environment variable, only a file in the home folder."""

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

CACHES = {"TORCHINDUCTOR_CACHE_DIR": "torchinductor", "TRITON_CACHE_DIR": "triton"}
"""Otherwise in the folder for temporary files and in the home folder."""


def switch_off() -> None:
    """Set every switch, and block every package that could be imported later."""
    os.environ.update(SWITCHES)
    for name in BLOCKED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None makes `import name` an ImportError


def go_offline() -> None:
    """Keep the libraries of model hubs from looking for newer files."""
    os.environ.update(OFFLINE)


def keep_caches_here() -> None:
    """Let libraries that cache what they compile write below effbench's own folder, unless the user chose another."""
    from effbench.boundary.names import cache_folder

    for name, folder in CACHES.items():
        os.environ.setdefault(name, str(cache_folder() / folder))
    if not any(Path(folder).expanduser().exists() for folder in ("~/.config/matplotlib", "~/.cache/matplotlib")):
        os.environ.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))


def allow_downloads() -> None:
    """Let this process fetch the weights that the user asks for (``--weights pretrained``).

    It works before the hub's library is imported.
    """
    for name in OFFLINE:
        os.environ.pop(name, None)


def state() -> str:
    """Return ``off``, or which switch is not set or which package is loaded all the same."""
    unset = [name for name, value in SWITCHES.items() if os.environ.get(name) != value]
    loaded = [name for name in BLOCKED if sys.modules.get(name) is not None]
    reasons = [*(f"{name} is not set" for name in unset), *(f"{name} is loaded" for name in loaded)]
    return "; ".join(reasons) or "off"
