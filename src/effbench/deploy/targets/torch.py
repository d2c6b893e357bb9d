"""PyTorch in eager mode: the reference that every other target is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from effbench.codec import file_sha256
from effbench.deploy import Array, Converted, Session, Target
from effbench.deploy.artifact.placement import record
from effbench.errors import ConversionError, MissingDependencyError, UnavailableError, UsageError, unknown_name
from effbench.registry import import_object
from effbench.schema import Artifact

WEIGHTS, GRAPH = "weights.safetensors", "graph.sha256"
DEVICES, MODES = ("cpu", "cuda"), ("eager", "compile", "cuda-graph")


def save_weights(module: Any, folder: Path) -> None:
    """Write a module's state into a folder, from which this target loads it; tied tensors are stored once."""
    from safetensors.torch import save_model

    save_model(module, str(folder / WEIGHTS))


class TorchSession(Session):
    """A module on the CPU or a GPU; a call ends with outputs on the host, so it has waited for the device."""

    compute_precision = "fp32"

    def __init__(self, artifact: Artifact, threads: int, device: str = "cpu", mode: str = "eager") -> None:
        try:
            import torch
            from safetensors.torch import load_model
        except ImportError as error:
            raise MissingDependencyError("Target 'torch'", error.name or "torch", "torch") from error
        _check(torch, device, mode)
        torch.set_num_threads(threads)
        # The artifact names the function that builds its module, so that this target depends on no model code.
        module = import_object(artifact.options["loader"])(artifact.options["factory"], artifact.subject.resolution)
        load_model(module, str(artifact.path))
        self._torch, self._device, self.mode = torch, torch.device(device), mode
        self._module = module.to(self._device)
        self._runs: dict[tuple[int, ...], Callable[[Any], Any]] = {}
        self._names = [spec.name for spec in artifact.outputs]

    def _run_for(self, example: Any) -> Callable[[Any], Any]:
        """Return the function that runs inputs of this shape; the first call compiles or captures it."""
        shape = tuple(example.shape)
        if shape not in self._runs:
            if self.mode == "compile":
                self._runs[shape] = self._torch.compile(self._module, dynamic=False)
            elif self.mode == "cuda-graph":
                self._runs[shape] = _capture(self._torch, self._module, example)
            else:
                self._runs[shape] = self._module
        return self._runs[shape]

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once; outputs are host arrays."""
        (value,) = feeds.values()
        with self._torch.inference_mode():
            image = self._torch.from_numpy(value).to(self._device)
            result = self._run_for(image)(image)
            outputs = (result,) if self._torch.is_tensor(result) else result
            arrays = [output.cpu().numpy() for output in outputs]
        return dict(zip(self._names, arrays, strict=True))

    def placement(self) -> dict[str, Any]:
        """Return the device and the mode that the module runs in."""
        if self._device.type == "cpu":
            return {"devices": ["cpu"], "mode": self.mode, **self._units("CPU")}
        properties = self._torch.cuda.get_device_properties(self._device)
        capability = f"{properties.major}{properties.minor}"
        device = {"devices": [properties.name], "mode": self.mode, "compute_capability": capability}
        return {**device, **self._units("GPU")}

    def _units(self, unit: str) -> dict[str, Any]:
        """Count the leaf modules: eager PyTorch runs each of them on the device of its weights."""
        return record({unit: sum(not list(module.children()) for module in self._module.modules())}, requested=unit)

    def close(self) -> None:
        """Free the module and its compiled or captured forms."""
        del self._module, self._runs


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


def _capture(torch: Any, module: Any, example: Any) -> Callable[[Any], Any]:
    """Capture the module as a CUDA graph over static buffers, after warm-up runs that trigger lazy initialization."""
    static = example.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            module(static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = module(static)

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
        """Copy the weights that the export saved beside the graph.

        Raises:
            UsageError: The graph came from an .onnx file.
        """
        if "factory" not in graph.options:
            raise UsageError("Target 'torch' runs models of a Python factory; this one is an .onnx file.")
        source = graph.folder / WEIGHTS
        try:
            (out / WEIGHTS).write_bytes(source.read_bytes())
        except FileNotFoundError:
            raise ConversionError(
                "torch", f"{source} is missing", hint="Remove the graph's folder and export again."
            ) from None
        # Equal weights do not make equal models: the artifact's digest covers the structure too.
        (out / GRAPH).write_text(f"{file_sha256(graph.path)}\n")
        return Converted(WEIGHTS, "fp32")

    def open(self, artifact: Artifact, threads: int, options: Mapping[str, str]) -> TorchSession:
        """Build the module and load its weights."""
        return TorchSession(artifact, threads, options.get("device", "cpu"), options.get("mode", "eager"))


TARGET = TorchTarget()
