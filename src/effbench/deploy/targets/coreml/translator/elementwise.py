"""ONNX operators that work element by element, logic and casts included."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from effbench.deploy.targets.coreml.lazy import mb
from effbench.deploy.targets.coreml.translator.registry import (
    CAST_NAMES,
    RULES,
    Node,
    cast,
    dtype_of,
    is_float,
    like,
    operator,
    rank_of,
    shape_of,
    through,
)

UNARY = {
    **{name: name.lower() for name in ("Abs", "Acos", "Asin", "Atan", "Atanh", "Ceil", "Cos", "Cosh", "Erf", "Exp")},
    **{name: name.lower() for name in ("Floor", "Round", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign")},
    **{name: name.lower() for name in ("Sqrt", "Tan", "Tanh")},
    "Not": "logical_not",
}
BINARY = {
    "Add": "add",
    "Sub": "sub",
    "Mul": "mul",
    "Equal": "equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
    "And": "logical_and",
    "Or": "logical_or",
    "Xor": "logical_xor",
}
VARIADIC = {"Max": "maximum", "Min": "minimum", "Sum": "add"}


def _unary(name: str) -> Callable[[Node], Any]:
    return lambda node: getattr(mb, name)(x=node.tensor(0))


def _binary(name: str) -> Callable[[Node], Any]:
    return lambda node: getattr(mb, name)(x=node.tensor(0), y=node.tensor(1))


def _variadic(name: str) -> Callable[[Node], Any]:
    return lambda node: reduce(
        lambda x, y: getattr(mb, name)(x=x, y=y), [node.tensor(i) for i in range(len(node.inputs))]
    )


RULES.update({op: _unary(name) for op, name in UNARY.items()})
RULES.update({op: _binary(name) for op, name in BINARY.items()})
RULES.update({op: _variadic(name) for op, name in VARIADIC.items()})


@operator("Neg")
def neg(node: Node) -> Any:
    """Multiply by -1."""
    x = node.tensor(0)
    return mb.mul(x=x, y=like(-1, x))


@operator("Relu")
def relu(node: Node) -> Any:
    """Use ``relu``; integers take a maximum."""
    x = node.tensor(0)
    return mb.relu(x=x) if is_float(x) else mb.maximum(x=x, y=like(0, x))


@operator("Reciprocal")
def reciprocal(node: Node) -> Any:
    """Divide 1: MIL's ``inverse`` adds an epsilon."""
    x = node.tensor(0)
    return mb.real_div(x=like(1, x), y=x)


@operator("Log")
def log(node: Node) -> Any:
    """Use ``log`` with an epsilon of zero: the default of 1e-45 would make the logarithm of 0 finite."""
    x = node.tensor(0)
    return mb.log(x=x, epsilon=like(0, x))


@operator("Acosh")
def acosh(node: Node) -> Any:
    """Take the logarithm of x + sqrt(x^2 - 1)."""
    x = node.tensor(0)
    root = mb.sqrt(x=mb.sub(x=mb.mul(x=x, y=x), y=like(1, x)))
    return mb.log(x=mb.add(x=x, y=root), epsilon=like(0, x))


@operator("Asinh")
def asinh(node: Node) -> Any:
    """Return sign(x) log(|x| + sqrt(x^2 + 1)), which does not cancel for negative x."""
    x = node.tensor(0)
    root = mb.sqrt(x=mb.add(x=mb.mul(x=x, y=x), y=like(1, x)))
    return mb.mul(x=mb.sign(x=x), y=mb.log(x=mb.add(x=mb.abs(x=x), y=root), epsilon=like(0, x)))


@operator("Mean")
def mean(node: Node) -> Any:
    """Sum, then divide by the count."""
    total = _variadic("add")(node)
    return mb.mul(x=total, y=like(1 / len(node.inputs), total))


@operator("Div")
def div(node: Node) -> Any:
    """Divide; integers round toward zero, as ONNX specifies."""
    x, y = node.tensor(0), node.tensor(1)
    if is_float(x):
        return mb.real_div(x=x, y=y)
    signs = mb.mul(x=mb.sign(x=x), y=mb.sign(x=y))
    return mb.mul(x=signs, y=mb.floor_div(x=mb.abs(x=x), y=mb.abs(x=y)))


@operator("Mod")
def mod(node: Node) -> Any:
    """Use ``mod``, which follows the divisor's sign; ``fmod`` follows the dividend's."""
    x, y = node.tensor(0), node.tensor(1)
    if not node.get("fmod", 0):
        return mb.mod(x=x, y=y)
    return mb.mul(x=mb.sign(x=x), y=mb.mod(x=mb.abs(x=x), y=mb.abs(x=y)))


@operator("Pow")
def power(node: Node) -> Any:
    """Raise to a power, the exponent in the base's type; squares and roots become simpler operations."""
    x, y = node.tensor(0), node.tensor(1)
    if not is_float(x):
        return cast(mb.pow(x=cast(x, "float32"), y=cast(y, "float32")), dtype_of(x).name)
    if isinstance(y, np.ndarray) and y.size == 1 and rank_of(y) <= rank_of(x):
        exponent = float(y.reshape(()))
        if exponent in (1.0, 2.0, 0.5):
            return {1.0: lambda: x, 2.0: lambda: mb.mul(x=x, y=x), 0.5: lambda: mb.sqrt(x=x)}[exponent]()
    return mb.pow(x=x, y=y.astype(dtype_of(x)) if isinstance(y, np.ndarray) else cast(y, dtype_of(x).name))


@operator("Where")
def where(node: Node) -> Any:
    """Use ``select``, on operands of one shape."""
    condition, a, b = (node.tensor(i) for i in range(3))
    shape = np.broadcast_shapes(*(shape_of(value) for value in (condition, a, b)))
    condition, a, b = (_broadcast(value, shape) for value in (condition, a, b))
    return mb.select(cond=condition, a=a, b=b)


def _broadcast(value: Any, shape: tuple[int, ...]) -> Any:
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(np.broadcast_to(value, shape))
    return expand(value, shape)


def expand(value: Any, shape: tuple[int, ...]) -> Any:
    """Repeat a variable to a shape it broadcasts to."""
    extended = (1,) * (len(shape) - rank_of(value)) + shape_of(value)
    if extended == shape:
        return value if rank_of(value) == len(shape) else mb.reshape(x=value, shape=list(extended))
    if rank_of(value) != len(shape):
        value = mb.reshape(x=value, shape=list(extended))
    reps = [size // old for size, old in zip(shape, extended, strict=True)]
    if dtype_of(value) == np.bool_:
        return through(value, "int32", lambda x: mb.tile(x=x, reps=reps))
    return mb.tile(x=value, reps=reps)


@operator("Clip")
def clip(node: Node) -> Any:
    """Use ``relu6``, ``relu`` or ``clip`` if the limits allow, else a maximum and a minimum."""
    x = node.tensor(0)
    limits = [_limit(node, 1, "min"), _limit(node, 2, "max")]
    known = [None if limit is None else float(limit) for limit in limits if not _is_variable(limit)]
    if len(known) == 2 and is_float(x):
        if known == [0.0, None]:
            return mb.relu(x=x)
        if known == [0.0, 6.0]:
            return mb.relu6(x=x)
        if None not in known and known[0] <= known[1]:  # type: ignore[operator]
            return mb.clip(x=x, alpha=like(known[0], x), beta=like(known[1], x))  # type: ignore[arg-type]
    for limit, name in zip(limits, ("maximum", "minimum"), strict=True):
        if limit is not None:
            x = getattr(mb, name)(x=x, y=limit if _is_variable(limit) else like(limit, x))
    return x if not all(limit is None for limit in limits) else mb.identity(x=x)


def _is_variable(value: Any) -> bool:
    return value is not None and not isinstance(value, (np.ndarray, np.generic, float, int))


def _limit(node: Node, index: int, attribute: str) -> Any:
    if index in node:
        value = node.tensor(index)
        return value.reshape(())[()] if isinstance(value, np.ndarray) else value
    return node.attributes.get(attribute)


@operator("Cast", "CastLike")
def convert(node: Node) -> Any:
    """Change the element type; 64-bit integers become 32-bit ones."""
    import onnx

    if node.op == "CastLike":
        target = dtype_of(node.tensor(1)).name
    else:
        target = onnx.helper.tensor_dtype_to_np_dtype(node.attributes["to"]).name
    if target not in CAST_NAMES:
        raise node.error(f"casts to {target}, which Core ML does not compute in")
    return cast(node.tensor(0), target)


@operator("IsNaN")
def is_nan(node: Node) -> Any:
    """Compare with itself."""
    x = node.tensor(0)
    return mb.not_equal(x=x, y=x)


@operator("IsInf")
def is_inf(node: Node) -> Any:
    """Compare with the infinities that the attributes select."""
    x = node.tensor(0)
    signs = [sign for sign, key in ((1, "detect_positive"), (-1, "detect_negative")) if node.get(key, 1)]
    matches = [mb.equal(x=x, y=like(sign * np.inf, x)) for sign in signs]
    if not matches:
        return mb.less(x=mb.abs(x=x), y=like(0, x))  # false everywhere, for NaN too
    return matches[0] if len(matches) == 1 else mb.logical_or(x=matches[0], y=matches[1])
