"""Translate an ONNX graph into a MIL program, one small function per operator.

A value is an array while it is known: shapes, weights and all that depends on nothing else are computed here by the
ONNX reference implementation, never by coremltools. All other values are variables of the MIL builder. An operator
without a rule here, that ONNX defines as a function of simpler ones, is replaced by that function.
"""

from __future__ import annotations

from importlib import import_module

from effbench.deploy.targets.coreml.translator.registry import RULES

FAMILIES = (
    "elementwise",
    "activation",
    "normalization",
    "convolution",
    "matrix",
    "reduction",
    "shape",
    "indexing",
    "quantization",
    "resize",
)

for _family in FAMILIES:
    import_module(f"{__name__}.{_family}")


def supported() -> tuple[str, ...]:
    """Return the ONNX operators that have a rule, sorted."""
    return tuple(sorted(RULES))


__all__ = ["FAMILIES", "RULES", "supported"]
