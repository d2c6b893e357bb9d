"""OpenVINO: IR files; the precision hint is set and read back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.deploy import Array, Converted, Session, Target, Traced
from effbench.deploy.artifact.placement import record
from effbench.errors import ConversionError, FidelityError, MissingDependencyError, UnavailableError, UnsupportedError
from effbench.schema import Artifact

if TYPE_CHECKING:
    from onnx import ModelProto

PRODUCTS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul", "GroupConvolution")
"""OpenVINO's names of the layers that multiply matrices."""
MOST_LINES = 6
"""Lines of a message that are shown; what follows are lists of operators."""
_NAMES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingDependencyError("Target 'ov'", "openvino", "ov") from error
    return openvino


def reason(error: Exception) -> str:
    """Return what OpenVINO says without the places in its source, which come first, one line for each rethrow."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    sentences = [line for line in lines if not line.startswith("Exception from ") and " failed at src/" not in line]
    return " ".join(sentences[:MOST_LINES] or lines[:1]) or type(error).__name__


def _config(device: str, threads: int) -> dict[str, Any]:
    # The default hint of a CPU with bf16 is bf16, and "f16" silently becomes bf16: only f32 is computed as set.
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
    config["INFERENCE_PRECISION_HINT"] = "f32" if device == "CPU" else "f16"
    if device == "CPU":
        # By default it rounds activations to 8 bits in front of weights of 8 bits, whatever the graph says.
        config |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False, "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    return config


class OpenVinoSession(Session):
    """A compiled model with one synchronous request; ``infer`` returns when the outputs are on the host."""

    def __init__(self, artifact: Artifact, threads: int, device: str) -> None:
        ov = _openvino()
        core = ov.Core()
        config = _config(device, threads)
        if device.split(".")[0] not in {name.split(".")[0] for name in core.available_devices}:
            available = ", ".join(core.available_devices)
            raise UnavailableError(f"OpenVINO finds no device '{device}' here.", hint=f"It finds {available}.")
        try:
            model = core.read_model(str(artifact.path))
            self._compiled = core.compile_model(model, device, config)
        except RuntimeError as error:
            raise ConversionError("OpenVINO compile", reason(error)) from error
        # What a file stores in half precision is computed in it by right.
        own = {str(output.get_element_type().get_type_name()) for op in model.get_ops() for output in op.outputs()}
        self._own_precisions = {_NAMES[name] for name in own if name in ("f16", "bf16")}
        self.compute_precision: str | None = self._read_back(artifact)
        self._request = self._compiled.create_infer_request()
        self._names = [output.get_any_name() for output in self._compiled.outputs]
        self._feeds = [item.get_any_name() for item in self._compiled.inputs]

    def _read_back(self, artifact: Artifact) -> str:
        hint = str(self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
        layers = self.precisions()
        narrowed = set(layers) & {"bf16", "fp16"} - self._own_precisions
        if artifact.subject.storage_precision == "fp32" and (narrowed or hint != "f32"):
            raise FidelityError(f"OpenVINO computes in {hint} (layers: {layers}), although fp32 is required.")
        # Comparisons and logic run in bytes in every model; only products make a model one in int8.
        products = {precision for kind, precision in self._layers() if kind in PRODUCTS}
        return "int8" if "int8" in products else _NAMES.get(hint, hint)

    def precisions(self) -> dict[str, int]:
        """Count the compiled layers by the precision they run in, from the runtime model."""
        return dict(sorted(Counter(precision for _, precision in self._layers()).items()))

    def _layers(self) -> Iterator[tuple[str, str]]:
        """Yield the type of each compiled layer and its precision."""
        for node in self._compiled.get_runtime_model().get_ops():
            info = node.get_rt_info()
            kind = str(info["layerType"].astype(str)) if "layerType" in info else ""
            if "runtimePrecision" in info and kind not in ("Const", "Input", "Output", "Parameter", "Result"):
                name = str(info["runtimePrecision"].astype(str))
                yield kind, _NAMES.get(name, name)

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once; outputs are copied out of the request's own buffers."""
        try:
            results = self._request.infer(feeds, share_inputs=True, share_outputs=False)
        except RuntimeError as error:
            raise ConversionError("OpenVINO run", reason(error)) from error
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


def runner(model: ModelProto) -> Callable[[Mapping[str, Array]], Mapping[str, Array]]:
    """Return a function that runs an ONNX graph in memory on one thread of the CPU, in fp32, by names.

    Raises:
        ConversionError: OpenVINO refuses the graph.
        MissingDependencyError: openvino is not installed.
    """
    ov = _openvino()
    names = [output.name for output in model.graph.output]
    try:
        core = ov.Core()
        read = core.read_model(model.SerializeToString())
        compiled = core.compile_model(read, "CPU", {**_config("CPU", 1), "EXECUTION_MODE_HINT": "ACCURACY"})
        request = compiled.create_infer_request()
    except Exception as error:  # its classes share no base class, and a name that is no text is a decoding error
        raise ConversionError("OpenVINO compile", reason(error)) from error

    def run(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        try:
            results = request.infer(dict(feeds), share_inputs=False, share_outputs=False)
        except Exception as error:
            raise ConversionError("OpenVINO run", reason(error)) from error
        return dict(zip(names, results.to_tuple(), strict=True))

    return run


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
            UnsupportedError: OpenVINO lacks an operator.
            ConversionError: It refuses the graph for another reason.
        """
        ov = _openvino()
        try:
            model = ov.Core().read_model(str(graph.path))
            ov.save_model(model, str(out / "model.xml"), compress_to_fp16=False)
        except RuntimeError as error:
            operators = re.search(r"No conversion rule found for operations: ([\w., :]*\w)", str(error))
            if operators is not None:
                raise UnsupportedError(f"OpenVINO has no {operators[1]}, an operator of this graph.") from error
            raise ConversionError("OpenVINO conversion", reason(error)) from error
        return Converted("model.xml", graph.subject.storage_precision)

    def open(self, artifact: Artifact, threads: int, options: Mapping[str, str]) -> OpenVinoSession:
        """Compile the model for a device."""
        return OpenVinoSession(artifact, threads, options.get("device", "CPU"))

    def traced(self, artifact: Artifact, options: Mapping[str, str], tensors: Sequence[str]) -> Traced | None:
        """Add the tensors as outputs of the model, which keeps the names of the graph; on the CPU only."""
        return self.traced_file(artifact.path, tensors) if options.get("device", "CPU") == "CPU" else None

    def traced_file(self, path: Path, tensors: Sequence[str]) -> Traced:
        """Return a model's file on the CPU, with the tensors as outputs, as `traced` does."""
        core = _openvino().Core()
        model = core.read_model(str(path))
        names = [output.get_names() for output in model.outputs]
        for tensor in tensors:
            if any(tensor in same for same in names):
                continue
            try:
                model.add_outputs(tensor)
            except RuntimeError:  # the converter folded it
                continue
            names.append({tensor})
        compiled = core.compile_model(model, "CPU", _config("CPU", 1))

        def run(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
            values = [value.copy() for value in compiled(dict(feeds)).to_tuple()]
            return {name: value for same, value in zip(names, values, strict=True) for name in same}

        return run


TARGET = OpenVinoTarget()
