"""TensorRT (Jetson, data center, workstation): built on the device that runs it; elsewhere a checked bundle is left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from effbench.deploy import Converted, Session, Target
from effbench.deploy.targets.tensorrt.library import TENSORRT
from effbench.errors import MissingDependencyError, UnavailableError, UsageError
from effbench.schema import Artifact


class TensorRtTarget(Target):
    """TensorRT. Where it or a GPU is missing, `convert` leaves what the device needs to build the engine itself."""

    name = "trt"
    title = "TensorRT"
    extra = "trt"
    packages = ("tensorrt",)
    modules = ("tensorrt",)
    precision = "fp16"
    options: Mapping[str, str] = {
        "batch": "smallest:usual:largest batch of a graph whose batch is open; default 1:1:8",
        "sides": "smallest:usual:largest image side of a graph whose size is open",
        "dla": "DLA core of an Orin to place layers on: 0 or 1; default none",
        "fallback": "what --allow-fallback sets: yes leaves to the GPU what the DLA does not run; default no",
        "timing_cache": "a file that keeps kernel timings between builds on this device",
    }
    refuses: Mapping[str, str] = {"a16w8": "TensorRT has no 16-bit integers"}

    def available(self) -> str | None:
        """Tell whether `convert` can leave something here: it needs the package onnx, neither TensorRT nor a GPU."""
        from importlib.util import find_spec

        return None if find_spec("onnx") else "the package 'onnx' is not installed"

    def measurable(self) -> str | None:
        """Tell whether a latency can be measured here: with TensorRT and an NVIDIA GPU that answers."""
        from effbench.deploy.targets.tensorrt import bundle

        return bundle.missing()

    def convert(self, graph: Artifact, out: Path, options: Mapping[str, str]) -> Converted:
        """Build the engine where TensorRT and a GPU are here, else leave a bundle for the device to finish.

        Raises:
            ConversionError: TensorRT refuses the graph.
            UsageError: An option's value means nothing.
        """
        from effbench.deploy.graph import onnx_file
        from effbench.deploy.targets.tensorrt import build, bundle, rewrite

        check_options(options)
        shapes = build.shapes_of(graph, options)
        model = onnx_file.infer_shapes(onnx_file.load(graph.path), graph.name)
        rewritten = rewrite.settle_sums(model)
        plain = model.SerializeToString()
        recipe = bundle.leave(graph, plain, shapes, options, out)
        placement = {"preflight": recipe["preflight"], "sums_rewritten": rewritten}
        precision = graph.subject.storage_precision
        reason = bundle.missing()
        if reason is not None:
            notes = [f"unfinished: {reason}; on the device that runs it: {bundle.COMMAND}"]
            if recipe["preflight"]["outcome"].startswith("refused"):
                notes.append(f"{recipe['preflight']['parser']} {recipe['preflight']['outcome']}")
            return Converted(bundle.MODEL, precision, None, {**placement, "finished": False}, tuple(notes))
        cache = Path(options["timing_cache"]) if "timing_cache" in options else None
        made = bundle.make_engine(plain, shapes, options, out, cache)
        placement |= {**made.record, "network": made.network, "finished": True, **bundle.units(made)}
        return Converted(bundle.ENGINE, precision, build.compute_precision(made.network), placement)

    def open(self, artifact: Artifact, threads: int, options: Mapping[str, str]) -> Session:
        """Load a finished engine onto the GPU.

        Raises:
            UnavailableError: It is an unfinished bundle, no GPU answers, or another version or GPU built it.
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

        cache = Path(options["timing_cache"]) if "timing_cache" in options else None
        return bundle.finish(folder, home, cache)


def check_options(options: Mapping[str, str]) -> None:
    """Refuse values that mean nothing, on the work station rather than on the device.

    Raises:
        UsageError: With the values that are meant.
    """
    for key, allowed in (("dla", ("0", "1")), ("fallback", ("yes", "no"))):
        if key in options and options[key] not in allowed:
            raise UsageError(f"{key}={options[key]} is not one of {', '.join(allowed)}.")


TARGET = TensorRtTarget()
