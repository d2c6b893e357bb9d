"""int8 within a bound on accuracy: which operators stay in float so that top-1 drops by no more than that."""

from effbench.api.quantize.bound import quantize

__all__ = ["quantize"]
