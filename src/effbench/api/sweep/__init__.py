"""`effbench sweep`: a matrix of models, targets, sizes and precisions, as jobs that can be resumed."""

from effbench.api.sweep.run import sweep

__all__ = ["sweep"]
