"""`effbench compare` and `gate`: whether one artifact is slower than another, measured in pairs."""

from effbench.api.compare.run import compare
from effbench.api.compare.run_gate import gate

__all__ = ["compare", "gate"]
