"""ONNX Runtime: runs the ONNX graph without conversion."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from effbench.deploy import Array, Converted, Session, Target, Traced
from effbench.deploy.artifact.placement import record
from effbench.deploy.graph.onnx_file import reason
from effbench.errors import ConversionError, MissingDependencyError, UnavailableError
from effbench.schema import Artifact

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
PROVIDER_OPTIONS: dict[str, dict[str, str]] = {CUDA: {"use_tf32": "0"}}
"""By default the CUDA provider computes fp32 products in TF32, with 10 bits of mantissa."""


class OrtSession(Session):
    """An ONNX Runtime session; ``run`` returns host arrays."""

    def __init__(self, artifact: Artifact, threads: int, provider: str) -> None:
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise MissingDependencyError("Target 'ort'", "onnxruntime", "ort") from error
        from effbench.deploy.graph.run_ort import session_options

        if provider not in ort.get_available_providers():
            available = ", ".join(ort.get_available_providers())
            raise UnavailableError(f"ONNX Runtime here has no {provider}.", hint=f"It has {available}.")
        options = session_options(threads)
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            self._session = ort.InferenceSession(
                str(artifact.path), options, providers=[(provider, PROVIDER_OPTIONS.get(provider, {}))]
            )
        except Exception as error:
            # The exception classes of onnxruntime share no public base class.
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
        try:
            outputs = self._run(None, feeds)
        except Exception as error:  # the exception classes of onnxruntime share no public base class
            raise ConversionError("onnxruntime run", reason(error)) from error
        return dict(zip(self._names, outputs, strict=True))

    def placement(self) -> dict[str, Any]:
        """Return the execution providers in use and how many operators each of them runs.

        Below fp32 the heavy operators are counted by the type they compute in, which gives the compute precision.

        Raises:
            UnavailableError: The provider is not the CPU's, and this ONNX Runtime does not report the assignment.
        """
        placement: dict[str, Any] = {"providers": self._session.get_providers()}
        if self.compute_precision is None and find_spec("onnx"):
            from effbench.deploy.graph.run_ort import heavy_by_precision

            counts = placement["heavy_operators_by_precision"] = heavy_by_precision(self._path, self.provider)
            self.compute_precision = max(counts, key=lambda name: counts[name]) if counts else None
        if not hasattr(self._session, "get_provider_graph_assignment_info"):
            # An older ONNX Runtime does not report the assignment; with the CPU provider there is only one unit.
            if self.provider != CPU:
                raise UnavailableError(
                    "This ONNX Runtime does not report which operators run on its provider.",
                    hint="Update onnxruntime: without that report, a fallback to the CPU is not detected.",
                )
            return placement
        partitions = self._session.get_provider_graph_assignment_info()
        units: Counter[str] = Counter()
        for partition in partitions:
            units[partition.ep_name.removesuffix("ExecutionProvider")] += len(partition.get_nodes())
        single = len(units) < 2
        parts, copies = (1, 0) if single else (len(partitions), None)
        requested = self.provider.removesuffix("ExecutionProvider")
        counts = dict(sorted(units.items()))
        return {**placement, **record(counts, partitions=parts, copies=copies, requested=requested)}

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

    def traced(self, artifact: Artifact, options: Mapping[str, str], tensors: Sequence[str]) -> Traced | None:
        """Make the tensors outputs of the graph; on the CPU only."""
        from effbench.deploy.graph import onnx_file
        from effbench.deploy.graph.run_ort import runner

        if options.get("provider", CPU) != CPU:
            return None
        return runner(onnx_file.load(artifact.path), tensors)


TARGET = OrtTarget()
