"""ONNX -> engine, the same steps for both libraries: strongly typed, TF32 off, dynamic only if the graph is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effbench.deploy.targets.tensorrt.library import Library, logger
from effbench.errors import ConversionError, DataError, UsageError
from effbench.schema import Artifact, TensorSpec

ACCEPTED, REFUSED, NOT_RUN = "accepted", "refused", "not run"
"""The outcomes of `preflight`."""

Shape = tuple[int, ...]
Profile = Mapping[str, tuple[Shape, Shape, Shape]]


@dataclass(frozen=True)
class Engine:
    """A serialized engine, its parsed network, and what is recorded of its build."""

    plan: bytes
    network: dict[str, Any]
    record: dict[str, Any] = field(default_factory=dict)


def parse(library: Library, model: bytes) -> tuple[Any, Any, Any, Any]:
    """Parse an ONNX model into a strongly typed network.

    Returns:
        Builder, network, parser and logger; all of them must live until the engine is built.

    Raises:
        ConversionError: The parser refuses the model; carries the node and the operator.
    """
    trt = library.load()
    log = logger(trt)
    builder = trt.Builder(log)
    # TensorRT 10 needs a flag for strong typing; in 11 and in TensorRT for RTX it is the only mode.
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

    Layers are counted before any fusion; strong typing binds the compiler to their types.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    kinds = Counter(layer.type.name.lower() for layer in layers)
    heavy = {"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM", "FULLY_CONNECTED"}
    types = Counter(layer.get_output(0).dtype.name.lower() for layer in layers if layer.type.name in heavy)
    quantized = kinds["dequantize"] > 0
    return {"layers": len(layers), "by_kind": dict(sorted(kinds.items())), "products": dict(types), "qdq": quantized}


def compute_precision(network: Mapping[str, Any]) -> str | None:
    """Return the precision of products and convolutions, from `describe`; None for other types than fp32 and fp16."""
    products = set(network["products"])
    if not products <= {"float", "half"}:
        return None
    if network["qdq"]:
        return "int8"
    return "fp16" if "half" in products else "fp32"


def profile(
    inputs: Sequence[TensorSpec], batch: Sequence[int], sizes: Sequence[int], resolution: tuple[int, int] | None
) -> Profile:
    """Return min, opt and max shapes of every open input; empty where the graph is static.

    Args:
        inputs: Inputs of the graph; an open dimension is None.
        batch: Smallest, usual and largest batch.
        sizes: Smallest, usual and largest height and width of an image of open size; empty takes ``resolution``.
        resolution: Height and width the model was exported at; None if no input is an image.

    Raises:
        UsageError: ``sizes`` for a graph of fixed size.
    """
    shapes: dict[str, tuple[Shape, Shape, Shape]] = {}
    for spec in inputs:
        free = [axis for axis, size in enumerate(spec.shape) if size is None]
        if sizes and not set(free) & {2, 3}:
            raise UsageError(
                f"A profile of image sizes needs a graph of open size; '{spec.name}' is {list(spec.shape)}.",
                hint="Export once per resolution instead.",
            )
        if free:
            usual = (1, 1, *(resolution or ()))
            low, middle, high = (
                tuple(
                    _size(spec.shape, axis, usual, batch[index], sizes[index] if sizes else None) for axis in range(4)
                )
                for index in range(3)
            )
            shapes[spec.name] = (low, middle, high)
    return shapes


def _size(shape: Sequence[int | None], axis: int, usual: Shape, batch: int, open_size: int | None) -> int:
    size = shape[axis]
    if size is not None:
        return size
    return batch if axis == 0 else open_size or usual[axis]


def shapes_of(graph: Artifact, options: Mapping[str, str]) -> Profile:
    """Return the shape profile that a target's options describe; empty for a static graph.

    Raises:
        UsageError: An option's value is invalid, or sizes are set for a graph of fixed size.
    """
    sizes = parse_triple(options["size"], "size") if "size" in options else ()
    batch = parse_triple(options.get("batch", "1:1:8"), "batch")
    return profile(graph.inputs, batch, sizes, graph.subject.resolution)


def parse_triple(text: str, option: str) -> tuple[int, int, int]:
    """Parse ``1:4:8`` into smallest, usual and largest.

    Raises:
        UsageError: It is not three positive numbers in ascending order.
    """
    parts = text.split(":")
    if len(parts) == 3 and all(part.isdecimal() for part in parts):
        low, usual, high = (int(part) for part in parts)
        if 0 < low <= usual <= high:
            return low, usual, high
    raise UsageError(f"{option}={text} is not smallest:usual:largest.", hint=f"Write it like {option}=1:4:8.")


def build(
    library: Library,
    model: bytes,
    shapes: Profile,
    configure: Callable[[Any, Any, Any, Any], dict[str, Any]],
    conclude: Callable[[Any], None] = lambda config: None,
) -> Engine:
    """Build an engine.

    Args:
        library: TensorRT or TensorRT for RTX.
        model: The serialized ONNX model, precision inside.
        shapes: From `profile`.
        configure: Takes the module, builder, network and builder configuration, sets the options of that library only
            and returns what to record.
        conclude: Takes the configuration after a successful build.

    Raises:
        ConversionError: The parser or the builder refuses the model; carries the library's message.
    """
    trt = library.load()
    builder, network, parser, log = parse(library, model)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # TF32 is on by default, and computes fp32 products with 10 bits of mantissa.
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
    """Parse a model without building it; a refusal is an outcome and raises nothing.

    The parser of TensorRT for RTX shares its sources with TensorRT's, but may accept what TensorRT refuses.

    Returns:
        ``parser`` (library and version, or ``none``), ``outcome``, and the ``reason`` unless it was accepted.
    """
    reason = library.missing()
    if reason is not None:
        return {"parser": "none", "outcome": NOT_RUN, "reason": reason}
    name = f"{library.title} {library.load().__version__}"
    try:
        parse(library, model)
    except ConversionError as error:
        return {"parser": name, "outcome": REFUSED, "reason": error.message}
    return {"parser": name, "outcome": ACCEPTED}


def read_model(path: Path) -> bytes:
    """Return the content of an ONNX file.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}.") from error
