"""TensorRT for RTX: engines for desktop GPUs, built ahead of time on any machine, with or without one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effbench.deploy import Converted, Session, Target
from effbench.deploy.artifact.placement import record
from effbench.deploy.targets.tensorrt import build, cuda
from effbench.deploy.targets.tensorrt.build import Engine, Profile
from effbench.deploy.targets.tensorrt.library import RTX
from effbench.errors import ConversionError, UsageError
from effbench.schema import Artifact

ENTRY = "model.engine"
TURING = "75"


class RtxTarget(Target):
    """TensorRT for RTX. Its engines are not TensorRT's: neither library loads the other's."""

    name = "trt-rtx"
    title = "TensorRT for RTX"
    extra = "trt-rtx"
    packages = ("tensorrt-rtx-cu13",)
    modules = ("tensorrt_rtx",)
    precision = "fp16"
    options: Mapping[str, str] = {
        "cc": "compute capabilities to build for: all (default), or some of 75,80,86,89,120,121",
        "batch": "smallest:usual:largest batch of a graph whose batch is open; default 1:1:8",
        "sides": "smallest:usual:largest image side of a graph whose size is open",
        "runtime_cache": "when it is opened: a file that keeps the kernels compiled on this GPU",
    }
    refuses: Mapping[str, str] = {"a16w8": "TensorRT has no 16-bit integers"}

    def available(self) -> str | None:
        """Tell whether engines can be built here: wherever the library is installed, GPU or not."""
        return RTX.missing()

    def measurable(self) -> str | None:
        """Tell whether a latency can be measured here: with an NVIDIA GPU that answers."""
        return RTX.missing() or cuda.missing()

    def convert(self, graph: Artifact, out: Path, options: Mapping[str, str]) -> Converted:
        """Build one engine for the stated compute capabilities, strongly typed.

        Raises:
            ConversionError: The parser or the builder refuses the graph.
            UsageError: An option's value means nothing to the installed version.
        """
        from effbench.deploy.graph import onnx_file
        from effbench.deploy.targets.tensorrt import rewrite

        shapes = build.shapes_of(graph, options)
        asked = options.get("cc", "all")
        chosen = capabilities(RTX.load(), asked)
        model = onnx_file.infer_shapes(onnx_file.load(graph.path), graph.name)
        rewritten = rewrite.settle_sums(model)
        plain = model.SerializeToString()
        notes: tuple[str, ...] = ()
        try:
            made = _built(plain, shapes, chosen)
        except ConversionError as error:
            # Turing lacks what every newer GPU has (fp32 products, for one); `all` then means all the others.
            if asked != "all" or TURING not in chosen or f"SM{TURING}" not in error.message:
                raise
            chosen.remove(TURING)
            made = _built(plain, shapes, chosen)
            notes = (f"no engine for compute capability {TURING}: {error.message}",)
        (out / ENTRY).write_bytes(made.plan)
        placement = {**RTX.identity(), **made.record, "network": made.network, "sums_rewritten": rewritten}
        placement |= record({"GPU": made.network["layers"]}, wanted="GPU")
        (out / "network.json").write_text(json.dumps(placement, indent=1) + "\n")
        precision = build.compute_precision(made.network)
        return Converted(ENTRY, graph.subject.storage_precision, precision, placement, notes)

    def open(self, artifact: Artifact, threads: int, options: Mapping[str, str]) -> Session:
        """Load an engine onto the GPU.

        Raises:
            DataError: The engine is damaged.
            UnavailableError: No GPU answers, or the engine was built by another version or for other GPUs.
        """
        from effbench.deploy.targets.tensorrt.session import TensorRtSession

        path = options.get("runtime_cache")
        return TensorRtSession(RTX, artifact, Path(path) if path else None)


def _built(model: bytes, shapes: Profile, chosen: list[str]) -> Engine:
    def configure(trt: Any, builder: Any, network: Any, config: Any) -> dict[str, Any]:
        config.num_compute_capabilities = len(chosen)
        for index, capability in enumerate(chosen):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability}"), index)
        return {"compute_capabilities": list(chosen)}

    return build.build(RTX, model, shapes, configure)


def capabilities(trt: Any, text: str) -> list[str]:
    """Read ``all`` or ``80,89`` as compute capabilities that the installed library builds for.

    Raises:
        UsageError: It builds for none of that name.
    """
    known = sorted((name[2:] for name in trt.ComputeCapability.__members__ if name.startswith("SM")), key=int)
    if text == "all":
        return known
    chosen = [part.strip().replace(".", "") for part in text.split(",")]
    for capability in chosen:
        if capability not in known:
            raise UsageError(
                f"TensorRT for RTX {trt.__version__} builds no engine for compute capability '{capability}'.",
                hint=f"It builds for {', '.join(known)}, or all of them. Other GPUs are TensorRT's: --target trt",
            )
    return sorted(set(chosen), key=int)


TARGET = RtxTarget()
