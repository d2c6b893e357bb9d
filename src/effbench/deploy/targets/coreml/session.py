"""Sessions of Core ML artifacts: simulated in torch on any machine, run by Core ML on macOS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effbench import reading
from effbench.deploy import Array, Session
from effbench.deploy.artifact.placement import record
from effbench.deploy.targets.coreml.convert import LABEL, METADATA, pixel_scale
from effbench.deploy.targets.coreml.evaluator import Evaluator
from effbench.deploy.targets.coreml.lazy import LazyModule, ct, quiet_coremltools, torch
from effbench.deploy.targets.coreml.package import Package, read
from effbench.deploy.targets.coreml.translator.graph import Port, ports
from effbench.errors import DataError, UnavailableError, UsageError
from effbench.schema import Preprocessing, Proof

UNITS = ("ALL", "CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE")


def compute_precision(package: Package) -> str:
    """Return the precision that a program declares, from the types of its operations' outputs.

    ``fp32``, ``fp16``, or ``fp16+fp32`` with fp32 islands; casts, constants and moves do not count. ``int8`` is
    added if activations are quantized.
    """
    uncounted = ("const", "cast", "identity", "reshape", "transpose", "squeeze", "expand_dims", "quantize")
    kinds = {op.outputs[0].dtype for op in package.operations if op.outputs and op.kind not in uncounted}
    names = [short for dtype, short in (("float16", "fp16"), ("float32", "fp32")) if dtype in kinds]
    quantized = ["int8"] if any(op.kind == "quantize" for op in package.operations) else []
    return "+".join([*quantized, *names]) or "fp32"


class _Border:
    """Converts between the graph's tensors and the package's features, as the package's metadata describe them."""

    def __init__(self, metadata: Mapping[str, str], path: Path) -> None:
        try:
            record = reading.json_value(metadata[METADATA], str(path))
            self.inputs: tuple[Port, ...] = ports(record["inputs"])
            self.outputs: tuple[Port, ...] = ports(record["outputs"])
            image = record["image"]
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"{path}: not a package written by effbench ({error!r}).") from error
        self.image = Preprocessing(**image) if image else None

    def feed(self, feeds: Mapping[str, Array], dtypes: Mapping[str, str]) -> dict[str, Array]:
        """Convert arrays by tensor name into arrays by feature name; an image input becomes pixels again."""
        features = {}
        for position, port in enumerate(self.inputs):
            value = np.asarray(feeds[port.tensor])
            if position == 0 and self.image is not None:
                factor, offset = (part.reshape(1, -1, 1, 1) for part in pixel_scale(self.image))
                value = (value.astype(np.float64) - offset) / factor
            features[port.feature] = value.reshape(port.shape or (1,)).astype(dtypes.get(port.feature, "float32"))
        return features

    def results(self, features: Mapping[str, Any]) -> dict[str, Array]:
        """Convert arrays by feature name into arrays by tensor name, in the graph's types and shapes."""
        return {
            port.tensor: np.asarray(features[port.feature]).reshape(port.shape).astype(port.dtype)
            if all(port.shape)
            else np.asarray(features[port.feature]).astype(port.dtype)
            for port in self.outputs
        }


class MilSession(Session):
    """A package evaluated in torch: valid for fidelity, not for latency."""

    simulated = True

    @property
    def proof(self) -> Proof:
        """Effbench's own evaluator, whose code shares nothing with the converter."""
        return Proof.EVALUATOR

    def __init__(self, path: Path, threads: int = 1, accumulate: str = "float32") -> None:
        torch.set_num_threads(threads)
        with quiet_coremltools():
            package = read(path)
            self._evaluator = Evaluator(package, accumulate)
        self._border = _Border(package.metadata, path)
        self._dtypes = {variable.name: variable.dtype for variable in package.inputs}
        self._accumulate = accumulate
        self.compute_precision: str | None = compute_precision(package)

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once; outputs are new host arrays."""
        return self._border.results(self._evaluator(self._border.feed(feeds, self._dtypes)))

    def placement(self) -> dict[str, Any]:
        """Return that this is a simulation, its accumulation type, and the operations of the program."""
        operations = self._evaluator.package.count()
        # Core ML chooses the unit of each operation on the device; a simulation cannot know it.
        units = {**record({}, partitions=None, copies=None), "units_unknown": "decided by Core ML on the device"}
        return {"devices": ["simulated in torch"], "accumulate": self._accumulate, "operations": operations, **units}

    def close(self) -> None:
        """Free the program."""
        del self._evaluator


class CoreMLSession(Session):
    """A package run by Core ML on macOS.

    Written from Apple's documentation; not yet run on a Mac. ``predict`` returns when its outputs are host arrays.
    """

    def __init__(self, path: Path, units: str) -> None:
        if units not in UNITS:
            raise UsageError(f"Unknown compute units '{units}'.", hint=f"Valid: {', '.join(UNITS)}.")
        with quiet_coremltools():
            self._model = ct.models.MLModel(str(path), compute_units=getattr(ct.ComputeUnit, units))
        self._units = units
        self._border = _Border(self._model.user_defined_metadata, path)
        description = self._model.get_spec().description
        self._image = next(
            (item.name for item in description.input if item.type.WhichOneof("Type") == "imageType"), None
        )
        self._dtypes = {
            port.feature: "int32" if port.dtype in ("int32", "int64", "bool") else port.dtype
            for port in self._border.inputs
        }
        # Core ML does not report the precision that a unit computes float16 operations in.
        self.compute_precision: str | None = None

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Predict once; an image input takes pixels rounded to 8 bits."""
        features: dict[str, Any] = self._border.feed(feeds, self._dtypes)
        if self._image is not None:
            features[self._image] = _image(features[self._image])
        return self._border.results(self._model.predict(features))

    def placement(self) -> dict[str, Any]:
        """Return which unit Core ML prefers for each operation, from its compute plan."""
        plans: Any = LazyModule("coremltools.models.compute_plan", "MLComputePlan")
        plan = plans.load_from_path(
            path=self._model.get_compiled_model_path(), compute_units=getattr(ct.ComputeUnit, self._units)
        )
        operations = plan.model_structure.program.functions["main"].block.operations
        summary = summarize(plan, operations)
        requested = {"CPU_ONLY": "CPU", "CPU_AND_NE": "NeuralEngine", "CPU_AND_GPU": "GPU"}.get(self._units)
        units = record(summary["operations_by_unit"], partitions=None, copies=None, requested=requested)
        return {"compute_units": self._units, **summary, **units}

    def close(self) -> None:
        """Free the model."""
        del self._model


def summarize(plan: Any, operations: Sequence[Any]) -> dict[str, Any]:
    """Count operations by preferred unit, sum their estimated cost, and list those not on the Neural Engine.

    Args:
        plan: An ``MLComputePlan``.
        operations: The operations of its main block.
    """
    counts: Counter[str] = Counter()
    costs: dict[str, float] = {}
    elsewhere: list[str] = []
    for operation in operations:
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        if usage is None:
            continue  # constants are not executed
        unit = type(usage.preferred_compute_device).__name__.removeprefix("ML").removesuffix("ComputeDevice")
        cost = plan.get_estimated_cost_for_mlprogram_operation(operation)
        counts[unit] += 1
        costs[unit] = costs.get(unit, 0.0) + (cost.weight if cost is not None else 0.0)
        if unit != "NeuralEngine":
            elsewhere.append(f"{operation.operator_name} {operation.outputs[0].name}")
    return {"operations_by_unit": dict(counts), "cost_by_unit": costs, "not_on_neural_engine": elsewhere}


def _image(array: Array) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise UnavailableError(
            "An image input needs the package 'pillow'.", hint="Install it with: pip install pillow"
        ) from error
    pixels = np.clip(np.rint(array[0]), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


__all__ = ["LABEL", "UNITS", "CoreMLSession", "MilSession", "compute_precision", "summarize"]
