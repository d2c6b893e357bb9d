"""Snapdragon NPU: one context binary per HTP architecture, through ONNX Runtime's QNN provider."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effbench import drafts
from effbench.deploy import Array, Converted, Session, Target, abbreviate
from effbench.deploy.artifact.placement import record
from effbench.deploy.graph import onnx_file
from effbench.deploy.targets.qnn import snapdragon
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
"""How many images a fidelity check runs on the simulator, which needs seconds or minutes for each."""


class QnnSession(Session):
    """A context binary on the HTP, or on its simulator."""

    def __init__(self, artifact: Artifact) -> None:
        chip = artifact.placement.get("soc", DEFAULT_HTP)
        built = str(artifact.placement.get("sdk", "0"))
        if snapdragon.is_older(snapdragon.sdk_version(), built):
            raise UnavailableError(
                f"{artifact.name} was built by QNN {built}; the installed QNN {snapdragon.sdk_version()} is older.",
                hint="Install a newer onnxruntime-qnn, or export again.",
            )
        # Without this entry a context that does not load becomes an error of the CPU provider, or a CPU session.
        no_fallback = {} if artifact.placement.get("cpu_operators") else {"session.disable_cpu_ep_fallback": "1"}
        options = snapdragon.session_options(chip, no_fallback)
        import onnxruntime as ort

        try:
            self._session = ort.InferenceSession(str(artifact.path), options)
        except Exception as error:
            # The exception classes of onnxruntime share no public base class.
            raise DataError(f"{artifact.path}: QNN does not load it: {_message(error)}") from error
        if self._session.get_providers()[0] != snapdragon.PROVIDER:
            raise UnavailableError(f"ONNX Runtime left the QNN provider for {self._session.get_providers()[0]}.")
        self._names = [output.name for output in self._session.get_outputs()]
        self.max_images = IMAGES if max(artifact.subject.resolution or (0,)) <= LARGE_PX else IMAGES_OF_LARGE
        self.simulated = snapdragon.simulated()
        self.compute_precision: str | None = artifact.subject.compute_precision

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once; outputs are new host arrays."""
        return dict(zip(self._names, self._session.run(None, feeds), strict=True))

    def placement(self) -> dict[str, Any]:
        """Return the providers, and whether the HTP is the simulator."""
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
        "operators": "exact (default) decomposes what the HTP rounds badly: in fp16 Gelu, HardSwish, Sigmoid, SiLU, "
        "Softmax and Tanh, in a16w8 products of two activations; native keeps them",
        "fallback": "set by --allow-fallback: yes runs operators that the HTP does not support on the CPU; default no",
    }
    refuses: Mapping[str, str] = {
        "fp32": "the HTP has no fp32 and would compute in half precision",
        "int8": "the HTP needs every operator quantized, with one scale per activation tensor, as in a16w8; "
        "int8 quantizes only convolutions and products",
    }

    @property
    def license(self) -> str | None:
        """The license of the toolkit and the path of its text; None if it is not installed."""
        path = snapdragon.license_path()
        return None if path is None else f"Qualcomm's own, not redistributed by effbench: {path}"

    def available(self) -> str | None:
        """Return None if context binaries can be built here: wherever onnxruntime-qnn is installed."""
        return snapdragon.missing()

    def measurable(self) -> str | None:
        """Return None if a latency can be measured here: on a Snapdragon, never on the simulator."""
        if snapdragon.simulated():
            return "the HTP of this machine is a simulator, whose times are meaningless; measure on a Snapdragon"
        return snapdragon.missing()

    def simulates(self) -> bool:
        """Return whether the HTP of this machine is QNN's simulator."""
        return snapdragon.simulated()

    def convert(self, graph: Artifact, out: Path, options: Mapping[str, str]) -> Converted:
        """Compile the graph into a context binary for one HTP architecture.

        Raises:
            ConversionError: The provider refuses the graph, or leaves operators to the CPU without permission.
            MissingDependencyError: onnxruntime-qnn is not installed.
            UnsupportedError: The precision is one of `refuses`, the batch is open, or the chip lacks the precision.
            UsageError: An option's value is invalid.
        """
        soc = chip_of(options)
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
        with drafts.scratch() as scratch:
            path = Path(scratch) / graph.path.name
            notes = _prepare(graph.path, path, exact=options.get("operators", "exact") == "exact")
            if graph.placement.get("fp32_islands"):
                notes = (*notes, "the HTP has no fp32 and computes the fp32 islands in half precision")
            placement |= compile_context(path, out, soc.name)
        _check_fallback(placement, options.get("fallback", "no") == "yes")
        # The provider does not report the precision that quantized operators compute in.
        return Converted(ENTRY, precision, "fp16" if precision == "fp16" else None, placement, notes)

    def open(self, artifact: Artifact, threads: int, options: Mapping[str, str]) -> QnnSession:
        """Load a context binary, onto the simulator if there is no NPU.

        Raises:
            DataError: It is damaged.
            UnavailableError: The provider is missing or older than the one that built it.
        """
        if snapdragon.missing():
            raise MissingDependencyError("Target 'qnn'", snapdragon.PACKAGE, self.extra)
        return QnnSession(artifact)


def chip_of(options: Mapping[str, str]) -> snapdragon.Soc:
    """Return the chip that the options select.

    Raises:
        UsageError: The value of an option is invalid.
    """
    soc = snapdragon.soc(options.get("htp", DEFAULT_HTP))
    for name, values in (("fallback", ("yes", "no")), ("operators", ("exact", "native"))):
        if options.get(name, values[0]) not in values:
            raise UsageError(f"{name}={options[name]} is not one of {', '.join(values)}.")
    return soc


def _prepare(source: Path, destination: Path, exact: bool) -> tuple[str, ...]:
    """Write the graph that the HTP's compiler accepts; returns a note on the decomposed operators."""
    import onnx

    from effbench.deploy.targets.qnn.htp import DECOMPOSITIONS, PRODUCT, prepare

    model = onnx_file.load(source)
    prepared = prepare(model, exact)
    onnx.save(prepared, destination)
    remaining = {node.name for node in prepared.graph.node}
    decomposed = Counter(node.op_type for node in model.graph.node if node.name not in remaining)
    kinds = [f"{decomposed[kind]} {kind}" for kind in (*DECOMPOSITIONS, PRODUCT) if decomposed[kind]]
    return (f"decomposed into operators that the HTP rounds well: {', '.join(kinds)}",) if kinds else ()


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
        # The exception classes of onnxruntime share no public base class.
        raise ConversionError("QNN compile", _message(error)) from error
    placement = snapdragon.assignment(session)
    del session
    if not (out / ENTRY).exists():
        raise ConversionError("QNN compile", "no operator of this graph runs on the HTP.")
    compiled = onnx.load(out / ENTRY, load_external_data=False)
    placement["border_operators"] = border_operators(compiled)
    placement["contexts"] = sum(node.op_type == "EPContext" for node in compiled.graph.node)
    units = {unit: sum(kinds.values()) for unit, kinds in placement["operators"].items()}
    fallback = len(_fallback(placement))
    if "CPU" in units:
        units["CPU"] = fallback  # the border operators are not part of the graph
    partitions = placement["partitions"] + (fallback > 0)
    copies = _count_copies(compiled.graph)
    return {**placement, **record(units, partitions=partitions, copies=copies, requested="HTP")}


def _count_copies(graph: Any) -> int:
    """Count the tensors that are copied between the HTP's contexts and the CPU's operators inside the graph."""
    on_htp = {name: node.op_type == "EPContext" for node in graph.node for name in node.output}
    copies = {
        (name, read_on_htp)
        for node in graph.node
        for name in node.input
        if name in on_htp and on_htp[name] != (read_on_htp := node.op_type == "EPContext")
    }
    return len(copies)


def border_operators(compiled: Any) -> list[str]:
    """Return the operators that quantize the inputs and dequantize the outputs: they run outside, on the CPU."""
    ends = {value.name for value in (*compiled.graph.input, *compiled.graph.output)}
    return [
        f"{node.name} ({node.op_type})"
        for node in compiled.graph.node
        if (node.op_type == "QuantizeLinear" and node.input[0] in ends)
        or (node.op_type == "DequantizeLinear" and node.output[0] in ends)
    ]


def _fallback(placement: Mapping[str, Any]) -> list[str]:
    return [name for name in placement["cpu_operators"] if name not in placement["border_operators"]]


def _check_fallback(placement: Mapping[str, Any], allowed: bool) -> None:
    fallback = _fallback(placement)
    if fallback and not allowed:
        print(f"operators on the CPU: {', '.join(fallback)}", file=sys.stderr)  # all of them, for the failure's log
        raise ConversionError(
            "QNN placement",
            f"{len(fallback)} operators run on the CPU: {abbreviate(fallback)} "
            f"({placement['contexts']} contexts on the HTP).",
            hint="--allow-fallback accepts that, and records it.",
        )


def _message(error: Exception) -> str:
    """Return the first line of ONNX Runtime's message, without its source positions."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0].split("] : ")[-1].strip()


TARGET = QnnTarget()
