"""A small interpreter of ONNX graphs in torch: the second engine beside the runtimes, and a simulation of precisions.

It runs a graph with the types it declares, in float64, or in simulated half precision with half or fp32 accumulation
and subnormals flushed to zero; chosen nodes (islands) stay in float32. See docs/explanation/numerics.md.
"""

from __future__ import annotations

from effbench.deploy.interpreter import (  # noqa: F401 importing a module registers its operators
    activation,
    attention,
    contrib,
    control,
    detection,
    elementwise,
    indexing,
    linear,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    resize,
    shape,
    signal,
)
from effbench.deploy.interpreter.arithmetic import HALF_MIN_NORMAL, MODES, Mode
from effbench.deploy.interpreter.engine import Executed, Interpreter, Step, run_model
from effbench.deploy.interpreter.registry import operators

__all__ = [
    "HALF_MIN_NORMAL",
    "MODES",
    "Executed",
    "Interpreter",
    "Mode",
    "Step",
    "operators",
    "run_model",
]
