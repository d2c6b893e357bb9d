"""A torch program as data: ATen operators by name in JSON, tensors in safetensors. Reading it runs nothing.

torch's own file (`torch.export.save`) would not do: its reader unpickles tensors and inputs, evaluates expressions, and
calls whatever below ``torch`` the file names. Here a name is an operator of ATen that computes with tensors alone, and
an argument is a number, a name of a type, or an earlier value.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from effbench import reading
from effbench.errors import ConversionError, DataError

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
CHECKS = ("_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range")
"""Begin the names of operators that only check a traced assumption; they are left out."""
WITH_TEXT = ("div", "div_", "einsum", "gelu", "gelu_", "pad", "meshgrid", "bucketize", "searchsorted", "scatter_reduce")
"""The operators that may take a string, which none of them understands as the name of a file."""
PLAIN_TYPES = {
    *("Tensor", "number", "int", "float", "bool", "SymInt", "Scalar", "ScalarType", "Layout", "MemoryFormat", "Device"),
    *("Dimname",),
}
MOST_STEPS = 200_000

Step = dict[str, Any]


def save(program: Any, folder: Path) -> None:
    """Write an exported program into a folder, or the reason why it cannot be written.

    Args:
        program: A `torch.export.ExportedProgram` of a model in eval mode, or None.
        folder: Gets `PROGRAM` and `WEIGHTS`.
    """
    from safetensors.torch import save_file

    try:
        if program is None:
            raise ConversionError("torch.export", "the exporter captured no program")
        document, tensors = _described(program)
    except ConversionError as error:
        document, tensors = {"version": VERSION, "refused": error.message}, {}
    (folder / PROGRAM).write_text(json.dumps(document, allow_nan=False, separators=(",", ":")) + "\n")
    save_file(tensors, folder / WEIGHTS)


def _described(program: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a program as a document and its tensors by name; a tensor that is used under two names is stored once."""
    sources = {**program.state_dict, **program.constants}
    names: dict[tuple[Any, ...], str] = {}
    tensors: dict[str, Any] = {}
    values: dict[Any, int] = {}
    inputs: list[int] = []
    held: dict[str, str] = {}
    steps: list[Step] = []
    specs = iter(program.graph_signature.input_specs)
    outputs: Any = ()
    for node in program.graph_module.graph.nodes:
        if node.op == "placeholder":
            spec = next(specs)
            kind = spec.kind.name
            values[node] = len(values)
            if kind == "USER_INPUT":
                inputs.append(values[node])
            elif kind in ("PARAMETER", "BUFFER", "CONSTANT_TENSOR"):
                tensor = sources[spec.target].detach()
                same = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
                name = names.setdefault(same, spec.target) if tensor.numel() else spec.target
                tensors[name] = tensor.clone().contiguous()
                held[str(values[node])] = name
            else:
                raise ConversionError("torch.export", f"the program takes a {kind.lower()}")
        elif node.op == "call_function":
            name = _name_of(node.target)
            if name is not None:
                values[node] = len(values)
                steps.append(
                    {"op": name, "args": _encoded(node.args, values), "kwargs": _encoded_map(node.kwargs, values)}
                )
                steps[-1]["to"] = values[node]
        elif node.op == "output":
            results = zip(program.graph_signature.output_specs, node.args[0], strict=True)
            outputs = [_encoded(item, values) for spec, item in results if spec.kind.name == "USER_OUTPUT"]
        else:
            raise ConversionError("torch.export", f"the program holds a '{node.op}' ({node.target})")
    document = {"version": VERSION, "inputs": inputs, "tensors": held, "steps": list(_needed(steps, outputs))}
    return {**document, "outputs": outputs}, tensors


def _name_of(target: Any) -> str | None:
    """Return the name of an operator, or None for a check."""
    builtin = next((name for name, function in ARITHMETIC.items() if function is target), None)
    if builtin is not None:
        return builtin
    name = str(target)
    if name.startswith(tuple(f"aten.{check}" for check in CHECKS)):
        return None
    try:
        _operator(name)
    except DataError as error:
        raise ConversionError("torch.export", error.message) from None
    return name


def _encoded(value: Any, values: Mapping[Any, int]) -> Any:
    import torch

    if isinstance(value, torch.fx.Node):
        if value not in values:
            raise ConversionError("torch.export", f"the value of '{value}' is left out")
        return {"value": values[value]}
    if isinstance(value, (list, tuple)):
        return [_encoded(item, values) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    for kind in (torch.dtype, torch.layout, torch.memory_format):
        if isinstance(value, kind):
            return {kind.__name__: str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": "session"}
    raise ConversionError("torch.export", f"an argument is a {type(value).__name__}")


def _encoded_map(arguments: Mapping[str, Any], values: Mapping[Any, int]) -> dict[str, Any]:
    return {name: _encoded(value, values) for name, value in arguments.items()}


def _needed(steps: Sequence[Step], outputs: Any) -> Iterator[Step]:
    """Yield the steps without arithmetic on sizes that only a check used."""
    references = set(_references(outputs))
    needed = []
    for step in reversed(steps):
        if step["to"] in references or not step["op"].startswith(("python.", "aten.sym_")):
            references |= set(_references([step["args"], list(step["kwargs"].values())]))
            needed.append(step)
    yield from reversed(needed)


def _references(encoded: Any) -> Iterator[int]:
    if isinstance(encoded, list):
        for item in encoded:
            yield from _references(item)
    elif isinstance(encoded, dict) and "value" in encoded:
        yield encoded["value"]


def _operator(name: str) -> Callable[..., Any]:
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
            for index in _references([step["args"], list(step["kwargs"].values())])
        }
        never_freed = {*known, *_references(document["outputs"])}
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
            function = _operator(str(step["op"]))
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
