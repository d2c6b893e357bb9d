"""The tensors in a module's result: a dict, tuple, dataclass or named tuple of them, nested, with None and numbers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from effbench.errors import ConversionError

OUTPUT = "output"
"""The name of the only tensor, and the beginning of names where a result has none."""


def tensors(result: Any) -> dict[str, Tensor]:
    """Return the tensors of a result by name, in order; None and numbers are left out.

    A name is the path to the tensor: keys and fields by their names, places in a sequence by their numbers. A tensor
    without dimensions becomes one of shape (1,), and bfloat16 becomes float32.

    Raises:
        ConversionError: There is no tensor, or something that is none of all these.
    """
    leaves = [(_name(path), _numeric(value)) for path, value in _walk(result, ())]
    named = dict(leaves)
    if not named:
        raise ConversionError("forward pass", f"the model returns no tensor but {_kind(result)}")
    if len(named) < len(leaves):
        raise ConversionError("forward pass", f"two outputs have the name '{_repeated([name for name, _ in leaves])}'")
    return named


def _numeric(value: Tensor) -> Tensor:
    """Return a tensor with a dimension, of a type that NumPy has."""
    value = value if value.dim() else value.reshape(1)
    return value.float() if value.dtype is torch.bfloat16 else value


def _walk(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    if torch.is_tensor(value):
        yield path, value
        return
    if value is None or isinstance(value, (bool, int, float, str)):
        return
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        items = list(zip(value._fields, value, strict=True))
    elif isinstance(value, (tuple, list)):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        raise ConversionError(
            "forward pass",
            f"the model returns {_kind(value)}, which holds no tensors that effbench can name",
            hint="Return tensors in a tuple, a list, a dict, a dataclass or a named tuple.",
        )
    for key, item in items:
        yield from _walk(item, (*path, key))


def _name(path: tuple[str, ...]) -> str:
    name = re.sub(r"\W+", "_", "_".join(path)).strip("_")
    return name if name and not name[0].isdigit() else "_".join([OUTPUT, *([name] if name else [])])


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}" if value is not None else "None"


def _repeated(names: list[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


@contextmanager
def as_tuple(module: nn.Module) -> Iterator[None]:
    """Let a module return a plain tuple of its tensors inside, as exporters expect; a scripted one stays as it is.

    A hook keeps the paths of submodules, after which nodes are named; a module around this one would not.
    """
    if isinstance(module, torch.jit.ScriptModule):
        yield
        return
    handle = module.register_forward_hook(lambda _, __, result: tuple(tensors(result).values()))
    try:
        yield
    finally:
        handle.remove()
