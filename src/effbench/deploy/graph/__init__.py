"""The ONNX graph: read, written from torch, inspected, run by ONNX Runtime."""
