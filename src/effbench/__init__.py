"""Export vision backbones to edge runtimes, prove they are the same model, and measure latency honestly.

The public names are imported on first use, so that ``import effbench`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "compare": "effbench.api.compare",
    "gate": "effbench.api.gate",
    "declare": "effbench.models.declared",
    "devices": "effbench.api.inspect",
    "doctor": "effbench.api.inspect",
    "evaluate": "effbench.api.evaluate",
    "imported": "effbench.api.imports",
    "kit": "effbench.api.kits",
    "export": "effbench.api.export",
    "targets": "effbench.api.inspect",
    "profile": "effbench.api.profile",
    "report": "effbench.api.report",
    "verify": "effbench.api.verify",
    "Artifact": "effbench.schema",
    "Backbone": "effbench.schema",
    "Device": "effbench.schema",
    "EffbenchError": "effbench.errors",
    "Measurement": "effbench.schema",
    "Preprocessing": "effbench.schema",
    "Samples": "effbench.schema",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'effbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from effbench.api.compare import compare  # noqa: F401
    from effbench.api.export import export  # noqa: F401
    from effbench.api.gate import gate  # noqa: F401
    from effbench.api.imports import imported  # noqa: F401
    from effbench.api.inspect import devices, doctor, targets  # noqa: F401
    from effbench.api.kits import kit  # noqa: F401
    from effbench.api.profile import profile  # noqa: F401
    from effbench.api.report import report  # noqa: F401
    from effbench.api.verify import verify  # noqa: F401
    from effbench.errors import EffbenchError  # noqa: F401
    from effbench.models.declared import declare  # noqa: F401
    from effbench.schema import Artifact, Backbone, Device, Measurement, Preprocessing, Samples  # noqa: F401
