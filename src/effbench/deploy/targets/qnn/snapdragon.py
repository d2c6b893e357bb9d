"""onnxruntime-qnn as this project uses it: the HTP of a Snapdragon, or its simulator on x86-64.

The simulator computes the NPU's results and needs seconds for an image: valid for fidelity and placement, worthless
for latency. Written from the provider's documentation; run on the simulator only (docs/how-to/qnn.md).
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from effbench.deploy import installed
from effbench.errors import MissingDependencyError, UnavailableError, unknown_name

PACKAGE, MODULE, PROVIDER = "onnxruntime-qnn", "onnxruntime_qnn", "QNNExecutionProvider"


@dataclass(frozen=True)
class Soc:
    """A chip: its name, its number in QNN, the architecture of its HTP, and whether it has half precision."""

    name: str
    number: int
    htp: str
    half: bool = True


SOCS = (
    Soc("SA8295", 39, "v68"),
    Soc("SM8350", 30, "v68"),
    Soc("QCM6490", 93, "v68", half=False),
    Soc("SA8540", 62, "v68"),
    Soc("SM8450", 36, "v69"),
    Soc("SM8475", 42, "v69"),
    Soc("SXR2230P", 53, "v69"),
    Soc("SM8550", 43, "v73"),
    Soc("QCS9100", 77, "v73"),
    Soc("SA8255", 52, "v73"),
    Soc("SSG2115P", 46, "v73", half=False),
    Soc("SSG2125P", 58, "v73", half=False),
    Soc("SXR1230P", 45, "v73", half=False),
    Soc("SM8650", 57, "v75"),
    Soc("SM8750", 69, "v79"),
    Soc("SXR2330P", 75, "v79"),
    Soc("SM8850", 87, "v81"),
    Soc("SM8845", 97, "v81"),
    Soc("SA8797", 72, "v81"),
    Soc("SAR2230P", 95, "v81", half=False),
    Soc("SW6100", 96, "v81", half=False),
)
"""Chips that a context binary can be compiled for; the first of an architecture is its default.

Source: the chip table of executorch's Qualcomm backend (backends/qualcomm/serialization/qc_schema.py);
whether a chip has half precision: QNN 2.51 compiles it or refuses it (tests/deploy/targets/qnn/test_qnn.py).
"""
HTPS = tuple(dict.fromkeys(chip.htp for chip in SOCS))


def soc(name: str) -> Soc:
    """Return the chip with a name, or the default chip of an architecture.

    Raises:
        UsageError: The name is neither.
    """
    for chip in SOCS:
        if name in (chip.name, chip.htp):
            return chip
    raise unknown_name(name, [*HTPS, *(chip.name for chip in SOCS)], "HTP or chip")


def simulated() -> bool:
    """Return whether the HTP of this machine is the simulator: everywhere except on Arm."""
    return platform.machine().lower() not in ("aarch64", "arm64")


def missing() -> str | None:
    """Return None if the provider is installed, else the reason; nothing is imported."""
    return None if installed(MODULE) else f"the package '{PACKAGE}' is not installed"


def license_path() -> Path | None:
    """Return the path of Qualcomm's license in the installed package, or None; effbench copies nothing of it."""
    spec = find_spec(MODULE)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).with_name("Qualcomm_LICENSE.pdf")
    return path if path.is_file() else None


def sdk_version() -> str:
    """Return the version of Qualcomm's SDK inside the installed package.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        from onnxruntime_qnn.build_and_package_info import qnn_version
    except ImportError as error:
        raise MissingDependencyError("Target 'qnn'", PACKAGE, "qnn") from error
    return str(qnn_version)


def session_options(name: str, config: Mapping[str, str]) -> Any:
    """Return options of an ONNX Runtime session that runs on the HTP.

    Args:
        name: A chip of `SOCS`, or an architecture.
        config: Session configuration entries.

    Raises:
        MissingDependencyError: onnxruntime or onnxruntime-qnn is not installed.
        UnavailableError: The provider lists no device.
        UsageError: There is no such chip.
    """
    try:
        import onnxruntime as ort
        import onnxruntime_qnn as qnn
    except ImportError as error:
        raise MissingDependencyError("Target 'qnn'", error.name or PACKAGE, "qnn") from error
    if not any(device.ep_name == PROVIDER for device in ort.get_ep_devices()):
        ort.register_execution_provider_library(PROVIDER, qnn.get_library_path())
    devices = [device for device in ort.get_ep_devices() if device.ep_name == PROVIDER]
    if not devices:
        raise UnavailableError("The QNN provider is installed, but lists no device here.")
    chip = soc(name)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    provider = {
        "backend_path": qnn.get_qnn_htp_path(),
        "htp_arch": chip.htp.removeprefix("v"),
        "soc_model": str(chip.number),
        "enable_htp_fp16_precision": "1",
    }
    options.add_provider_for_devices(devices[:1], provider)
    for key, value in config.items():
        options.add_session_config_entry(key, value)
    return options


def assignment(session: Any) -> dict[str, Any]:
    """Return where the operators of a compiled graph run, as ONNX Runtime reports it.

    The layout transposes that ONNX Runtime adds around the partitions are counted too.

    Returns:
        ``operators`` (unit -> operator type -> count), ``partitions`` on the HTP, and ``cpu_operators`` by name.
    """
    units: dict[str, Counter[str]] = {}
    partitions, on_cpu = 0, []
    for partition in session.get_provider_graph_assignment_info():
        unit = "HTP" if partition.ep_name == PROVIDER else "CPU"
        nodes = partition.get_nodes()
        units.setdefault(unit, Counter()).update(node.op_type for node in nodes)
        partitions += unit == "HTP"
        on_cpu += [f"{node.name or '?'} ({node.op_type})" for node in nodes if unit == "CPU"]
    operators = {unit: dict(sorted(counts.items())) for unit, counts in sorted(units.items())}
    return {"operators": operators, "partitions": partitions, "cpu_operators": sorted(on_cpu)}


def is_older(version: str, than: str) -> bool:
    """Compare versions such as ``2.51.0`` by their numbers."""
    left, right = ([int(part) for part in text.split(".") if part.isdecimal()] for text in (version, than))
    return left < right
