"""Detection rate of the check for wrong exports: one operator of a graph is changed, and six images are compared.

    python benchmarks/wrong_exports.py [MODEL ...]       (15 minutes on 2 cores)

The models are untrained, at 224 px, exported to ONNX in fp32 and int8 (synthetic images). Each mechanism changes four
random operators of each graph; changes that leave the outputs the same do not count. *Failed*: `verify` fails. *Noted*:
`verify` passes with a note, as the noise of a quantized artifact is 6 dB above that of its graph. *Plain*: the check
would fail if every image's cosine counted in full.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from tabulate import tabulate

from effbench.api.export.exporter import LOST_DB
from effbench.deploy import Array
from effbench.deploy.artifact import fidelity
from effbench.deploy.artifact.judge import compare
from effbench.deploy.artifact.limits import LIMITS
from effbench.deploy.graph import onnx_file
from effbench.deploy.graph.run_ort import runner
from effbench.schema import Preprocessing

MODELS = (
    "regla_t",
    "regla_m",
    "iformer_m",
    "deit_t",
    "aft_conv_t_h32",
    "lambda_resnet26",
    "timm/resnet50.a1_in1k",
    "timm/mobilenetv2_100.ra_in1k",
    "timm/efficientnet_b0.ra_in1k",
    "timm/repvit_m0_9.dist_300e_in1k",
    "timm/convnextv2_atto.fcmae_ft_in1k",
    "timm/efficientvit_b0.r224_in1k",
    "timm/edgenext_xx_small.in1k",
)
PRECISIONS = ("fp32", "int8")
RESOLUTION = 224
EACH = 4
OTHER = {
    "Gelu": "Relu",
    "HardSwish": "Relu",
    "Sigmoid": "HardSigmoid",
    "HardSigmoid": "Sigmoid",
    "Relu": "Identity",
    "Tanh": "Identity",
}


class Graph:
    """A graph to change, with its initializers, producers and shapes by name."""

    def __init__(self, model: ModelProto, rng: random.Random) -> None:
        self.graph, self.random = model.graph, rng
        self.initializers = {tensor.name: tensor for tensor in self.graph.initializer}
        self.producers = {name: node for node in self.graph.node for name in node.output}
        self.shapes = {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in self.graph.value_info
        }

    def weight(self, node: NodeProto) -> TensorProto | None:
        """Return the initializer behind the second input, through DequantizeLinear and Cast."""
        name = node.input[1]
        while name in self.producers and self.producers[name].op_type in ("DequantizeLinear", "Cast"):
            name = self.producers[name].input[0]
        return self.initializers.get(name)

    def convolutions(self) -> list[NodeProto]:
        return [node for node in self.graph.node if node.op_type == "Conv" and self.weight(node) is not None]

    def change_weight(self, nodes: list[NodeProto], change: Callable[[Array], Array]) -> None:
        tensor = self.weight(self.random.choice(nodes))
        assert tensor is not None
        old = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(old)).astype(old.dtype), tensor.name))


def swapped_colors(graph: Graph) -> None:
    image = graph.graph.input[0].name
    graph.graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), "swapped/order"))
    for node in graph.graph.node:
        node.input[:] = ["swapped" if name == image else name for name in node.input]
    graph.graph.node.insert(0, helper.make_node("Gather", [image, "swapped/order"], ["swapped"], axis=1))


def shifted_padding(graph: Graph) -> None:
    padded = [a for node in graph.convolutions() for a in node.attribute if a.name == "pads" and a.ints[0] > 0]
    pads = graph.random.choice(padded).ints
    pads[0] -= 1
    pads[len(pads) // 2] += 1


def swapped_channels(graph: Graph) -> None:
    def swap(weight: Array) -> Array:
        order = np.arange(len(weight))
        i, j = graph.random.sample(range(len(weight)), 2)
        order[[i, j]] = order[[j, i]]
        return weight[order]

    graph.change_weight(graph.convolutions(), swap)


def halved_weights(graph: Graph) -> None:
    graph.change_weight(graph.convolutions(), lambda weight: weight / 2)


def mirrored_kernel(graph: Graph) -> None:
    wide = [node for node in graph.convolutions() if (graph.weight(node) or TensorProto()).dims[-1] > 1]
    graph.change_weight(wide, lambda weight: weight[..., ::-1])


def lost_bias(graph: Graph) -> None:
    layers = [node for node in graph.graph.node if node.op_type in ("Conv", "Gemm") and len(node.input) > 2]
    biases = [graph.initializers.get(node.input[2]) for node in layers]
    biased = [
        n for n, bias in zip(layers, biases, strict=True) if bias is not None and numpy_helper.to_array(bias).any()
    ]
    del graph.random.choice(biased).input[2]


def another_activation(graph: Graph) -> None:
    node = graph.random.choice([node for node in graph.graph.node if node.op_type in OTHER])
    node.op_type = OTHER[node.op_type]
    del node.attribute[:]


def lost_shortcut(graph: Graph) -> None:
    sums = [n for n in graph.graph.node if n.op_type == "Add" and not graph.initializers.keys() & set(n.input)]
    sums = [n for n in sums if n.input[0] != n.input[1] and len({str(graph.shapes.get(name)) for name in n.input}) == 1]
    node = graph.random.choice(sums)
    node.op_type = "Identity"
    del node.input[1:]


MECHANISMS: tuple[Callable[[Graph], None], ...] = (
    swapped_colors,
    shifted_padding,
    swapped_channels,
    halved_weights,
    mirrored_kernel,
    lost_bias,
    another_activation,
    lost_shortcut,
)


def export_graphs(name: str, precision: str, folder: Path) -> tuple[ModelProto, ModelProto]:
    """Return a model's graph in fp32 and in a precision."""
    arguments = ["export", name, "-t", "ort", "--precision", precision, "--res", str(RESOLUTION), "--out", str(folder)]
    arguments += ["--images", "synthetic"] if precision == "int8" else []
    subprocess.run([sys.executable, "-m", "effbench.cli", *arguments], capture_output=True, check=True)
    paths = [next(folder.glob(f"artifacts/*-{kind}-onnx-*/model.onnx")) for kind in ("fp32", precision)]
    return onnx.load(paths[0]), onnx_file.infer_shapes(onnx.load(paths[1]), name)


def plain_cosine(expected: Array, actual: Array) -> float:
    """Return the smallest cosine of an image, with the mean over the expected images subtracted."""
    mean = expected.reshape(len(expected), -1).mean(axis=0)
    left, right = (array.reshape(len(array), -1) - mean for array in (expected, actual))
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(axis=1) / np.maximum(lengths, 1e-30)).min())


def unchanged(before: Mapping[str, Array], after: Mapping[str, Array]) -> bool:
    """Return whether outputs agree within the limits of fp32, as after a scale before a norm or in a tiny branch."""
    figures = compare(before, after)
    return all(figures[name] <= limit for name, limit in LIMITS["fp32"].items())


Outputs = Mapping[str, Array]


def judge(expected: Outputs, actual: Outputs, precision: str, snr_db: float | None) -> Counter[str]:
    """Count one graph under the results of the check; ``snr_db`` is that of the unchanged graph."""
    figures, limits = compare(expected, actual), LIMITS[precision]
    finite = all(np.isfinite(array).all() for array in actual.values())
    errors = not finite or any(not figures[name] <= limit for name, limit in limits.items() if name != "cosine")
    least = limits.get("cosine", -1.0)
    failed = errors or not figures["cosine"] >= least
    (first,) = expected
    plain = errors or not plain_cosine(expected[first], actual[first]) >= least
    noted = snr_db is not None and precision == "int8" and snr_db - figures["snr_db"] > LOST_DB
    return Counter(graphs=1, failed=int(failed), noted=int(noted and not failed), plain=int(plain))


def changed_copy(model: ModelProto, mechanism: Callable[[Graph], None], seed: str) -> ModelProto | None:
    """Return a changed copy; None if the graph has nothing to change."""
    copy = ModelProto()
    copy.CopyFrom(model)
    try:
        mechanism(Graph(copy, random.Random(seed)))
    except (IndexError, ValueError):
        return None
    return copy


def count(name: str, precision: str, counts: dict[tuple[str, str], Counter[str]]) -> None:
    """Export a model, change its graph in every way, and add the results of the check to the counts by mechanism."""
    with tempfile.TemporaryDirectory() as folder:
        fp32, model = export_graphs(name, precision, Path(folder))
    images = fidelity.reference_images(fidelity.NATURAL, 3, (RESOLUTION, RESOLUTION), 0)
    feeds = fidelity.feeds(images, 1, onnx_file.inputs(fp32)[0], Preprocessing())
    expected, correct = (fidelity.run_all(runner(graph), feeds) for graph in (fp32, model))
    snr_db = compare(expected, correct)["snr_db"]
    counts.setdefault((precision, "none"), Counter()).update(judge(expected, correct, precision, snr_db))
    for mechanism in MECHANISMS:
        for seed in range(EACH):
            wrong = changed_copy(model, mechanism, f"{name} {mechanism.__name__} {seed}")
            if wrong is None:
                continue
            outputs = fidelity.run_all(runner(wrong), feeds)
            if not unchanged(correct, outputs):
                key = (precision, mechanism.__name__.replace("_", " "))
                counts.setdefault(key, Counter()).update(judge(expected, outputs, precision, snr_db))


def run() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    counts: dict[tuple[str, str], Counter[str]] = {}
    for name in parser.parse_args().models:
        for precision in PRECISIONS:
            count(name, precision, counts)
        print(name, file=sys.stderr, flush=True)
    columns = ("graphs", "failed", "noted", "plain")
    rows = [[*key, *(group[column] for column in columns)] for key, group in sorted(counts.items())]
    print(tabulate(rows, headers=["precision", "changed", *columns], tablefmt="pipe"))
    return 0


if __name__ == "__main__":
    sys.exit(run())
