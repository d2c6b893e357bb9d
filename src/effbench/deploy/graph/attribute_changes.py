"""Changes of one attribute of an operator, or of its type, as a converter makes that ignores it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from effbench.deploy.graph.draft import Draft, NotPossibleError

if TYPE_CHECKING:
    from onnx import NodeProto


def changed_attribute(draft: Draft, number: int) -> str:
    """Change an attribute of one operator, as a converter does that ignores it or has another default."""
    changes = [(node, change) for node in draft.graph.node for change in _ATTRIBUTES.get(node.op_type, ())]
    draft.random.shuffle(changes)
    for node, change in changes:
        text = change(draft, node)
        if text:
            return f"{node.op_type} {node.name or node.output[0]}: {text}"
    raise NotPossibleError


def _attribute(node: NodeProto, name: str) -> Any:
    return next((attribute for attribute in node.attribute if attribute.name == name), None)


def _set(node: NodeProto, name: str, value: Any) -> None:
    from onnx import helper

    old = _attribute(node, name)
    if old is not None:
        node.attribute.remove(old)
    node.attribute.append(helper.make_attribute(name, value))


def _shift_padding(draft: Draft, node: NodeProto) -> str:
    pads = _attribute(node, "pads")
    if pads is None or not len(pads.ints) or pads.ints[0] < 1:
        return ""
    pads.ints[0] -= 1
    pads.ints[len(pads.ints) // 2] += 1
    return "padding shifted by one"


def _toggle(name: str, default: int) -> Callable[[Draft, NodeProto], str]:
    def change(draft: Draft, node: NodeProto) -> str:
        old = _attribute(node, name)
        value = 1 - (default if old is None else old.i)
        _set(node, name, value)
        return f"{name} = {value}"

    return change


def _times(name: str, default: float, factor: float) -> Callable[[Draft, NodeProto], str]:
    def change(draft: Draft, node: NodeProto) -> str:
        old = _attribute(node, name)
        value = (default if old is None else old.f) * factor
        _set(node, name, float(value))
        return f"{name} = {value:g}"

    return change


def _exchange(name: str, default: str, values: tuple[str, ...]) -> Callable[[Draft, NodeProto], str]:
    def change(draft: Draft, node: NodeProto) -> str:
        old = _attribute(node, name)
        before = default if old is None else old.s.decode()
        value = draft.pick([item for item in values if item != before])
        _set(node, name, value)
        return f"{name} = {value}"

    return change


def _other_axis(draft: Draft, node: NodeProto) -> str:
    shape, old = draft.known(node.input[0]), _attribute(node, "axis")
    if shape is None:
        return ""
    before = (-1 if old is None else old.i) % len(shape)
    others = [axis for axis, size in enumerate(shape) if axis not in (0, before) and size > 1]
    if not others:
        return ""
    value = draft.pick(others)
    _set(node, "axis", value)
    return f"axis = {value}"


def _other_operator(op: str) -> Callable[[Draft, NodeProto], str]:
    def change(draft: Draft, node: NodeProto) -> str:
        before, node.op_type = node.op_type, op
        del node.attribute[:]
        return f"{op} in place of {before}"

    return change


def _exchanged_inputs(draft: Draft, node: NodeProto) -> str:
    if len(node.input) < 2 or draft.known(node.input[0]) != draft.known(node.input[1]):
        return ""
    if node.input[0] == node.input[1]:
        return ""
    node.input[0], node.input[1] = node.input[1], node.input[0]
    return "its first two inputs exchanged"


_RESIZE = ("half_pixel", "align_corners", "asymmetric")
_ATTRIBUTES: dict[str, tuple[Callable[[Draft, Any], str], ...]] = {
    "Conv": (_shift_padding,),
    "MaxPool": (_shift_padding,),
    "AveragePool": (_shift_padding, _toggle("count_include_pad", 0)),
    "Gelu": (_exchange("approximate", "none", ("none", "tanh")),),
    "LeakyRelu": (_times("alpha", 0.01, 2),),
    "Elu": (_times("alpha", 1.0, 2),),
    "HardSigmoid": (_times("alpha", 0.2, 1.2), _other_operator("Sigmoid")),
    "HardSwish": (_other_operator("Relu"),),
    "Sigmoid": (_other_operator("HardSigmoid"),),
    "Relu": (_other_operator("Elu"),),
    "Tanh": (_other_operator("Softsign"),),
    "Gemm": (_times("alpha", 1.0, 1.02), _times("beta", 1.0, 1.02)),
    "LayerNormalization": (_times("epsilon", 1e-5, 1000),),
    "BatchNormalization": (_times("epsilon", 1e-5, 1000),),
    "InstanceNormalization": (_times("epsilon", 1e-5, 1000),),
    "Softmax": (_other_axis,),
    "Resize": (_exchange("coordinate_transformation_mode", "half_pixel", _RESIZE),),
    "Concat": (_exchanged_inputs,),
    "Sub": (_exchanged_inputs,),
    "Div": (_exchanged_inputs,),
}
