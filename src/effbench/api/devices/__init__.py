"""`effbench devices`, `targets`, `doctor`, `kit` and `import`: what is here, and what runs elsewhere."""

from effbench.api.devices.catalogue import devices, doctor, targets
from effbench.api.devices.imports import imported
from effbench.api.devices.kits import kit

__all__ = ["devices", "doctor", "imported", "kit", "targets"]
