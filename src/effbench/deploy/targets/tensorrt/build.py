"""ONNX -> engine, the same steps for both libraries: strongly typed, TF32 off, dynamic only where the graph is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effbench.deploy.targets.tensorrt.library import Library, logger
from effbench.errors import ConversionError, DataError, UsageError
from effbench.schema import Artifact, TensorSpec

Shape = tuple[int, ...]
Profile = Mapping[str, tuple[Shape, Shape, Shape]]


@dataclass(frozen=True)
class Engine:
    """A serialized engine and what was known of it when it was built."""

    plan: bytes
    network: dict[str, Any]
    record: dict[str, Any] = field(default_factory=dict)


def parse(library: Library, model: bytes) -> tuple[Any, Any, Any, Any]:
    """Parse an ONNX model into a strongly typed network; returns builder, network, parser and logger, all to be kept.

    Raises:
        ConversionError: The parser refuses the model; carries the node and the operator.
    """
    trt = library.load()
    log = logger(trt)
    builder = trt.Builder(log)
    # TensorRT 10 has to be asked for strong typing; 11 and TensorRT for RTX know nothing else and may drop the flag.
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        if not errors:
            raise ConversionError(f"{library.title} parser", log.last_error())
        first = errors[0]
        raise ConversionError(
            f"{library.title} parser", first.desc(), node=first.node_name() or None, op=first.node_operator() or None
        )
    return builder, network, parser, log


def describe(trt: Any, network: Any) -> dict[str, Any]:
    """Count the layers of a parsed network by kind and by the type they compute in.

    This is the network as it was parsed, before any layer is fused; strong typing binds the compiler to its types.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    kinds = Counter(layer.type.name.lower() for layer in layers)
    heavy = {"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM", "FULLY_CONNECTED"}
    types = Counter(layer.get_output(0).dtype.name.lower() for layer in layers if layer.type.name in heavy)
    quantized = kinds["dequantize"] > 0
    return {"layers": len(layers), "by_kind": dict(sorted(kinds.items())), "products": dict(types), "qdq": quantized}


def compute_precision(network: Mapping[str, Any]) -> str | None:
    """Return what products compute in, from `describe`: the lowest of int8, fp16 and fp32; None with other types."""
    products = set(network["products"])
    if not products <= {"float", "half"}:
        return None
    if network["qdq"]:
        return "int8"
    return "fp16" if "half" in products else "fp32"


def profile(
    inputs: Sequence[TensorSpec], batch: Sequence[int], sides: Sequence[int], resolution: tuple[int, int]
) -> Profile:
    """Return min, opt and max shapes of every open input; empty where the graph is static.

    Args:
        inputs: Of the graph; an open dimension is None.
        batch: Smallest, usual and largest batch.
        sides: Smallest, usual and largest side of an image whose size is open; empty takes ``resolution``.
        resolution: Height and width the model was exported at.

    Raises:
        UsageError: ``sides`` for a graph of fixed size.
    """
    found: dict[str, tuple[Shape, Shape, Shape]] = {}
    for spec in inputs:
        free = [axis for axis, side in enumerate(spec.shape) if side is None]
        if sides and not set(free) & {2, 3}:
            raise UsageError(
                f"A profile of sizes is for graphs whose size is open; '{spec.name}' is {list(spec.shape)}.",
                hint="Export once per resolution instead.",
            )
        if free:
            usual = (1, 1, *resolution)
            low, middle, high = (
                tuple(_side(spec.shape, axis, usual, batch[pick], sides[pick] if sides else None) for axis in range(4))
                for pick in range(3)
            )
            found[spec.name] = (low, middle, high)
    return found


def _side(shape: Sequence[int | None], axis: int, usual: Shape, batch: int, open_side: int | None) -> int:
    side = shape[axis]
    if side is not None:
        return side
    return batch if axis == 0 else open_side or usual[axis]


def shapes_of(graph: Artifact, options: Mapping[str, str]) -> Profile:
    """Return the shape profile that a target's options ask for; empty for a static graph.

    Raises:
        UsageError: An option's value means nothing, or sizes are given for a graph of fixed size.
    """
    sides = triple(options["sides"], "sides") if "sides" in options else ()
    batch = triple(options.get("batch", "1:1:8"), "batch")
    return profile(graph.inputs, batch, sides, graph.subject.resolution)


def triple(text: str, what: str) -> tuple[int, int, int]:
    """Read ``1:4:8`` as smallest, usual and largest.

    Raises:
        UsageError: It is not three growing positive numbers.
    """
    parts = text.split(":")
    if len(parts) == 3 and all(part.isdecimal() for part in parts):
        low, usual, high = (int(part) for part in parts)
        if 0 < low <= usual <= high:
            return low, usual, high
    raise UsageError(f"{what}={text} is not smallest:usual:largest.", hint=f"Write it like {what}=1:4:8.")


def build(
    library: Library,
    model: bytes,
    shapes: Profile,
    configure: Callable[[Any, Any, Any, Any], dict[str, Any]],
    conclude: Callable[[Any], None] = lambda config: None,
) -> Engine:
    """Build an engine.

    Args:
        library: Which of the two.
        model: The ONNX model, serialized, precision inside.
        shapes: From `profile`.
        configure: Gets the module, builder, network and builder configuration, sets what only that library knows and
            returns what is worth recording.
        conclude: Gets the configuration after a successful build.

    Raises:
        ConversionError: The parser or the builder refuses it, in the library's own words.
    """
    trt = library.load()
    builder, network, parser, log = parse(library, model)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # On by default, and it would let fp32 products be computed with 10 bits of mantissa.
    config.clear_flag(trt.BuilderFlag.TF32)
    if shapes:
        optimization = builder.create_optimization_profile()
        for name, (low, usual, high) in shapes.items():
            optimization.set_shape(name, low, usual, high)
        if config.add_optimization_profile(optimization) < 0:
            raise ConversionError(f"{library.title} builder", f"refuses the profile {dict(shapes)}: {log.last_error()}")
    record = configure(trt, builder, network, config)
    record["tf32"] = bool(config.get_flag(trt.BuilderFlag.TF32))
    parsed = describe(trt, network)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ConversionError(f"{library.title} builder", log.last_error().splitlines()[0])
    conclude(config)
    del parser  # the network reads the weights from the parser's memory until the engine is built
    return Engine(bytes(plan), parsed, record)


def preflight(library: Library, model: bytes) -> dict[str, Any]:
    """Ask a parser whether it takes the model, and say whose parser it was; an answer, never an error.

    The parser of TensorRT for RTX shares its sources with TensorRT's, but its *yes* is not TensorRT's.
    """
    if library.missing() is not None:
        return {"parser": "none", "outcome": f"not run: {library.missing()}"}
    name = f"{library.title} {library.load().__version__}"
    try:
        parse(library, model)
    except ConversionError as error:
        return {"parser": name, "outcome": f"refused: {error.message}"}
    return {"parser": name, "outcome": "accepted"}


def read_model(path: Path) -> bytes:
    """Return an ONNX file as it is.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}.") from error
