"""`effbench export`, `verify` and `numerics`: a model argument becomes one ONNX graph, the graph a checked artifact."""

from effbench.api.export.diagnosis import numerics
from effbench.api.export.mutate import mutate
from effbench.api.export.run import export
from effbench.api.export.verification import verify

__all__ = ["export", "mutate", "numerics", "verify"]
