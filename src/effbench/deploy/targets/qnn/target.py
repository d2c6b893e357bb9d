"""Snapdragon NPU: one context binary per HTP architecture, through ONNX Runtime's QNN provider."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effbench.deploy import Array, Converted, Session, Target
from effbench.deploy.artifact.placement import record
from effbench.deploy.graph import onnx_file
from effbench.deploy.targets.qnn import snapdragon
from effbench.deploy.targets.qnn.htp import PRODUCT, WRITTEN_OUT, prepared
from effbench.errors import (
    ConversionError,
    DataError,
    MissingDependencyError,
    UnavailableError,
    UnsupportedError,
    UsageError,
)
from effbench.schema import Artifact

ENTRY = "model.onnx"
DEFAULT_HTP = "v75"


IMAGES, IMAGES_OF_LARGE, LARGE_PX = 4, 2, 256
"""How many images a fidelity check takes on the simulator, which needs seconds for each, or minutes."""


class QnnSession(Session):
    """A context binary on the HTP, or on its simulator."""

    def __init__(self, artifact: Artifact) -> None:
        chip = artifact.placement.get("soc", DEFAULT_HTP)
        built = str(artifact.placement.get("sdk", "0"))
        if snapdragon.older(snapdragon.sdk_version(), built):
            raise UnavailableError(
                f"{artifact.name} was built by QNN {built}; QNN {snapdragon.sdk_version()} here is older.",
                hint="Install a newer onnxruntime-qnn, or export again.",
            )
        # Without it a context that does not load would quietly become an error about the CPU, or a CPU session.
        alone = {} if artifact.placement.get("cpu_operators") else {"session.disable_cpu_ep_fallback": "1"}
        options = snapdragon.session_options(chip, alone)
        import onnxruntime as ort

        try:
            self._session = ort.InferenceSession(str(artifact.path), options)
        except Exception as error:
            # onnxruntime raises classes of its own that share no public root.
            raise DataError(f"{artifact.path}: QNN does not load it: {_words(error)}") from error
        if self._session.get_providers()[0] != snapdragon.PROVIDER:
            raise UnavailableError(f"ONNX Runtime left the QNN provider for {self._session.get_providers()[0]}.")
        self._names = [output.name for output in self._session.get_outputs()]
        self.max_images = IMAGES if max(artifact.subject.resolution) <= LARGE_PX else IMAGES_OF_LARGE
        self.simulated = snapdragon.simulated()
        self.compute_precision: str | None = artifact.subject.compute_precision

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once; outputs are new host arrays."""
        return dict(zip(self._names, self._session.run(None, feeds), strict=True))

    def placement(self) -> dict[str, Any]:
        """Name the providers, and say whether the HTP is the simulator."""
        return {"providers": self._session.get_providers(), "simulated": self.simulated}

    def close(self) -> None:
        """Free the session."""
        del self._session


class QnnTarget(Target):
    """The NPU of a Snapdragon, half precision by default: the HTP has no other floating point."""

    name = "qnn"
    title = "Snapdragon NPU (QNN)"
    extra = "qnn"
    packages = ("onnxruntime-qnn", "onnxruntime")
    precision = "fp16"
    options: Mapping[str, str] = {
        "htp": f"HTP architecture ({', '.join(snapdragon.HTPS)}) or chip (docs/how-to/qnn.md); default {DEFAULT_HTP}",
        "operators": "exact writes what the HTP rounds badly in what it rounds well: in fp16 Gelu, HardSwish, Sigmoid, "
        "SiLU, Softmax and Tanh, in a16w8 products of two activations; native leaves them; default exact",
        "fallback": "what --allow-fallback sets: yes leaves to the CPU what the HTP does not run; default no",
    }
    refuses: Mapping[str, str] = {
        "fp32": "the HTP has no fp32, it would compute in half",
        "int8": "the HTP wants every operator quantized and one scale for a tensor of activations, which a16w8 has; "
        "int8 quantizes convolutions and products alone",
    }

    @property
    def license(self) -> str | None:
        """Say under which license the toolkit came and where its text lies; None where it is not installed."""
        path = snapdragon.license_path()
        return None if path is None else f"Qualcomm's own, not redistributed by effbench: {path}"

    def available(self) -> str | None:
        """Tell whether context binaries can be built here: wherever onnxruntime-qnn is installed."""
        return snapdragon.missing()

    def measurable(self) -> str | None:
        """Tell whether a latency can be measured here: on a Snapdragon, never on the simulator."""
        if snapdragon.simulated():
            return "the HTP of this machine is a simulator, whose times say nothing; measure on a Snapdragon"
        return snapdragon.missing()

    def simulates(self) -> bool:
        """Return whether the HTP of this machine is QNN's simulator."""
        return snapdragon.simulated()

    def convert(self, graph: Artifact, out: Path, options: Mapping[str, str]) -> Converted:
        """Compile the graph into a context binary for one HTP architecture.

        Raises:
            ConversionError: The provider refuses the graph, or leaves operators to the CPU without leave.
            MissingDependencyError: onnxruntime-qnn is not installed.
            UnsupportedError: A precision of `refuses` was asked for, or an open batch, which the HTP has not; or a
                precision that the chip has not.
            UsageError: An option's value means nothing.
        """
        soc = chosen(options)
        precision = graph.subject.storage_precision
        if snapdragon.missing():
            raise MissingDependencyError("Target 'qnn'", snapdragon.PACKAGE, self.extra)
        if precision in self.refuses:
            raise UnsupportedError(f"No {precision}: {self.refuses[precision]}.", hint="--precision fp16 or a16w8")
        if precision == "fp16" and not soc.half:
            raise UnsupportedError(f"No fp16: {soc.name} has no half precision.", hint="--precision a16w8")
        if any(None in spec.shape for spec in graph.inputs):
            raise UnsupportedError("A context binary has fixed shapes.", hint="Export without --dynamic-batch.")
        placement = {"htp": soc.htp, "soc": soc.name, "sdk": snapdragon.sdk_version()}
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / graph.path.name
            notes = _prepare(graph.path, path, exact=options.get("operators", "exact") == "exact")
            if graph.placement.get("fp32_islands"):
                notes = (*notes, "the HTP has no fp32 and computes the islands in half")
            placement |= compile_context(path, out, soc.name)
        _check_fallback(placement, options.get("fallback", "no") == "yes")
        # Of quantized operators the provider does not say what they compute in.
        return Converted(ENTRY, precision, "fp16" if precision == "fp16" else None, placement, notes)

    def open(self, artifact: Artifact, threads: int, options: Mapping[str, str]) -> QnnSession:
        """Load a context binary, onto the simulator where there is no NPU.

        Raises:
            DataError: It is damaged.
            UnavailableError: The provider is missing or older than the one that built it.
        """
        if snapdragon.missing():
            raise MissingDependencyError("Target 'qnn'", snapdragon.PACKAGE, self.extra)
        return QnnSession(artifact)


def chosen(options: Mapping[str, str]) -> snapdragon.Soc:
    """Return the chip that options ask for.

    Raises:
        UsageError: A value means nothing.
    """
    soc = snapdragon.soc(options.get("htp", DEFAULT_HTP))
    for name, values in (("fallback", ("yes", "no")), ("operators", ("exact", "native"))):
        if options.get(name, values[0]) not in values:
            raise UsageError(f"{name}={options[name]} is not one of {', '.join(values)}.")
    return soc


def _prepare(source: Path, made: Path, exact: bool) -> tuple[str, ...]:
    """Write a graph as the HTP takes it; returns notes on what was written out."""
    import onnx

    model = onnx_file.load(source)
    written = prepared(model, exact)
    onnx.save(written, made)
    after = {node.name for node in written.graph.node}
    gone = Counter(node.op_type for node in model.graph.node if node.name not in after)
    kinds = [f"{gone[kind]} {kind}" for kind in (*WRITTEN_OUT, PRODUCT) if gone[kind]]
    return (f"written in operators that the HTP rounds well: {', '.join(kinds)}",) if kinds else ()


def compile_context(model: Path, out: Path, soc: str) -> dict[str, Any]:
    """Compile a model into ``model.onnx`` and its context binaries below ``out``; returns the placement.

    Raises:
        ConversionError: The provider refuses the model.
    """
    config = {
        "ep.context_enable": "1",
        "ep.context_file_path": str(out / ENTRY),
        "ep.context_embed_mode": "0",
        "session.record_ep_graph_assignment_info": "1",
    }
    options = snapdragon.session_options(soc, config)
    import onnx
    import onnxruntime as ort

    try:
        session = ort.InferenceSession(str(model), options)
    except Exception as error:
        # onnxruntime raises classes of its own that share no public root.
        raise ConversionError("QNN compile", _words(error)) from error
    placement = snapdragon.assigned(session)
    del session
    if not (out / ENTRY).exists():
        raise ConversionError("QNN compile", "no operator of this graph went to the HTP.")
    written = onnx.load(out / ENTRY, load_external_data=False)
    placement["border_operators"] = border(written)
    placement["contexts"] = sum(node.op_type == "EPContext" for node in written.graph.node)
    units = {unit: sum(kinds.values()) for unit, kinds in placement["operators"].items()}
    left = len(_left(placement))
    if "CPU" in units:
        units["CPU"] = left  # without the border, which is not the graph's
    parts = placement["partitions"] + (left > 0)
    return {**placement, **record(units, partitions=parts, copies=_handed_over(written.graph), requested="HTP")}


def _handed_over(graph: Any) -> int:
    """Count the tensors that pass between the HTP's contexts and the CPU's operators inside the graph."""
    makers = {name: node.op_type == "EPContext" for node in graph.node for name in node.output}
    crossings = {
        (name, on_htp)
        for node in graph.node
        for name in node.input
        if name in makers and makers[name] != (on_htp := node.op_type == "EPContext")
    }
    return len(crossings)


def border(written: Any) -> list[str]:
    """Name what turns float inputs and outputs into integers and back, outside the context: all stay on the CPU."""
    ends = {value.name for value in (*written.graph.input, *written.graph.output)}
    return [
        f"{node.name} ({node.op_type})"
        for node in written.graph.node
        if (node.op_type == "QuantizeLinear" and node.input[0] in ends)
        or (node.op_type == "DequantizeLinear" and node.output[0] in ends)
    ]


def _left(placement: Mapping[str, Any]) -> list[str]:
    return [name for name in placement["cpu_operators"] if name not in placement["border_operators"]]


def _check_fallback(placement: Mapping[str, Any], allowed: bool) -> None:
    left = _left(placement)
    if left and not allowed:
        shown = ", ".join(left[:5]) + (", ..." if len(left) > 5 else "")
        raise ConversionError(
            "QNN placement",
            f"left to the CPU: {shown} ({len(left)} of them, {placement['contexts']} contexts on the HTP).",
            hint="--allow-fallback accepts that, and records it.",
        )


def _words(error: Exception) -> str:
    """Return the last line that ONNX Runtime says, without its own source positions."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0].split("] : ")[-1].strip()


TARGET = QnnTarget()
