"""`effbench evaluate`: accuracy and agreement of artifacts on labelled images."""

from effbench.api.evaluate.run import evaluate

__all__ = ["evaluate"]
