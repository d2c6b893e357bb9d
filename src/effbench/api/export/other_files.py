"""Files of other kinds than effbench exports: each is refused in a sentence that says what it is and what to do."""

from __future__ import annotations

import os
from pathlib import Path

from effbench.errors import UsageError

_FROM_TORCH = "Name the factory that builds the model instead: package.module:factory."
_FROM_SOURCE = "Export what it was made from: an .onnx file, or a torch model as package.module:factory."
KINDS = {
    ".tflite": ("a LiteRT model", f"{_FROM_SOURCE} tf2onnx (--tflite) turns it into ONNX."),
    ".torchscript": ("a TorchScript archive", "Return torch.jit.load(FILE) from a factory: package.module:factory."),
    ".pt": ("a file of torch.save or torch.jit.save", _FROM_TORCH),
    ".pth": ("a file of torch.save", _FROM_TORCH),
    ".ckpt": ("a checkpoint", _FROM_TORCH),
    ".safetensors": ("weights without a model", "Give it with --weights to the model that it belongs to."),
    ".mlpackage": ("a Core ML model", _FROM_SOURCE),
    ".mlmodel": ("a Core ML model", _FROM_SOURCE),
    ".mlmodelc": ("a compiled Core ML model", _FROM_SOURCE),
    ".engine": ("a TensorRT engine, which runs only where it was built", _FROM_SOURCE),
    ".plan": ("a TensorRT engine, which runs only where it was built", _FROM_SOURCE),
    ".trt": ("a TensorRT engine, which runs only where it was built", _FROM_SOURCE),
    ".xml": ("an OpenVINO model", _FROM_SOURCE),
    ".bin": ("a file of weights", _FROM_SOURCE),
    ".onnx.gz": ("a compressed ONNX file", "Unpack it first: gunzip FILE."),
    ".onnx.zip": ("a compressed ONNX file", "Unpack it first: unzip FILE."),
    ".onnx_data": ("the external data of an ONNX file", "Name the .onnx file beside it."),
    ".onnx.data": ("the external data of an ONNX file", "Name the .onnx file beside it."),
    ".ort": ("a model in ONNX Runtime's own format", _FROM_SOURCE),
    ".h5": ("a Keras file", "Convert it to ONNX first: model.export('x.onnx', format='onnx')."),
    ".keras": ("a Keras file", "Convert it to ONNX first: model.export('x.onnx', format='onnx')."),
    ".pb": ("a TensorFlow graph", "Convert it to ONNX first: tf2onnx --graphdef FILE --output x.onnx."),
    ".pdmodel": ("a Paddle model", "Convert it to ONNX first with paddle2onnx."),
    ".param": ("an ncnn model", _FROM_SOURCE),
    ".mnn": ("an MNN model", _FROM_SOURCE),
    ".gguf": ("a GGUF model", "effbench takes ONNX graphs and torch models."),
    ".pte": ("an ExecuTorch program", _FROM_SOURCE),
    ".aimodel": ("a Core AI model", _FROM_SOURCE),
}
"""By the end of a file's name in lower case: what it is, and what to do."""
READ = "effbench exports an .onnx file, a .pt2 file of torch.export.save, or a torch model as package.module:factory."


def refuse(argument: str) -> None:
    """Raise an error if an argument is a file of another kind, or named like one.

    Raises:
        UsageError: It says what the file is and what to do.
    """
    name = Path(argument).name.lower()
    kind = max((end for end in KINDS if name.endswith(end)), key=len, default=None)
    path = Path(argument)
    if kind is not None:
        absent = "" if path.exists() else " (there is no such file)"
        what, advice = KINDS[kind]
        raise UsageError(f"'{argument}' is {what}{absent}, which effbench does not export.", hint=f"{advice}")
    if path.is_file():
        raise UsageError(f"'{argument}' is a file of a kind that effbench does not export.", hint=READ)
    if os.sep in argument:
        raise UsageError(f"'{argument}': no such file.", hint=READ)
