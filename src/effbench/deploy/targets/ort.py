"""ONNX Runtime: runs the graph as it is."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from effbench.deploy import Array, Converted, Session, Target
from effbench.deploy.artifact.placement import record
from effbench.errors import ConversionError, MissingDependencyError, UnavailableError
from effbench.schema import Artifact

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
PROVIDER_OPTIONS: dict[str, dict[str, str]] = {CUDA: {"use_tf32": "0"}}
"""CUDA computes fp32 products with 10 bits of mantissa unless it is told not to."""


class OrtSession(Session):
    """An ONNX Runtime session behind the one promise: ``run`` returns host arrays."""

    def __init__(self, artifact: Artifact, threads: int, provider: str) -> None:
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise MissingDependencyError("Target 'ort'", "onnxruntime", "ort") from error
        if provider not in ort.get_available_providers():
            have = ", ".join(ort.get_available_providers())
            raise UnavailableError(f"ONNX Runtime here has no {provider}.", hint=f"It has {have}.")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            self._session = ort.InferenceSession(
                str(artifact.path), options, providers=[(provider, PROVIDER_OPTIONS.get(provider, {}))]
            )
        except Exception as error:
            # onnxruntime raises classes of its own that share no public root.
            raise ConversionError("onnxruntime load", str(error).splitlines()[0]) from error
        if self._session.get_providers()[0] != provider:
            raise UnavailableError(f"ONNX Runtime silently left {provider} for {self._session.get_providers()[0]}.")
        self._run = self._session.run
        self._names = [output.name for output in self._session.get_outputs()]
        self.provider = provider
        self._path = artifact.path
        self.compute_precision: str | None = "fp32" if artifact.subject.storage_precision == "fp32" else None

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once; outputs are new host arrays."""
        return dict(zip(self._names, self._run(None, feeds), strict=True))

    def placement(self) -> dict[str, Any]:
        """Name the execution providers in use; off the CPU, count which provider took how many operators.

        Below fp32 the heavy operators are counted by the type they compute in, which settles the compute precision.

        Raises:
            UnavailableError: This ONNX Runtime does not tell where operators went, off the CPU.
        """
        found: dict[str, Any] = {"providers": self._session.get_providers()}
        if self.compute_precision is None and find_spec("onnx"):
            from effbench.deploy.graph.run_ort import heavy_by_precision

            counted = found["heavy_operators_by_precision"] = heavy_by_precision(self._path, self.provider)
            self.compute_precision = max(counted, key=lambda name: counted[name]) if counted else None
        if not hasattr(self._session, "get_provider_graph_assignment_info"):
            # An older ONNX Runtime does not tell; on the CPU provider alone there is nothing to tell apart.
            if self.provider != CPU:
                raise UnavailableError(
                    "This ONNX Runtime does not tell which operators its provider took.",
                    hint="Update onnxruntime: without that, a fallback to the CPU would go unseen.",
                )
            return found
        parts = self._session.get_provider_graph_assignment_info()
        taken: Counter[str] = Counter()
        for part in parts:
            taken[part.ep_name.removesuffix("ExecutionProvider")] += len(part.get_nodes())
        alone = len(taken) < 2
        counts = {"partitions": 1 if alone else len(parts), "copies": 0 if alone else None}
        wanted = self.provider.removesuffix("ExecutionProvider")
        return {**found, **record(dict(sorted(taken.items())), wanted=wanted, **counts)}

    def close(self) -> None:
        """Free the session."""
        del self._run, self._session


class OrtTarget(Target):
    """ONNX Runtime on the CPU (or another provider by ``--set provider=``)."""

    name = "ort"
    title = "ONNX Runtime"
    extra = "ort"
    packages = ("onnxruntime",)
    precision = "fp32"
    options: Mapping[str, str] = {"provider": f"execution provider, default {CPU}; {CUDA} on an NVIDIA GPU"}

    def convert(self, graph: Artifact, out: Path, options: Mapping[str, str]) -> Converted:
        """Copy the graph: ONNX Runtime optimizes it when it loads."""
        shutil.copyfile(graph.path, out / "model.onnx")
        return Converted("model.onnx", graph.subject.storage_precision)

    def open(self, artifact: Artifact, threads: int, options: Mapping[str, str]) -> OrtSession:
        """Load the graph for inference."""
        return OrtSession(artifact, threads, options.get("provider", CPU))


TARGET = OrtTarget()
