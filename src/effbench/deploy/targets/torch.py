"""PyTorch in eager mode: the reference that every other target is held against."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from effbench.deploy import Array, Converted
from effbench.errors import ConversionError, MissingDependencyError, UnavailableError, UsageError
from effbench.registry import resolve
from effbench.schema import Artifact

WEIGHTS = "weights.safetensors"


def save_weights(module: Any, folder: Path) -> None:
    """Write a module's state below a folder, for this target to load again; tied tensors are stored once."""
    from safetensors.torch import save_model

    save_model(module, str(folder / WEIGHTS))


class TorchSession:
    """An eager module on the CPU; eager CPU calls return when they are done."""

    compute_precision: str | None = "fp32"

    simulated = False

    def __init__(self, artifact: Artifact, threads: int) -> None:
        try:
            import torch
            from safetensors.torch import load_model
        except ImportError as error:
            raise MissingDependencyError("Target 'torch'", error.name or "torch", "torch") from error
        torch.set_num_threads(threads)
        # The artifact names the function that builds its empty module, so that this target depends on no model code.
        module = resolve(artifact.options["loader"])(artifact.options["factory"])
        load_model(module, str(artifact.path))
        self._torch, self._module = torch, module
        self._names = [spec.name for spec in artifact.outputs]

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once; outputs are host arrays."""
        with self._torch.inference_mode():
            found = self._module(*(self._torch.from_numpy(value) for value in feeds.values()))
        outputs = (found,) if self._torch.is_tensor(found) else found
        return {name: value.numpy() for name, value in zip(self._names, outputs, strict=True)}

    def placement(self) -> dict[str, Any]:
        """Say that everything runs on the CPU."""
        return {"devices": ["cpu"]}

    def close(self) -> None:
        """Free the module."""
        del self._module


class TorchTarget:
    """PyTorch, eager, fp32, on the CPU."""

    name = "torch"
    title = "PyTorch eager"
    extra = "torch"
    packages = ("torch",)
    precision = "fp32"
    options: Mapping[str, str] = {}

    def available(self) -> str | None:
        """Tell whether torch is installed, without importing it."""
        return None if find_spec("torch") else "the package 'torch' is not installed"

    def measurable(self) -> str | None:
        """Tell whether a latency can be measured here: wherever the runtime is installed."""
        return self.available()

    def convert(self, graph: Artifact, out: Path, options: Mapping[str, str]) -> Converted:
        """Copy the weights that were saved beside the graph.

        Raises:
            UsageError: The graph came from an .onnx file, or its precision is not fp32.
        """
        if "factory" not in graph.options:
            raise UsageError("Target 'torch' runs models made by a Python factory; this one came as an .onnx file.")
        if graph.subject.storage_precision != "fp32":
            raise UnavailableError("Target 'torch' is the fp32 reference; other precisions live in the ONNX graph.")
        source = graph.folder / WEIGHTS
        try:
            (out / WEIGHTS).write_bytes(source.read_bytes())
        except FileNotFoundError:
            raise ConversionError(
                "torch", f"{source} is missing", hint="Remove the graph's folder and export again."
            ) from None
        return Converted(WEIGHTS, "fp32")

    def open(self, artifact: Artifact, threads: int, options: Mapping[str, str]) -> TorchSession:
        """Build the module and load its weights."""
        return TorchSession(artifact, threads)


TARGET = TorchTarget()
