"""Write the program that torch.export captured as operators, arguments and tensors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from effbench.deploy.graph.torch_program.form import (
    ARITHMETIC,
    PROGRAM,
    VERSION,
    WEIGHTS,
    operator_of,
    references,
)
from effbench.errors import ConversionError, DataError

CHECKS = ("_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range")
"""Begin the names of operators that only check a traced assumption; they are left out."""

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
        operator_of(name)
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
    read = set(references(outputs))
    needed = []
    for step in reversed(steps):
        if step["to"] in read or not step["op"].startswith(("python.", "aten.sym_")):
            read |= set(references([step["args"], list(step["kwargs"].values())]))
            needed.append(step)
    yield from reversed(needed)
