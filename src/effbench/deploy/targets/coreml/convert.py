"""Write a translated program as an ``.mlpackage``: passes, image input, class labels, metadata."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from effbench import drafts, reading
from effbench.deploy.targets.coreml.lazy import ct, mb, quiet_coremltools
from effbench.deploy.targets.coreml.translator.graph import Port, Translation, translate
from effbench.errors import ConversionError, UsageError
from effbench.schema import Preprocessing

if TYPE_CHECKING:
    import onnx

TARGETS = ("iOS15", "iOS16", "iOS17", "iOS18")
METADATA = "effbench"
"""The key of the package's metadata that maps its features to tensors of the graph."""
LABEL = "classLabel"

PASSES = (
    "noop_elimination",
    "const_elimination",
    "divide_to_multiply",
    "fuse_matmul_weight_bias",
    "fuse_linear_bias",
    "fuse_gelu_tanh_approximation",
    "fuse_gelu_exact",
    "fuse_leaky_relu",
    "fuse_conv_scale",
    "fuse_conv_bias",
    "fuse_layernorm_or_instancenorm",
    "fuse_conv_batchnorm",
    "fuse_prelu",
    "merge_consecutive_reshapes",
    "merge_consecutive_transposes",
    "fuse_transpose_matmul",
    "expand_high_rank_reshape_and_transpose",
    "reduce_transposes",
    "remove_redundant_ops",
    "const_deduplication",
    "dead_code_elimination",
)
"""The passes of coremltools that are run: they fuse or remove operations, and none changes a precision.

The default pipeline has 95 passes, including casts from float32 to float16.
"""


@dataclass(frozen=True)
class Options:
    """Options of a package beyond its graph."""

    target: str | None = None
    image: bool = False
    labels: tuple[str, ...] = ()
    preprocessing: Preprocessing = field(default_factory=Preprocessing)


def minimum_target(model: onnx.ModelProto) -> str:
    """Return the oldest deployment target that supports a graph: iOS 16, or iOS 17 if it is quantized."""
    quantized = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    return "iOS17" if quantized else "iOS16"


def convert(model: onnx.ModelProto, package: Path, options: Options | None = None) -> Translation:
    """Translate a model and write the package; the same model results in the same bytes.

    Raises:
        ConversionError: The graph cannot be translated, or coremltools refuses the program.
        UsageError: The deployment target is unknown, or the labels or the image input do not fit the model.
    """
    options = options or Options()
    target = options.target or minimum_target(model)
    if target not in TARGETS:
        raise UsageError(f"Unknown deployment target '{target}'.", hint=f"Valid: {', '.join(TARGETS)}.")
    with quiet_coremltools(), drafts.scratch() as scratch:
        kind = getattr(ct.target, target)
        scale = pixel_scale(options.preprocessing) if options.image else None
        translation = translate(model, kind, scale)
        if options.labels:
            _classify(translation, options.labels)
        mlmodel = _compile(translation, kind, options, Path(scratch))
        _describe(mlmodel, translation, options, target)
        mlmodel.save(str(package))
    _make_reproducible(package)
    return translation


def pixel_scale(preprocessing: Preprocessing) -> tuple[Any, Any]:
    """Return factor and offset per channel: value = factor * pixel + offset, pixels being 0 ... 255."""
    std = np.asarray(preprocessing.std, np.float64)
    return (preprocessing.scale / std), (-np.asarray(preprocessing.mean, np.float64) / std)


def _classify(translation: Translation, labels: Sequence[str]) -> None:
    """Add a label output for the first output's scores; the scores stay an output.

    Raises:
        UsageError: The number of labels is not the number of scores.
    """
    function = translation.program.functions["main"]
    scores = function.outputs[0]
    count = int(np.prod(scores.shape))
    if len(labels) != count:
        raise UsageError(f"{len(labels)} class labels for {count} scores of '{translation.outputs[0].tensor}'.")
    with function:
        ends_in_softmax = scores.op.op_type in ("softmax", "sigmoid")
        last = scores if ends_in_softmax else mb.softmax(x=scores, axis=-1)
        confidences = mb.identity(x=last, name="confidences")
        confidences.name = "confidences"
        function.set_outputs([*function.outputs, confidences])


def _compile(translation: Translation, target: Any, options: Options, scratch: Path) -> Any:
    pipeline = ct.PassPipeline([f"common::{name}" for name in PASSES], "effbench")
    types = []
    if options.image:
        types.append(_image_type(translation.inputs[0], options.preprocessing))
    classifier = None
    if options.labels:
        classifier = ct.ClassifierConfig(
            list(options.labels), predicted_feature_name=LABEL, predicted_probabilities_output="confidences"
        )
    try:
        return ct.convert(
            translation.program,
            source="milinternal",
            convert_to="mlprogram",
            minimum_deployment_target=target,
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=pipeline,
            inputs=types or None,
            classifier_config=classifier,
            skip_model_load=True,
            package_dir=str(scratch / "model.mlpackage"),
        )
    except (ValueError, TypeError, RuntimeError, NotImplementedError, AssertionError) as error:
        # coremltools raises built-in exceptions; their message is the reason.
        raise ConversionError("coremltools", str(error).strip().splitlines()[-1]) from error


def _image_type(port: Port, preprocessing: Preprocessing) -> Any:
    channels = port.shape[1] if len(port.shape) == 4 else 0
    if channels not in (1, 3) or port.shape[0] != 1:
        raise UsageError(f"Input '{port.tensor}' of shape {list(port.shape)} cannot be an image (1 x 3 x H x W).")
    order = "G" if channels == 1 else preprocessing.channel_order
    layout = {"RGB": ct.colorlayout.RGB, "BGR": ct.colorlayout.BGR, "G": ct.colorlayout.GRAYSCALE}[order]
    return ct.ImageType(name=port.feature, shape=port.shape, color_layout=layout, channel_first=True)


def _describe(mlmodel: Any, translation: Translation, options: Options, target: str) -> None:
    record = {
        "inputs": [dataclasses.asdict(port) for port in translation.inputs],
        "outputs": [dataclasses.asdict(port) for port in translation.outputs],
        "image": dataclasses.asdict(options.preprocessing) if options.image else None,
        "minimum_deployment_target": target,
    }
    mlmodel.user_defined_metadata[METADATA] = json.dumps(record, sort_keys=True)


def _make_reproducible(package: Path) -> None:
    """Replace random identifiers by derived ones and write the specification with sorted maps."""
    path = package / "Manifest.json"
    manifest = reading.json_file(path)
    items = manifest["itemInfoEntries"]
    fixed = {key: str(uuid.uuid5(uuid.NAMESPACE_URL, item["path"])).upper() for key, item in items.items()}
    manifest["itemInfoEntries"] = {fixed[key]: items[key] for key in sorted(items, key=fixed.__getitem__)}
    manifest["rootModelIdentifier"] = fixed[manifest["rootModelIdentifier"]]
    path.write_text(json.dumps(manifest, indent=4, sort_keys=True))
    entry = package / "Data" / manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    spec = ct.proto.Model_pb2.Model()
    spec.ParseFromString(entry.read_bytes())
    entry.write_bytes(spec.SerializeToString(deterministic=True))


__all__ = [
    "LABEL",
    "METADATA",
    "PASSES",
    "TARGETS",
    "Options",
    "convert",
    "minimum_target",
    "pixel_scale",
]
