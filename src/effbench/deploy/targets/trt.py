"""TensorRT (Jetson, data center, workstation): built on the device; elsewhere `convert` writes a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from effbench.boundary.names import cache_file
from effbench.deploy import Converted, Session, installed
from effbench.deploy.targets.tensorrt.library import TENSORRT
from effbench.deploy.targets.tensorrt.target import EngineTarget
from effbench.errors import MissingDependencyError, UnavailableError, UsageError
from effbench.schema import Artifact


class TensorRtTarget(EngineTarget):
    """TensorRT. If it or a GPU is missing, `convert` writes a bundle, from which the device builds the engine."""

    name = "trt"
    title = "TensorRT"
    extra = "trt"
    packages = ("tensorrt",)
    modules = ("tensorrt",)
    options: Mapping[str, str] = {
        **EngineTarget.options,
        "dla": "DLA core of an Orin to place layers on: 0 or 1; default none",
        "fallback": "set by --allow-fallback: yes runs layers that the DLA does not support on the GPU; default no",
        "timing_cache": "the name of a file in effbench's cache for kernel timings of earlier builds on this device",
    }

    def available(self) -> str | None:
        """Return None if `convert` can write a bundle here: it needs the package onnx, neither TensorRT nor a GPU."""
        return None if installed("onnx") else "the package 'onnx' is not installed"

    def measurable(self) -> str | None:
        """Return None if a latency can be measured here: with TensorRT and an NVIDIA GPU."""
        from effbench.deploy.targets.tensorrt import bundle

        return bundle.missing()

    def convert(self, graph: Artifact, out: Path, options: Mapping[str, str]) -> Converted:
        """Build the engine if TensorRT and a GPU are here, else write a bundle for the device to finish.

        Raises:
            ConversionError: TensorRT refuses the graph.
            UsageError: An option's value is invalid.
        """
        from effbench.deploy.graph import onnx_file
        from effbench.deploy.targets.tensorrt import build, bundle, rewrite

        check_options(options)
        shapes = build.shapes_of(graph, options)
        model = onnx_file.infer_shapes(onnx_file.load(graph.path), graph.name)
        rewritten = rewrite.unsqueeze_sums_by_reshape(model)
        serialized = model.SerializeToString()
        recipe = bundle.write(graph, serialized, shapes, options, out)
        preflight = recipe["preflight"]
        placement = {"preflight": preflight, "sums_rewritten": rewritten}
        precision = graph.subject.storage_precision
        reason = bundle.missing()
        if reason is not None:
            notes = [f"unfinished: {reason}; on the device that runs it: {bundle.COMMAND}"]
            if preflight["outcome"] == build.REFUSED:
                notes.append(f"{preflight['parser']} refused the graph: {preflight['reason']}")
            return Converted(bundle.MODEL, precision, None, {**placement, "finished": False}, tuple(notes))
        engine = bundle.build_engine(serialized, shapes, options, out, _timings(options))
        placement |= {**engine.record, "network": engine.network, "finished": True, **bundle.units(engine)}
        return Converted(bundle.ENGINE, precision, build.compute_precision(engine.network), placement)

    def open(self, artifact: Artifact, threads: int, options: Mapping[str, str]) -> Session:
        """Load a finished engine onto the GPU.

        Raises:
            UnavailableError: It is an unfinished bundle, there is no GPU, or another version or GPU built it.
        """
        from effbench.deploy.targets.tensorrt import bundle
        from effbench.deploy.targets.tensorrt.session import TensorRtSession

        if artifact.entry != bundle.ENGINE:
            raise UnavailableError(
                f"{artifact.name} is a bundle; its engine is built on the device that runs it.", hint=bundle.COMMAND
            )
        if TENSORRT.missing():
            raise MissingDependencyError(self.title, TENSORRT.package, self.extra)
        return TensorRtSession(TENSORRT, artifact)

    def finish(self, folder: Path, home: Path, options: Mapping[str, str]) -> Artifact:
        """Build a bundle's engine on this device; arguments and errors as in `tensorrt.bundle.finish`."""
        from effbench.deploy.targets.tensorrt import bundle

        return bundle.finish(folder, home, _timings(options))


def _timings(options: Mapping[str, str]) -> Path | None:
    """Return the file of kernel timings; a manifest can name one too, so it lies in the cache under any name."""
    return cache_file("timing_cache", options["timing_cache"]) if "timing_cache" in options else None


def check_options(options: Mapping[str, str]) -> None:
    """Refuse invalid values on the workstation, before the bundle is on the device.

    Raises:
        UsageError: With the valid values.
    """
    for key, allowed in (("dla", ("0", "1")), ("fallback", ("yes", "no"))):
        if key in options and options[key] not in allowed:
            raise UsageError(f"{key}={options[key]} is not one of {', '.join(allowed)}.")


TARGET = TensorRtTarget()
