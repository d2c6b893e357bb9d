"""PyTorch in eager mode: the reference that every other target is compared with."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from effbench import reading
from effbench.deploy import Array, Converted, Session, Target
from effbench.deploy.artifact.placement import record
from effbench.deploy.graph.torch_program import PROGRAM, WEIGHTS, Program
from effbench.errors import (
    ConversionError,
    MissingDependencyError,
    UnavailableError,
    UnsupportedError,
    UsageError,
    unknown_name,
)
from effbench.schema import Artifact

DEVICES, MODES = ("cpu", "cuda"), ("eager", "compile", "cuda-graph")


class TorchSession(Session):
    """A program on the CPU or a GPU; a call ends with outputs on the host, so it has waited for the device."""

    compute_precision = "fp32"

    def __init__(self, artifact: Artifact, threads: int, device: str = "cpu", mode: str = "eager") -> None:
        try:
            import safetensors  # noqa: F401
            import torch
        except ImportError as error:
            raise MissingDependencyError("Target 'torch'", error.name or "torch", "torch") from error
        _check(torch, device, mode)
        torch.set_num_threads(threads)
        # The artifact holds operators and tensors, and no name of code: nothing that it says is imported.
        self._program = Program(artifact.folder, device)
        self._torch, self._device, self.mode = torch, torch.device(device), mode
        self._runs: dict[tuple[int, ...], Callable[[Any], Any]] = {}
        self._names = [spec.name for spec in artifact.outputs]

    def _run_for(self, example: Any) -> Callable[[Any], Any]:
        """Return the function that runs inputs of this shape; the first call compiles or captures it."""
        shape = tuple(example.shape)
        if shape not in self._runs:
            if self.mode == "compile":
                self._runs[shape] = self._torch.compile(self._program.__call__, dynamic=False)
            elif self.mode == "cuda-graph":
                self._runs[shape] = _capture(self._torch, self._program, example)
            else:
                self._runs[shape] = self._program
        return self._runs[shape]

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once; outputs are host arrays."""
        (value,) = feeds.values()
        with self._torch.inference_mode():
            image = self._torch.from_numpy(value).to(self._device)
            arrays = [output.cpu().numpy() for output in self._run_for(image)(image)]
        return dict(zip(self._names, arrays, strict=True))

    def placement(self) -> dict[str, Any]:
        """Return the device and the mode that the program runs in."""
        if self._device.type == "cpu":
            return {"devices": ["cpu"], "mode": self.mode, **self._units("CPU")}
        properties = self._torch.cuda.get_device_properties(self._device)
        capability = f"{properties.major}{properties.minor}"
        device = {"devices": [properties.name], "mode": self.mode, "compute_capability": capability}
        return {**device, **self._units("GPU")}

    def _units(self, unit: str) -> dict[str, Any]:
        """Count the operators: eager PyTorch runs each of them on the device of its inputs."""
        return record({unit: self._program.operators}, requested=unit)

    def close(self) -> None:
        """Free the program and its compiled or captured forms."""
        del self._program, self._runs


def _check(torch: Any, device: str, mode: str) -> None:
    """Refuse a device or mode that is unavailable here, and keep fp32 products in fp32 on a GPU."""
    if device not in DEVICES or mode not in MODES:
        raise unknown_name(*((mode, MODES, "mode") if device in DEVICES else (device, DEVICES, "device")))
    if mode == "cuda-graph" and device != "cuda":
        raise UsageError("mode=cuda-graph is for device=cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise UnavailableError(f"torch {torch.__version__} finds no NVIDIA GPU here.", hint=_cuda_error(torch))
    if device == "cuda":
        # By default convolutions compute in TF32, with 10 bits of mantissa.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


def _cuda_error(torch: Any) -> str:
    """Return the message of torch when it initializes CUDA."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return "CUDA initializes, but reports no device."


def _capture(torch: Any, program: Any, example: Any) -> Callable[[Any], Any]:
    """Capture the program as a CUDA graph over static buffers, after warm-up runs that trigger lazy initialization."""
    static = example.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            program(static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = program(static)

    def replay(image: Any) -> Any:
        static.copy_(image)
        graph.replay()
        return outputs

    return replay


class TorchTarget(Target):
    """PyTorch in fp32, eager on the CPU unless options say otherwise."""

    name = "torch"
    title = "PyTorch eager"
    extra = "torch"
    packages = ("torch",)
    precision = "fp32"
    options: Mapping[str, str] = {
        "device": "cpu (default) or cuda",
        "mode": "eager (default), compile (torch.compile), or cuda-graph on device=cuda",
    }
    refuses: Mapping[str, str] = dict.fromkeys(
        ("fp16", "int8", "a16w8"), "it is the fp32 reference; other precisions are written into the ONNX graph"
    )

    def convert(self, graph: Artifact, out: Path, options: Mapping[str, str]) -> Converted:
        """Copy the program that the export saved beside the graph.

        Raises:
            UsageError: The graph came from an .onnx file.
            UnsupportedError: The program cannot be written as data.
        """
        if PROGRAM not in graph.files:
            raise UsageError("Target 'torch' runs models of a Python factory; this one is an .onnx file.")
        try:
            content = reading.file_bytes(graph.folder / PROGRAM, reading.JSON_BYTES)
            refused = reading.json_value(content, PROGRAM, finite=False, longest=None).get("refused")
            if refused:
                hint = "A torch artifact holds ATen operators and tensors, and no code."
                raise UnsupportedError(f"Target 'torch' cannot store this model: {refused}.", hint=hint)
            for name in (PROGRAM, WEIGHTS):
                shutil.copyfile(graph.folder / name, out / name)
        except FileNotFoundError as error:
            hint = "Remove the graph's folder and export again."
            raise ConversionError("torch", f"{error.filename} is missing", hint=hint) from None
        return Converted(PROGRAM, "fp32")

    def open(self, artifact: Artifact, threads: int, options: Mapping[str, str]) -> TorchSession:
        """Read the program and its weights."""
        return TorchSession(artifact, threads, options.get("device", "cpu"), options.get("mode", "eager"))


TARGET = TorchTarget()
