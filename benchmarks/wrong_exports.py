"""How many wrong exports the check finds: one operator of a graph is changed, and six images are compared.

Run with ``python benchmarks/wrong_exports.py [MODEL ...]`` (15 minutes on 2 cores). Untrained models at 224 px,
exported to ONNX in fp32 and int8 (synthetic images); each mechanism strikes four random operators of each graph, and
what leaves the outputs as they are does not count. *Failed* is what `verify` fails, *noted* what it remarks upon
besides: a quantized artifact whose noise is 6 dB above that of the graph that it was made from. ``plain`` is what fails
if every image's cosine counts in full.
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
    """A graph to be changed, and what is where in it."""

    def __init__(self, model: ModelProto, choices: random.Random) -> None:
        self.graph, self.random = model.graph, choices
        self.stored = {tensor.name: tensor for tensor in self.graph.initializer}
        self.makers = {name: node for node in self.graph.node for name in node.output}
        self.shapes = {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in self.graph.value_info
        }

    def weight(self, node: NodeProto) -> TensorProto | None:
        """Return the constant behind the second input, through what turns it into floats."""
        name = node.input[1]
        while name in self.makers and self.makers[name].op_type in ("DequantizeLinear", "Cast"):
            name = self.makers[name].input[0]
        return self.stored.get(name)

    def convolutions(self) -> list[NodeProto]:
        return [node for node in self.graph.node if node.op_type == "Conv" and self.weight(node) is not None]

    def change_weight(self, nodes: list[NodeProto], change: Callable[[Array], Array]) -> None:
        tensor = self.weight(self.random.choice(nodes))
        assert tensor is not None
        old = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(old)).astype(old.dtype), tensor.name))


def turned_colors(one: Graph) -> None:
    name = one.graph.input[0].name
    one.graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), "turned/order"))
    for node in one.graph.node:
        node.input[:] = ["turned" if given == name else given for given in node.input]
    one.graph.node.insert(0, helper.make_node("Gather", [name, "turned/order"], ["turned"], axis=1))


def shifted_padding(one: Graph) -> None:
    padded = [a for node in one.convolutions() for a in node.attribute if a.name == "pads" and a.ints[0] > 0]
    pads = one.random.choice(padded).ints
    pads[0] -= 1
    pads[len(pads) // 2] += 1


def swapped_channels(one: Graph) -> None:
    def swap(weight: Array) -> Array:
        order = np.arange(len(weight))
        i, j = one.random.sample(range(len(weight)), 2)
        order[[i, j]] = order[[j, i]]
        return weight[order]

    one.change_weight(one.convolutions(), swap)


def halved_weights(one: Graph) -> None:
    one.change_weight(one.convolutions(), lambda weight: weight / 2)


def mirrored_kernel(one: Graph) -> None:
    wide = [node for node in one.convolutions() if (one.weight(node) or TensorProto()).dims[-1] > 1]
    one.change_weight(wide, lambda weight: weight[..., ::-1])


def lost_bias(one: Graph) -> None:
    some = [node for node in one.graph.node if node.op_type in ("Conv", "Gemm") and len(node.input) > 2]
    some = [n for n in some if n.input[2] in one.stored and numpy_helper.to_array(one.stored[n.input[2]]).any()]
    del one.random.choice(some).input[2]


def another_activation(one: Graph) -> None:
    node = one.random.choice([node for node in one.graph.node if node.op_type in OTHER])
    node.op_type = OTHER[node.op_type]
    del node.attribute[:]


def lost_shortcut(one: Graph) -> None:
    sums = [n for n in one.graph.node if n.op_type == "Add" and not one.stored.keys() & set(n.input)]
    sums = [n for n in sums if n.input[0] != n.input[1] and len({str(one.shapes.get(name)) for name in n.input}) == 1]
    node = one.random.choice(sums)
    node.op_type = "Identity"
    del node.input[1:]


MECHANISMS: tuple[Callable[[Graph], None], ...] = (
    turned_colors,
    shifted_padding,
    swapped_channels,
    halved_weights,
    mirrored_kernel,
    lost_bias,
    another_activation,
    lost_shortcut,
)


def exported(name: str, precision: str, folder: Path) -> tuple[ModelProto, ModelProto]:
    """Return the fp32 graph of a model, and that of a precision."""
    words = ["export", name, "-t", "ort", "--precision", precision, "--res", str(RESOLUTION), "--out", str(folder)]
    words += ["--images", "synthetic"] if precision == "int8" else []
    subprocess.run([sys.executable, "-m", "effbench.cli", *words], capture_output=True, check=True)
    found = [next(folder.glob(f"artifacts/*-{kind}-onnx-*/model.onnx")) for kind in ("fp32", precision)]
    return onnx.load(found[0]), onnx_file.infer_shapes(onnx.load(found[1]), name)


def plain_cosine(want: Array, have: Array) -> float:
    left, right = (array.reshape(len(array), -1) - want.reshape(len(want), -1).mean(axis=0) for array in (want, have))
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(axis=1) / np.maximum(lengths, 1e-30)).min())


def unchanged(before: Mapping[str, Array], after: Mapping[str, Array]) -> bool:
    """Tell whether outputs are the same within what fp32 may differ: a scale before a norm, a branch of weight 1e-6."""
    figures = fidelity.compare(before, after)
    return all(figures[name] <= limit for name, limit in fidelity.LIMITS["fp32"].items())


def judged(want: Mapping[str, Array], have: Mapping[str, Array], precision: str, good: float | None) -> Counter[str]:
    """Count one graph under what the check says of it."""
    figures, limits = fidelity.compare(want, have), fidelity.LIMITS[precision]
    finite = all(np.isfinite(array).all() for array in have.values())
    errors = not finite or any(not figures[name] <= limit for name, limit in limits.items() if name != "cosine")
    least = limits.get("cosine", -1.0)
    failed = errors or not figures["cosine"] >= least
    (first,) = want
    plain = errors or not plain_cosine(want[first], have[first]) >= least
    noted = good is not None and precision == "int8" and good - figures["snr_db"] > LOST_DB
    return Counter(graphs=1, failed=int(failed), noted=int(noted and not failed), plain=int(plain))


def struck(model: ModelProto, mechanism: Callable[[Graph], None], seed: str) -> ModelProto | None:
    """Return a changed copy; none where the graph has nothing to change."""
    made = ModelProto()
    made.CopyFrom(model)
    try:
        mechanism(Graph(made, random.Random(seed)))
    except (IndexError, ValueError):
        return None
    return made


def run() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    names = parser.parse_args().models
    how, found = Preprocessing(), {}
    for name in names:
        for precision in PRECISIONS:
            with tempfile.TemporaryDirectory() as folder:
                exact, model = exported(name, precision, Path(folder))
            images = fidelity.reference_images(fidelity.NATURAL, 3, (RESOLUTION, RESOLUTION), 0)
            feeds = fidelity.feeds(images, 1, onnx_file.inputs(exact)[0], how)
            want, have = (fidelity.run_all(runner(graph), feeds) for graph in (exact, model))
            good = fidelity.compare(want, have)["snr_db"]
            found.setdefault((precision, "none"), Counter()).update(judged(want, have, precision, good))
            for mechanism in MECHANISMS:
                for seed in range(EACH):
                    wrong = struck(model, mechanism, f"{name} {mechanism.__name__} {seed}")
                    if wrong is None:
                        continue
                    outputs = fidelity.run_all(runner(wrong), feeds)
                    if unchanged(have, outputs):
                        continue
                    line = found.setdefault((precision, mechanism.__name__.replace("_", " ")), Counter())
                    line.update(judged(want, outputs, precision, good))
        print(name, file=sys.stderr, flush=True)
    columns = ("graphs", "failed", "noted", "plain")
    rows = [[*key, *(line[column] for column in columns)] for key, line in sorted(found.items())]
    print(tabulate(rows, headers=["precision", "changed", *columns], tablefmt="pipe"))
    return 0


if __name__ == "__main__":
    sys.exit(run())
