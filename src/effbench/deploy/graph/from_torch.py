"""Export torch modules to ONNX, once per resolution and batch; every target translates that graph."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any, NamedTuple

from effbench.deploy.graph import onnx_file
from effbench.errors import ConversionError, MissingDependencyError
from effbench.schema import InputSpec

if TYPE_CHECKING:
    import onnx
    from torch import nn

OPSET = 20
"""From opset 20 on GELU is one node; ONNX Runtime, OpenVINO and TensorRT take it."""

INPUT, OUTPUT = "image", "output"


def image_inputs(channels: int, resolution: tuple[int, int], batch: int | None) -> tuple[InputSpec, ...]:
    """Return the inputs of a model that takes one image, shape (batch, channels, height, width)."""
    return (InputSpec(INPUT, "float32", (batch, channels, *resolution)),)


class Exported(NamedTuple):
    """A graph, and the `torch.export.ExportedProgram` that it was translated from."""

    model: onnx.ModelProto
    program: Any


def from_module(
    module: nn.Module, inputs: Sequence[InputSpec], batch: int | None, names: Sequence[str] = (OUTPUT,)
) -> onnx.ModelProto:
    """Export an eval-mode module to ONNX; arguments and errors as in `export`."""
    return export(module, inputs, batch, names).model


def export(
    module: nn.Module, inputs: Sequence[InputSpec], batch: int | None, names: Sequence[str] = (OUTPUT,)
) -> Exported:
    """Export an eval-mode module that takes tensors in the order of its inputs.

    Args:
        module: The model, in eval mode; the exporter folds a BatchNorm behind a convolution.
        inputs: Of whole shapes; their batch is replaced by ``batch``.
        batch: The fixed batch size, or None for a dynamic one.
        names: Of the tensors that the module returns, in order.

    Returns:
        The graph with opset 20 and IR version 10, shapes inferred, exporter notes removed.

    Raises:
        ConversionError: The exporter refuses it.
        MissingDependencyError: torch, onnx or onnxscript is not installed.
    """
    try:
        import onnxscript  # noqa: F401
        import torch
    except ImportError as error:
        raise MissingDependencyError("Exporting a torch model", error.name or "torch", "torch") from error
    # With an example batch of 1, a dynamic batch is silently exported as a static 1.
    example = tuple(_example(spec, 2 if batch is None else batch) for spec in inputs)
    dimension = torch.export.Dim("batch")
    axes = tuple({} if spec.batch_axis is None else {spec.batch_axis: dimension} for spec in inputs)
    dynamic = None if batch is not None else axes
    quiet = io.StringIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(quiet), redirect_stderr(quiet), _captured() as programs:
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _exportable(module, example),
                example,
                dynamo=True,
                opset_version=OPSET,
                input_names=[spec.name for spec in inputs],
                output_names=list(names),
                dynamic_shapes=dynamic,
                optimize=True,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, torch.onnx.errors.OnnxExporterError) as error:
        raise ConversionError("torch.onnx.export", _root_cause(error), hint=_advice(error)) from error
    assert program is not None
    model = onnx_file.infer_shapes(onnx_file.tidy(program.model_proto), "the exported graph")
    _check_batch(model, inputs, batch)
    return Exported(model, programs[-1] if programs else None)


def _exportable(module: nn.Module, example: Any) -> Any:
    """Return a module as it is, or the program of a scripted or traced one, which torch.export does not take.

    Raises:
        ConversionError: torch cannot convert it.
    """
    import torch

    if not isinstance(module, torch.jit.ScriptModule):
        return module
    from torch._export.converter import TS2EPConverter

    try:
        converted = TS2EPConverter(module, example).convert()
        # It leaves every size open; captured again, the program has those of the example.
        return torch.export.export(converted.module(), example)
    except Exception as error:  # of any class: it interprets the script, and has no class of its own
        raise ConversionError(
            "torch.export of a scripted module", _root_cause(error), hint="Return the module before torch.jit."
        ) from error


@contextmanager
def _captured() -> Iterator[list[Any]]:
    """Collect the programs that torch.onnx captures; what it returns holds a decomposed one, with other operators."""
    import torch

    programs: list[Any] = []
    capture = torch.export.export

    def keep(*arguments: Any, **named: Any) -> Any:
        programs.append(capture(*arguments, **named))
        return programs[-1]

    torch.export.export = keep
    try:
        yield programs
    finally:
        torch.export.export = capture


def _root_cause(error: BaseException) -> str:
    """Return the first cause: the exporter's own message explains how to file a bug, not what is wrong."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), 'no message')}"


def _advice(error: BaseException) -> str | None:
    """Return what to change where the cause is of a known kind."""
    cause = _root_cause(error)
    if any(word in cause for word in ("data-dependent", "GuardOnDataDependent", "DynamicControlFlow", "unbacked")):
        return "The model branches on the values of a tensor; write that with torch.cond or torch.where."
    return None


def _example(spec: InputSpec, batch: int) -> Any:
    import torch

    shape = [batch if axis == spec.batch_axis else side or 1 for axis, side in enumerate(spec.shape)]
    return torch.zeros(shape, dtype=getattr(torch, spec.dtype))


def _check_batch(model: onnx.ModelProto, inputs: Sequence[InputSpec], batch: int | None) -> None:
    axes = [spec.batch_axis for spec in inputs]
    if any(axis != 0 for axis in axes):
        return  # outputs may put the batch anywhere; the first proof finds out
    for spec in (*onnx_file.inputs(model), *onnx_file.specs(model.graph.output)):
        if not spec.shape or spec.shape[0] != batch:
            actual = spec.shape[0] if spec.shape else "no dimension"
            expected = "a dynamic one" if batch is None else batch
            raise ConversionError("torch.onnx.export", f"'{spec.name}' has batch {actual} instead of {expected}.")
