"""`effbench distill`: train a student on the outputs of teachers."""

from effbench.api.distill.run import distill

__all__ = ["distill"]
