"""Core ML: ML programs for iPhone, iPad and Mac, translated from the ONNX graph on any machine.

Except on a Mac, an artifact is opened on a simulator, which is valid for fidelity only (docs/how-to/coreml.md).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from effbench.deploy import Converted, Session, Target
from effbench.errors import DataError, MissingDependencyError, UsageError
from effbench.schema import Artifact

ENTRY = "model.mlpackage"
INPUTS = ("tensor", "image")


def _needs_coremltools() -> MissingDependencyError | None:
    return None if find_spec("coremltools") else MissingDependencyError("Target 'coreml'", "coremltools", "coreml")


class CoreMLTarget(Target):
    """Core ML, through coremltools and effbench's translator of ONNX graphs."""

    name = "coreml"
    title = "Core ML"
    extra = "coreml"
    packages = ("coremltools",)
    precision = "fp16"
    options: Mapping[str, str] = {
        "deployment_target": "oldest system to run on: iOS15, iOS16, iOS17 or iOS18; default iOS16, iOS17 if quantized",
        "input": "tensor (default), or image: an image of 0 ... 255, with the model's normalization in the package",
        "labels": "a text file with one class label per line; the package then outputs the best label",
        "units": "on a Mac: ALL (default), CPU_ONLY, CPU_AND_GPU or CPU_AND_NE",
        "accumulate": "except on a Mac: accumulation type of simulated half precision, float32 (default) or float16",
    }
    checks: tuple[Mapping[str, str], ...] = ({"accumulate": "float32"}, {"accumulate": "float16"})
    """Fidelity is checked with both accumulation types of the simulator; a faithful artifact passes both."""
    refuses: Mapping[str, str] = {"a16w8": "ML programs quantize activations to 8 bits only"}

    def measurable(self) -> str | None:
        """Return None if a latency can be measured here: on macOS only."""
        if sys.platform != "darwin":
            return "Core ML runs on Apple's systems only; here an artifact is written and its fidelity simulated"
        return self.available()

    def simulates(self) -> bool:
        """Return whether a package is opened on the simulator: everywhere except on macOS."""
        return sys.platform != "darwin"

    def kept_compiled(self, options: Mapping[str, str]) -> str:
        """Return that macOS keeps what it compiled for its units; only the system may remove that."""
        return "what macOS compiled for the Neural Engine and the GPU" if sys.platform == "darwin" else ""

    def convert(self, graph: Artifact, out: Path, options: Mapping[str, str]) -> Converted:
        """Translate the graph into an ML program of the same precision.

        Raises:
            ConversionError: An operator, or its attributes, cannot be translated.
            MissingDependencyError: coremltools is not installed.
            UsageError: An option's value is invalid.
        """
        if missing := _needs_coremltools():
            raise missing
        from effbench.deploy.graph import onnx_file
        from effbench.deploy.targets.coreml.convert import convert
        from effbench.deploy.targets.coreml.package import read
        from effbench.deploy.targets.coreml.session import compute_precision

        model = onnx_file.load(graph.path)
        settings = _package_options(options, graph)
        convert(model, out / ENTRY, settings)
        package = read(out / ENTRY)
        return Converted(
            ENTRY,
            graph.subject.storage_precision,
            placement={"opset": package.opset, "operations": package.count(), "declared": compute_precision(package)},
            notes=("image input",) if settings.image else (),
        )

    def open(self, artifact: Artifact, threads: int, options: Mapping[str, str]) -> Session:
        """Load a package in Core ML on a Mac, elsewhere in the simulator."""
        if missing := _needs_coremltools():
            raise missing
        from effbench.deploy.targets.coreml.session import CoreMLSession, MilSession

        if sys.platform == "darwin":
            return CoreMLSession(artifact.path, options.get("units", "ALL"))
        return MilSession(artifact.path, threads, options.get("accumulate", "float32"))


def _package_options(options: Mapping[str, str], graph: Artifact) -> Any:
    from effbench.deploy.targets.coreml.convert import Options

    kind = options.get("input", "tensor")
    if kind not in INPUTS:
        raise UsageError(f"Unknown input '{kind}'.", hint=f"Valid: {', '.join(INPUTS)}.")
    if kind == "image" and graph.preprocessing.assumed:
        raise UsageError(
            f"An image input holds the preprocessing, and nobody declared that of {graph.subject.model}.",
            hint='effbench.toml: [model."FILE.onnx"] preprocessing = {mean = [...], std = [...], scale = ...}',
        )
    labels = _read_labels(Path(options["labels"])) if "labels" in options else ()
    return Options(options.get("deployment_target"), kind == "image", labels, graph.preprocessing)


def _read_labels(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as class labels ({error}).") from error
    return tuple(line.strip() for line in lines if line.strip())


TARGET = CoreMLTarget()
