"""Read a stored torch program and run it operator by operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from effbench import reading
from effbench.deploy.graph.torch_program.form import MOST_STEPS, PROGRAM, VERSION, WEIGHTS, operator_of, references
from effbench.errors import DataError


class Program:
    """A program that was read from a folder; a call runs it eagerly, operator by operator.

    Raises:
        DataError: The files are damaged, or name something that a program may not use.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = folder / PROGRAM
        try:
            content = reading.file_bytes(path, reading.JSON_BYTES)
            document = reading.json_value(content, "the program", finite=False, longest=None)
            tensors = load_file(folder / WEIGHTS, device)
            self._read(document, tensors, device)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or error}.", hint="Export the model again.") from error
        except DataError as error:
            raise DataError(f"{path}: {error.message}", hint="Export the model again.") from None
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            text = f"{path}: not a torch program ({type(error).__name__}: {error})."
            raise DataError(text, hint="Export the model again.") from error

    def _read(self, document: Mapping[str, Any], tensors: Mapping[str, Any], device: str) -> None:
        if document["version"] != VERSION or len(document["steps"]) > MOST_STEPS:
            raise DataError(f"version {document['version']!r}, {len(document['steps'])} steps: not of this version.")
        self.operators = len(document["steps"])
        self._inputs: list[int] = [int(index) for index in document["inputs"]]
        held = {int(index): tensors[name] for index, name in document["tensors"].items()}
        known = {*self._inputs, *held}
        last_use = {
            index: number
            for number, step in enumerate(document["steps"])
            for index in references([step["args"], list(step["kwargs"].values())])
        }
        never_freed = {*known, *references(document["outputs"])}
        self._steps: list[tuple[Callable[..., Any], Any, Any, int, tuple[int, ...]]] = []
        for number, step in enumerate(document["steps"]):
            arguments = (
                _template(step["args"], known, device),
                _template(list(step["kwargs"].values()), known, device),
            )
            to = int(step["to"])
            if to in known or to < 0:
                raise DataError(f"value {to} is defined twice.")
            known.add(to)
            free = tuple(index for index, last in last_use.items() if last == number and index not in never_freed)
            function = operator_of(str(step["op"]))
            self._steps.append((_bound(function, tuple(step["kwargs"])), *arguments, to, free))
        self._outputs = [_template(item, known, device) for item in document["outputs"]]
        self._start: list[Any] = [None] * (1 + max(known, default=0))
        if len(self._start) > 2 * MOST_STEPS:
            raise DataError(f"it numbers values up to {len(self._start)}.")
        for index, tensor in held.items():
            self._start[index] = tensor

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        """Run the program on tensors; return its outputs. Values are freed after their last use, as in eager code."""
        values = self._start.copy()
        for index, value in zip(self._inputs, inputs, strict=True):
            values[index] = value
        for function, arguments, named, to, free in self._steps:
            values[to] = function(_filled(arguments, values), _filled(named, values))
            for index in free:
                values[index] = None
        return tuple(_filled(item, values) for item in self._outputs)


class _Value(int):
    """The index of a value, as distinct from a number."""


class _List(list[Any]):
    """A list that holds values at some depth, so that it has to be filled at each call."""


def _template(encoded: Any, known: set[int], device: str) -> Any:
    """Decode an argument; references become `_Value`, and lists without any are decoded once for all calls."""
    import torch

    if isinstance(encoded, list):
        items = [_template(item, known, device) for item in encoded]
        return _List(items) if any(isinstance(item, (_Value, _List)) for item in items) else items
    if not isinstance(encoded, dict):
        return encoded
    ((kind, content),) = encoded.items()
    if kind == "value":
        if content not in known or type(content) is not int:
            raise DataError(f"value {content!r} is used before it is defined.")
        return _Value(content)
    if kind == "float":
        return float(content)
    if kind == "device":
        return torch.device(device)
    types = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}
    value = getattr(torch, str(content), None) if kind in types and str(content).isidentifier() else None
    if kind not in types or not isinstance(value, types[kind]):
        raise DataError(f"an argument is {encoded!r}.")
    return value


def _filled(template: Any, values: list[Any]) -> Any:
    if type(template) is _Value:
        return values[template]
    if type(template) is _List:
        return [_filled(item, values) for item in template]
    return template


def _bound(function: Callable[..., Any], names: tuple[str, ...]) -> Callable[[Any, Any], Any]:
    """Return a function of the two lists of arguments; ``names`` belong to the second."""
    if not all(name.isidentifier() for name in names):
        raise DataError(f"the names {names!r} are no arguments.")
    if not names:
        return lambda arguments, _: function(*arguments)
    return lambda arguments, named: function(*arguments, **dict(zip(names, named, strict=True)))
