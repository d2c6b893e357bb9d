"""Translate an ONNX graph into a MIL program, one small function per operator.

A value is an array as long as it is known: shapes, weights and whatever follows from them alone are computed here by
the ONNX reference implementation, never by coremltools. Everything else is a variable of the MIL builder. Operators
that ONNX itself defines as a function of simpler ones, and that have no rule here, are replaced by that function.
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
