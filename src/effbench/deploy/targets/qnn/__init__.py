"""The Snapdragon NPU (Hexagon Tensor Processor), through the QNN provider of ONNX Runtime."""

from effbench.deploy.targets.qnn.target import TARGET

__all__ = ["TARGET"]
