"""Core ML without a Mac: translate an ONNX graph into a MIL program, and evaluate a saved ``.mlpackage`` in torch.

The two halves share no operator code: `translator` writes through coremltools' builder, `evaluator` parses the saved
file's protobuf itself. So an error in one is not repeated in the other (docs/how-to/coreml.md).
"""

from effbench.deploy.targets.coreml.target import TARGET

__all__ = ["TARGET"]
