"""Export vision backbones to edge runtimes, prove they are the same model, and measure latency honestly.

The public names are imported on first use, so that ``import effbench`` costs nothing; it switches the telemetry of
vendors' libraries off (`effbench.boundary.quiet`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from effbench.boundary import quiet

if TYPE_CHECKING:
    from effbench.api.claims import claims
    from effbench.api.compare import compare, gate
    from effbench.api.devices import devices, doctor, imported, kit, targets
    from effbench.api.distill import distill
    from effbench.api.evaluate import evaluate
    from effbench.api.export import export, numerics, verify
    from effbench.api.profile import profile
    from effbench.api.quantize import quantize
    from effbench.api.report import report
    from effbench.api.sweep import sweep
    from effbench.errors import EffbenchError
    from effbench.models import list_models
    from effbench.models.declared import declare
    from effbench.schema import Artifact, Backbone, Device, Measurement, Preprocessing, Samples

quiet.switch_off()

__version__ = "0.1.0"

_MODULES = {
    "effbench.api.claims": ("claims",),
    "effbench.api.compare": ("compare", "gate"),
    "effbench.api.devices": ("devices", "doctor", "imported", "kit", "targets"),
    "effbench.api.distill": ("distill",),
    "effbench.api.evaluate": ("evaluate",),
    "effbench.api.export": ("export", "numerics", "verify"),
    "effbench.api.profile": ("profile",),
    "effbench.api.quantize": ("quantize",),
    "effbench.api.report": ("report",),
    "effbench.api.sweep": ("sweep",),
    "effbench.errors": ("EffbenchError",),
    "effbench.models": ("list_models",),
    "effbench.models.declared": ("declare",),
    "effbench.schema": ("Artifact", "Backbone", "Device", "Measurement", "Preprocessing", "Samples"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Artifact",
    "Backbone",
    "Device",
    "EffbenchError",
    "Measurement",
    "Preprocessing",
    "Samples",
    "__version__",
    "claims",
    "compare",
    "declare",
    "devices",
    "distill",
    "doctor",
    "evaluate",
    "export",
    "gate",
    "imported",
    "kit",
    "list_models",
    "numerics",
    "profile",
    "quantize",
    "report",
    "sweep",
    "targets",
    "verify",
]


if not TYPE_CHECKING:  # A type checker would take it as a promise of every name, misspelt ones included.

    def __getattr__(name: str) -> Any:
        if name in _HOME:
            return getattr(import_module(_HOME[name]), name)
        raise AttributeError(f"module 'effbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
