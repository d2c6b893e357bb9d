"""onnxruntime-qnn as this project uses it: the HTP of a Snapdragon, or its simulator on x86-64.

The simulator computes what the NPU would, and takes seconds for it: right for fidelity and placement, worthless for
latency. Written from the provider's documentation; run on the simulator alone (docs/qnn.md).
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from effbench.errors import MissingDependencyError, UnavailableError

PACKAGE, MODULE, PROVIDER = "onnxruntime-qnn", "onnxruntime_qnn", "QNNExecutionProvider"

SOCS: dict[str, tuple[str, str, str]] = {
    "v68": ("39", "SA8295", "Snapdragon automotive cockpit"),
    "v69": ("36", "SM8450", "Snapdragon 8 Gen 1"),
    "v73": ("43", "SM8550", "Snapdragon 8 Gen 2"),
    "v75": ("57", "SM8650", "Snapdragon 8 Gen 3"),
    "v79": ("69", "SM8750", "Snapdragon 8 Elite"),
    "v81": ("87", "SM8850", "Snapdragon 8 Elite Gen 5"),
}
"""HTP architecture -> QNN's number of a chip that has it, that chip, its name; half precision needs a chip to be named.

Source: the chip table of executorch's Qualcomm backend (backends/qualcomm/serialization/qc_schema.py).
"""


def simulated() -> bool:
    """Tell whether the HTP of this machine is the simulator: everywhere but on Arm."""
    return platform.machine().lower() not in ("aarch64", "arm64")


def missing() -> str | None:
    """Return None where the provider is installed, else what is not; nothing is imported."""
    return None if find_spec(MODULE) else f"the package '{PACKAGE}' is not installed"


def license_path() -> Path | None:
    """Return where Qualcomm's license lies in the installed package, or None; nothing of it is copied anywhere."""
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


def session_options(htp: str, config: Mapping[str, str]) -> Any:
    """Return options of an ONNX Runtime session that runs on the HTP.

    Args:
        htp: An architecture of `SOCS`.
        config: Session configuration entries.

    Raises:
        MissingDependencyError: onnxruntime or onnxruntime-qnn is not installed.
        UnavailableError: The provider shows no device.
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
        raise UnavailableError("The QNN provider is installed, but shows no device here.")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    provider = {
        "backend_path": qnn.get_qnn_htp_path(),
        "htp_arch": htp.removeprefix("v"),
        "soc_model": SOCS[htp][0],
        "enable_htp_fp16_precision": "1",
    }
    options.add_provider_for_devices(devices[:1], provider)
    for key, value in config.items():
        options.add_session_config_entry(key, value)
    return options


def assigned(session: Any) -> dict[str, Any]:
    """Say where the operators of a graph went when it was compiled, in ONNX Runtime's own account.

    The layout transposes that ONNX Runtime puts around the partitions are counted with the others.

    Returns:
        ``operators`` (unit -> operator type -> count), ``partitions`` on the HTP, and ``cpu_operators`` by name.
    """
    units: dict[str, Counter[str]] = {}
    partitions, left = 0, []
    for part in session.get_provider_graph_assignment_info():
        unit = "HTP" if part.ep_name == PROVIDER else "CPU"
        nodes = part.get_nodes()
        units.setdefault(unit, Counter()).update(node.op_type for node in nodes)
        partitions += unit == "HTP"
        left += [f"{node.name or '?'} ({node.op_type})" for node in nodes if unit == "CPU"]
    counted = {unit: dict(sorted(found.items())) for unit, found in sorted(units.items())}
    return {"operators": counted, "partitions": partitions, "cpu_operators": sorted(left)}


def older(version: str, than: str) -> bool:
    """Compare versions such as ``2.51.0`` by their numbers."""
    left, right = ([int(part) for part in text.split(".") if part.isdecimal()] for text in (version, than))
    return left < right
