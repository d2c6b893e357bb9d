"""A target in one file: the reference evaluator of the ``onnx`` package, which is slow.

In this repository it would be ``src/effbench/deploy/targets/NAME.py``. In your own package, name it under an entry
point instead:

    [project.entry-points."effbench.targets"]
    onnx-ref = "mypackage.target:TARGET"
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effbench.deploy import Array, Converted, Session, Target
from effbench.errors import MissingDependencyError
from effbench.schema import Artifact


class OnnxReferenceSession(Session):
    """A loaded artifact; a call returns only when its outputs are host arrays."""

    compute_precision = "fp32"

    def __init__(self, path: Path) -> None:
        # Imported inside the function, so that listing the targets does not load it.
        try:
            from onnx.reference import ReferenceEvaluator
        except ImportError as error:
            raise MissingDependencyError("Target 'onnx-ref'", "onnx", "ort") from error
        self._evaluator = ReferenceEvaluator(str(path))

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once; numpy is synchronous, so the outputs are ready."""
        return dict(zip(self._evaluator.output_names, self._evaluator.run(None, dict(feeds)), strict=True))

    def placement(self) -> dict[str, Any]:
        """Return the units that run the operators; here all run in numpy."""
        return {"evaluator": "numpy"}

    def close(self) -> None:
        """Free the evaluator."""
        del self._evaluator


class OnnxReference(Target):
    """Copy the graph, then load it; members that are not set here have the defaults of `Target`."""

    name = "onnx-ref"
    title = "ONNX reference evaluator"
    extra = "ort"
    packages = ("onnx",)

    def convert(self, graph: Artifact, out: Path, options: Mapping[str, str]) -> Converted:
        """Translate the graph into files below ``out``; heavy, on the workstation."""
        shutil.copyfile(graph.path, out / "model.onnx")
        return Converted("model.onnx", graph.subject.storage_precision)

    def open(self, artifact: Artifact, threads: int, options: Mapping[str, str]) -> Session:
        """Load an artifact; light, on the device: needs numpy, the standard library and the runtime alone."""
        return OnnxReferenceSession(artifact.path)


TARGET = OnnxReference()
