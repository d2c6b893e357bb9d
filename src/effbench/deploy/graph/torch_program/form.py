"""The form of a stored torch program: its files, and the operators that it may name."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from typing import Any

from effbench.errors import DataError

PROGRAM, WEIGHTS = "program.json", "weights.safetensors"
VERSION = 1
OPERATOR = re.compile(r"aten\.([a-z]\w*|_unsafe_view|_to_copy|_softmax|_log_softmax|_adaptive_avg_pool2d)\.(\w+)")
ARITHMETIC = {
    f"python.{name}": getattr(operator, name)
    for name in (
        "add",
        "eq",
        "floordiv",
        "ge",
        "getitem",
        "gt",
        "le",
        "lt",
        "mod",
        "mul",
        "ne",
        "neg",
        "sub",
        "truediv",
    )
}
"""On sizes; ``getitem`` selects one of an operator's outputs."""
WITH_TEXT = ("div", "div_", "einsum", "gelu", "gelu_", "pad", "meshgrid", "bucketize", "searchsorted", "scatter_reduce")
"""The operators that may take a string, which none of them understands as the name of a file."""
PLAIN_TYPES = {
    *("Tensor", "number", "int", "float", "bool", "SymInt", "Scalar", "ScalarType", "Layout", "MemoryFormat", "Device"),
    *("Dimname",),
}
MOST_STEPS = 200_000


def operator_of(name: str) -> Callable[..., Any]:
    """Return the operator of a name.

    Raises:
        DataError: It is none that computes with tensors alone.
    """
    import torch

    if name in ARITHMETIC:
        function: Callable[..., Any] = ARITHMETIC[name]
        return function
    match = OPERATOR.fullmatch(name)
    operator = getattr(getattr(torch.ops.aten, match[1], None), match[2], None) if match else None
    if match is None or not isinstance(operator, torch._ops.OpOverload):
        raise DataError(f"'{name}' is no operator that a torch program may use.")
    for argument in operator._schema.arguments:
        kinds = set(re.findall(r"[A-Za-z]+", str(argument.type).replace("Optional", "").replace("List", "")))
        if not kinds <= PLAIN_TYPES and not (kinds == {"str"} and match[1] in WITH_TEXT):
            raise DataError(f"'{name}' takes {argument.type}, which a torch program may not use.")
    return operator


def references(encoded: Any) -> Iterator[int]:
    """Yield the indices of the values that an encoded argument refers to."""
    if isinstance(encoded, list):
        for item in encoded:
            yield from references(item)
    elif isinstance(encoded, dict) and "value" in encoded:
        yield encoded["value"]
