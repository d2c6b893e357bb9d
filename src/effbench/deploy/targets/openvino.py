"""OpenVINO: IR files; the precision hint is set and read back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effbench.deploy import Array, Converted, Session, Target
from effbench.deploy.artifact.placement import record
from effbench.errors import ConversionError, FidelityError, MissingDependencyError, UnavailableError
from effbench.schema import Artifact

_NAMES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingDependencyError("Target 'ov'", "openvino", "ov") from error
    return openvino


class OpenVinoSession(Session):
    """A compiled model with one synchronous request; ``infer`` returns when the outputs are on the host."""

    def __init__(self, artifact: Artifact, threads: int, device: str) -> None:
        ov = _openvino()
        core = ov.Core()
        if device.split(".")[0] not in {name.split(".")[0] for name in core.available_devices}:
            available = ", ".join(core.available_devices)
            raise UnavailableError(f"OpenVINO finds no device '{device}' here.", hint=f"It finds {available}.")
        # The default hint of a CPU with bf16 is bf16, and "f16" silently becomes bf16: only f32 is computed as set.
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
        config["INFERENCE_PRECISION_HINT"] = "f32" if device == "CPU" else "f16"
        if device == "CPU":
            config |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
        try:
            self._compiled = core.compile_model(str(artifact.path), device, config)
        except RuntimeError as error:
            raise ConversionError("OpenVINO compile", str(error).strip().splitlines()[0]) from error
        self.compute_precision: str | None = self._read_back(artifact)
        self._request = self._compiled.create_infer_request()
        self._names = [output.get_any_name() for output in self._compiled.outputs]
        self._feeds = [item.get_any_name() for item in self._compiled.inputs]

    def _read_back(self, artifact: Artifact) -> str:
        hint = str(self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
        layers = self.precisions()
        if artifact.subject.storage_precision == "fp32" and (set(layers) & {"bf16", "fp16"} or hint != "f32"):
            raise FidelityError(f"OpenVINO computes in {hint} (layers: {layers}), although fp32 is required.")
        return "int8" if "int8" in layers else _NAMES.get(hint, hint)

    def precisions(self) -> dict[str, int]:
        """Count the compiled layers by the precision they run in, from the runtime model."""
        counts: dict[str, int] = {}
        for node in self._compiled.get_runtime_model().get_ops():
            info = node.get_rt_info()
            kind = str(info["layerType"].astype(str)) if "layerType" in info else ""
            if "runtimePrecision" in info and kind not in ("Const", "Input", "Output", "Parameter", "Result"):
                name = str(info["runtimePrecision"].astype(str))
                name = _NAMES.get(name, name)
                counts[name] = counts.get(name, 0) + 1
        return dict(sorted(counts.items()))

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once; outputs are copied out of the request's own buffers."""
        results = self._request.infer(feeds, share_inputs=True, share_outputs=False)
        return dict(zip(self._names, results.to_tuple(), strict=True))

    def placement(self) -> dict[str, Any]:
        """Return the devices and the number of layers by precision."""
        devices = self._compiled.get_property("EXECUTION_DEVICES")
        layers = self.precisions()
        unit = str(next(iter(devices))).split(".")[0]
        return {
            "devices": list(devices),
            "layers_by_precision": layers,
            **record({unit: sum(layers.values())}, requested=unit),
        }

    def close(self) -> None:
        """Free the request and the compiled model."""
        del self._request, self._compiled


class OpenVinoTarget(Target):
    """OpenVINO on the CPU (or GPU, NPU by ``--set device=``)."""

    name = "ov"
    title = "OpenVINO"
    extra = "ov"
    packages = ("openvino",)
    precision = "fp32"
    options: Mapping[str, str] = {"device": "CPU (default), GPU or NPU"}

    def convert(self, graph: Artifact, out: Path, options: Mapping[str, str]) -> Converted:
        """Write the graph as OpenVINO IR (``model.xml``, ``model.bin``), with the weights of the graph.

        Raises:
            ConversionError: OpenVINO refuses the graph.
        """
        ov = _openvino()
        try:
            model = ov.Core().read_model(str(graph.path))
            ov.save_model(model, str(out / "model.xml"), compress_to_fp16=False)
        except RuntimeError as error:
            raise ConversionError("OpenVINO conversion", str(error).strip().splitlines()[0]) from error
        return Converted("model.xml", graph.subject.storage_precision)

    def open(self, artifact: Artifact, threads: int, options: Mapping[str, str]) -> OpenVinoSession:
        """Compile the model for a device."""
        return OpenVinoSession(artifact, threads, options.get("device", "CPU"))


TARGET = OpenVinoTarget()
