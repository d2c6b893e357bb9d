"""Small graphs with the forms that files of the field have: each is a conv net with one unusual trait."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(3)
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def weights(*shape: int, gain: float = 1.0) -> np.ndarray:
    """Return weights of a layer that keeps the size of its input."""
    return (RNG.normal(size=shape) * gain / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


class Net:
    """A graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: np.ndarray) -> str:
        """Add an initializer."""
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        """Add a node with one output, which is returned."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"n_{output}", **attributes))
        return output

    def conv(self, x: str, output: str, channels: tuple[int, int], stride: int = 2) -> str:
        """Add a 3 x 3 convolution and a ReLU."""
        into, out = channels
        w, b = (
            self.constant(f"{output}_w", weights(out, into, 3, 3)),
            self.constant(f"{output}_b", weights(out, 1)[:, 0]),
        )
        self.node("Conv", [x, w, b], f"{output}_c", strides=[stride] * 2, pads=[1] * 4)
        return self.node("Relu", [f"{output}_c"], output)

    def backbone(self, x: str, channels: int = 3) -> str:
        """Add two convolutions; the result has 16 channels and a quarter of the size."""
        return self.conv(self.conv(x, "f1", (channels, 8)), "f2", (8, 16))

    def head(self, x: str, classes: int = 10, output: str = "logits") -> str:
        """Add a pooled linear classifier."""
        self.node("GlobalAveragePool", [x], "pooled")
        self.node("Flatten", ["pooled"], "flat")
        w, b = self.constant("head_w", weights(classes, 16, gain=3)), self.constant("head_b", weights(classes, 1)[:, 0])
        return self.node("Gemm", ["flat", w, b], output, transB=1)

    def model(
        self, inputs: list[onnx.ValueInfoProto], outputs: list[str], opset: int = 17, ir: int = 8
    ) -> onnx.ModelProto:
        """Return the model; its reader infers the shapes of outputs."""
        graph = helper.make_graph(
            self.nodes, "net", inputs, [helper.make_tensor_value_info(n, FLOAT, None) for n in outputs], self.constants
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def image(shape: tuple[object, ...] = (1, 3, 64, 64), kind: int = FLOAT, name: str = "x") -> onnx.ValueInfoProto:
    """Return an input."""
    return helper.make_tensor_value_info(name, kind, shape)


def plain() -> onnx.ModelProto:
    """Nothing unusual."""
    net = Net()
    net.head(net.backbone("x"))
    return net.model([image()], ["logits"])


def constant_weights() -> onnx.ModelProto:
    """Weights stand in Constant nodes, and open dimensions are written as -1."""
    net = Net()
    net.head(net.backbone("x"))
    constants = [helper.make_node("Constant", [], [t.name], value=t) for t in net.constants]
    net.nodes, net.constants = constants + net.nodes, []
    model = net.model([image(("n", 3, 64, 64))], ["logits"])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    return model


def channels_last_bytes() -> onnx.ModelProto:
    """The input is uint8 NHWC."""
    net = Net()
    net.node("Cast", ["x"], "x_f", to=FLOAT)
    net.node("Mul", ["x_f", net.constant("s", np.array(1 / 255, np.float32))], "x_s")
    net.node("Transpose", ["x_s"], "x_t", perm=[0, 3, 1, 2])
    net.head(net.backbone("x_t"))
    return net.model([image((1, 64, 64, 3), TensorProto.UINT8)], ["logits"])


def two_images() -> onnx.ModelProto:
    """Two image inputs."""
    net = Net()
    net.node("Sub", ["x", "z"], "d")
    net.head(net.backbone("d"))
    return net.model([image(), image(name="z")], ["logits"])


def time_first() -> onnx.ModelProto:
    """The output is (time, batch, classes)."""
    net = Net()
    net.backbone("x")
    net.node("ReduceMean", ["f2"], "columns", axes=[2], keepdims=0)
    net.node("Transpose", ["columns"], "tbc", perm=[2, 0, 1])
    net.node("MatMul", ["tbc", net.constant("w", weights(16, 12, gain=3))], "logits")
    return net.model([image()], ["logits"])


def sparse_map() -> onnx.ModelProto:
    """A sigmoid map that is zero on every scene."""
    net = Net()
    net.backbone("x")
    net.node(
        "Conv", ["f2", net.constant("w", weights(1, 16, 1, 1)), net.constant("b", np.array([-60], np.float32))], "m"
    )
    net.node("Sigmoid", ["m"], "map")
    return net.model([image()], ["map"])


def top_boxes() -> onnx.ModelProto:
    """Boxes and scores through TopK."""
    net = Net()
    net.backbone("x")
    net.node("Conv", ["f2", net.constant("w", weights(5, 16, 1, 1, gain=4))], "maps")
    net.node("Reshape", ["maps", net.constant("r", np.array([1, 5, 256]))], "rows")
    net.node("Transpose", ["rows"], "cells", perm=[0, 2, 1])
    net.nodes.append(
        helper.make_node(
            "Split", ["cells", net.constant("parts", np.array([4, 1]))], ["all_boxes", "score_col"], axis=2
        )
    )
    net.node("Squeeze", ["score_col", net.constant("axis", np.array([2]))], "raw")
    net.node("Sigmoid", ["raw"], "all_scores")
    net.nodes.append(
        helper.make_node("TopK", ["all_scores", net.constant("k", np.array([20]))], ["scores", "places"], axis=1)
    )
    net.node("Unsqueeze", ["places", net.constant("axis_i", np.array([2]))], "index")
    net.node("Expand", ["index", net.constant("shape", np.array([1, 20, 4]))], "indices")
    net.node("GatherElements", ["all_boxes", "indices"], "boxes", axis=1)
    return net.model([image()], ["boxes", "scores"])


def suppressed_boxes() -> onnx.ModelProto:
    """NonMaxSuppression at the end."""
    model = top_boxes()
    net = model.graph
    net.initializer.extend(
        [
            numpy_helper.from_array(np.array([10]), "most"),
            numpy_helper.from_array(np.array([0.5], np.float32), "iou"),
            numpy_helper.from_array(np.array([1]), "axis_1"),
        ]
    )
    net.node.append(helper.make_node("Unsqueeze", ["scores", "axis_1"], ["class_scores"], name="u"))
    net.node.append(
        helper.make_node("NonMaxSuppression", ["boxes", "class_scores", "most", "iou"], ["kept"], name="nms")
    )
    net.output.append(helper.make_tensor_value_info("kept", INT64, None))
    return model


def recurrent() -> onnx.ModelProto:
    """An LSTM over columns, with open width."""
    net = Net()
    net.backbone("x")
    net.node("ReduceMean", ["f2"], "columns", axes=[2], keepdims=0)
    net.node("Transpose", ["columns"], "tbc", perm=[2, 0, 1])
    w, r, b = (
        net.constant(n, v)
        for n, v in (("lw", weights(2, 32, 16, gain=4)), ("lr", weights(2, 32, 8)), ("lb", weights(2, 64)))
    )
    net.nodes.append(
        helper.make_node("LSTM", ["tbc", w, r, b], ["y"], name="lstm", hidden_size=8, direction="bidirectional")
    )
    net.node("ReduceMean", ["y"], "features", axes=[1], keepdims=0)
    return net.model([image((1, 3, 64, "width"))], ["features"])


def initializers_as_inputs() -> onnx.ModelProto:
    """IR 3 and opset 9, where initializers are listed as inputs too."""
    net = Net()
    net.head(net.backbone("x"))
    listed = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in net.constants]
    return net.model([image(), *listed], ["logits"], opset=9, ir=3)


def out_of_order() -> onnx.ModelProto:
    """Nodes are not in topological order."""
    model = plain()
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def huge_batch_norm() -> onnx.ModelProto:
    """A BatchNorm whose folded scale is 1e8, behind a channel that is almost constant."""
    net = Net()
    net.backbone("x")
    scale = np.ones(16, np.float32)
    variance = np.ones(16, np.float32)
    variance[3] = 1e-16
    net.constants[2] = numpy_helper.from_array(
        numpy_helper.to_array(net.constants[2])
        * np.where(np.arange(16) == 3, 1e-8, 1)[:, None, None, None].astype("f"),
        net.constants[2].name,
    )
    names = [net.constant(n, v) for n, v in (("g", scale), ("be", scale * 0), ("mu", scale * 0), ("va", variance))]
    net.node("BatchNormalization", ["f2", *names], "bn", epsilon=0.0)
    net.head("bn")
    return net.model([image()], ["logits"])


def half() -> onnx.ModelProto:
    """fp16 throughout."""
    model = plain()
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def tokens() -> onnx.ModelProto:
    """The input is int32 tokens."""
    net = Net()
    net.node("Gather", [net.constant("table", weights(100, 16, gain=4)), "ids"], "rows")
    net.node("ReduceMean", ["rows"], "mean", axes=[1], keepdims=0)
    net.node("MatMul", ["mean", net.constant("w", weights(16, 10, gain=3))], "logits")
    return net.model([image((1, 12), TensorProto.INT32, "ids")], ["logits"])


def audio() -> onnx.ModelProto:
    """The input is 1 x 1 x 16000 audio."""
    net = Net()
    w = net.constant("w", weights(16, 1, 400))
    net.node("Conv", ["x", w], "frames", strides=[160])
    net.node("Relu", ["frames"], "r")
    net.node("ReduceMean", ["r"], "mean", axes=[2], keepdims=0)
    net.node("MatMul", ["mean", net.constant("v", weights(16, 10, gain=3))], "logits")
    return net.model([image((1, 1, 16000))], ["logits"])


def one_channel() -> onnx.ModelProto:
    """One channel, and not square."""
    net = Net()
    net.head(net.backbone("x", 1))
    return net.model([image((1, 1, 48, 320))], ["logits"])


def punctuated_outputs() -> onnx.ModelProto:
    """Output names that differ only in punctuation."""
    net = Net()
    net.backbone("x")
    net.node("GlobalAveragePool", ["f2"], "out.1")
    net.node("GlobalMaxPool", ["f2"], "out/1")
    return net.model([image()], ["out.1", "out/1"])


def captured_weights() -> onnx.ModelProto:
    """An initializer that only the branches of an If read."""
    net = Net()
    net.backbone("x")
    net.constant("only_inside", weights(1, 16, 1, 1, gain=4))
    net.node("ReduceMean", ["f2"], "mean", keepdims=0)
    net.node("Greater", ["mean", net.constant("zero", np.array(-1, np.float32))], "positive")

    def branch(name: str, op: str) -> onnx.GraphProto:
        node = helper.make_node(op, ["f2", "only_inside"], [name], name=f"b_{name}")
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, FLOAT, None)])

    net.node("If", ["positive"], "y", then_branch=branch("a", "Mul"), else_branch=branch("b", "Add"))
    net.head("y")
    return net.model([image()], ["logits"])


def unknown_rank() -> onnx.ModelProto:
    """The rank of the output depends on a computed shape."""
    net = Net()
    net.head(net.backbone("x"))
    net.node("Shape", ["logits"], "sizes")
    keep = net.constant("keep", np.array([True, True]))
    net.nodes.append(helper.make_node("Compress", ["sizes", keep], ["kept"], axis=0))
    net.node("Reshape", ["logits", "kept"], "y")
    return net.model([image()], ["y"])


def stale_shape() -> onnx.ModelProto:
    """A body states a shape that its tensor does not have."""
    model = captured_weights()
    branch = next(node for node in model.graph.node if node.op_type == "If").attribute[0].g
    branch.node.append(helper.make_node("ReduceSum", [branch.node[0].output[0]], ["sum"], keepdims=0))
    branch.value_info.append(helper.make_tensor_value_info("sum", FLOAT, [1]))
    return model


def external(folder: Path) -> Path:
    """Write a model whose weights are in ``weights.bin``, and return its path."""
    path = folder / "external.onnx"
    onnx.save(plain(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    maker.__name__: maker
    for maker in (
        plain, constant_weights, channels_last_bytes, two_images, time_first, sparse_map, top_boxes, suppressed_boxes,
        recurrent, initializers_as_inputs, out_of_order, huge_batch_norm, half, tokens, audio, one_channel,
        punctuated_outputs, captured_weights,
    )
}  # fmt: skip


def seeded(name: str, seed: int = 0) -> onnx.ModelProto:
    """Return a model whose weights depend on the seed alone, and not on the models that were made before."""
    global RNG
    RNG = np.random.default_rng(seed)
    return MODELS[name]()
