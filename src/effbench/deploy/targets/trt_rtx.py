"""TensorRT for RTX: engines for desktop GPUs, built ahead of time on any machine, with or without one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effbench.boundary.names import cache_file
from effbench.deploy import Converted, Session
from effbench.deploy.artifact.placement import record
from effbench.deploy.targets.tensorrt import build, cuda
from effbench.deploy.targets.tensorrt.build import Engine, Profile
from effbench.deploy.targets.tensorrt.library import RTX
from effbench.deploy.targets.tensorrt.target import EngineTarget
from effbench.errors import ConversionError, UsageError
from effbench.schema import Artifact

ENTRY = "model.engine"
TURING = "75"


class RtxTarget(EngineTarget):
    """TensorRT for RTX. Neither this library nor TensorRT loads the engines of the other."""

    name = "trt-rtx"
    title = "TensorRT for RTX"
    extra = "trt-rtx"
    packages = ("tensorrt-rtx-cu13",)
    modules = ("tensorrt_rtx",)
    options: Mapping[str, str] = {
        "cc": "compute capabilities to build for: all (default), or some of 75,80,86,89,120,121",
        **EngineTarget.options,
        "runtime_cache": "when it is opened: the name of a file in effbench's cache for kernels compiled on this GPU",
    }

    def available(self) -> str | None:
        """Return None if engines can be built here: wherever the library is installed, with or without a GPU."""
        return RTX.missing()

    def measurable(self) -> str | None:
        """Return None if a latency can be measured here: with an NVIDIA GPU."""
        return RTX.missing() or cuda.missing()

    def kept_compiled(self, options: Mapping[str, str]) -> str:
        """Return that kernels of earlier starts are kept, if the options name a file for them."""
        return "the kernels compiled for this GPU (runtime_cache)" if options.get("runtime_cache") else ""

    def convert(self, graph: Artifact, out: Path, options: Mapping[str, str]) -> Converted:
        """Build one engine for the stated compute capabilities, strongly typed.

        Raises:
            ConversionError: The parser or the builder refuses the graph.
            UsageError: An option's value is invalid for the installed version.
        """
        from effbench.deploy.graph import onnx_file
        from effbench.deploy.targets.tensorrt import rewrite

        shapes = build.shapes_of(graph, options)
        requested = options.get("cc", "all")
        selected = capabilities(RTX.load(), requested)
        model = onnx_file.infer_shapes(onnx_file.load(graph.path), graph.name)
        rewritten = rewrite.unsqueeze_sums_by_reshape(model)
        serialized = model.SerializeToString()
        notes: tuple[str, ...] = ()
        try:
            engine = _build(serialized, shapes, selected)
        except ConversionError as error:
            if requested != "all":
                raise
            engine, notes = _without_turing(serialized, shapes, selected, error)
        (out / ENTRY).write_bytes(engine.plan)
        placement = {**RTX.identity(), **engine.record, "network": engine.network, "sums_rewritten": rewritten}
        placement |= record({"GPU": engine.network["layers"]}, requested="GPU")
        (out / "network.json").write_text(json.dumps(placement, indent=1) + "\n")
        precision = build.compute_precision(engine.network)
        return Converted(ENTRY, graph.subject.storage_precision, precision, placement, notes)

    def open(self, artifact: Artifact, threads: int, options: Mapping[str, str]) -> Session:
        """Load an engine onto the GPU.

        Raises:
            DataError: The engine is damaged.
            UnavailableError: There is no GPU, or the engine was built by another version or for other GPUs.
        """
        from effbench.deploy.targets.tensorrt.session import TensorRtSession

        name = options.get("runtime_cache")
        return TensorRtSession(RTX, artifact, cache_file("runtime_cache", name) if name else None)


def _without_turing(
    model: bytes, shapes: Profile, selected: list[str], error: ConversionError
) -> tuple[Engine, tuple[str, ...]]:
    """Build for all GPUs but Turing, which lacks features of every newer one (fp32 products, for one).

    Returns:
        The engine, and a note of the error that Turing caused.

    Raises:
        ConversionError: The given one, as Turing was not its cause.
    """
    newer = [capability for capability in selected if capability != TURING]
    if len(newer) == len(selected):
        raise error
    try:
        engine = _build(model, shapes, newer)
    except ConversionError:
        raise error from None
    return engine, (f"no engine for compute capability {TURING}: {error.message}",)


def _build(model: bytes, shapes: Profile, selected: list[str]) -> Engine:
    def configure(trt: Any, builder: Any, network: Any, config: Any) -> dict[str, Any]:
        config.num_compute_capabilities = len(selected)
        for index, capability in enumerate(selected):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability}"), index)
        return {"compute_capabilities": list(selected)}

    return build.build(RTX, model, shapes, configure)


def capabilities(trt: Any, text: str) -> list[str]:
    """Parse ``all`` or ``80,89`` into compute capabilities that the installed library builds for.

    Raises:
        UsageError: The library does not build for one of them.
    """
    known = sorted((name[2:] for name in trt.ComputeCapability.__members__ if name.startswith("SM")), key=int)
    if text == "all":
        return known
    selected = [part.strip().replace(".", "") for part in text.split(",")]
    for capability in selected:
        if capability not in known:
            raise UsageError(
                f"TensorRT for RTX {trt.__version__} builds no engine for compute capability '{capability}'.",
                hint=f"It builds for {', '.join(known)}, or all of them. For other GPUs: --target trt",
            )
    return sorted(set(selected), key=int)


TARGET = RtxTarget()
