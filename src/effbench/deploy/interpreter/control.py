"""Control flow: branches and loops over subgraphs, which arrive as functions of their inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from effbench.deploy.interpreter.registry import OpCall, operator

Body = Callable[..., list[Tensor]]


@operator("If", moves=True)
def branch(call: OpCall, condition: Tensor, *, then_branch: Body, else_branch: Body) -> list[Tensor]:
    """Run one of two subgraphs."""
    return then_branch() if bool(condition.reshape(())) else else_branch()


@operator("Loop", moves=True)
def loop(
    call: OpCall, trips: Tensor | None = None, condition: Tensor | None = None, *states: Tensor, body: Body
) -> list[Tensor]:
    """Repeat a subgraph; returns the last states, then what each trip appended, stacked.

    Raises:
        ValueError: There was no trip, so that the shape of what trips append is unknown.
    """
    carried, rows = list(states), list[list[Tensor]]()
    alive = condition is None or bool(condition.reshape(()))
    trip = 0
    while alive and (trips is None or trip < int(trips)):
        outputs = body(torch.tensor(trip), torch.tensor(alive), *carried)
        alive = bool(outputs[0].reshape(()))
        carried, appended = outputs[1 : 1 + len(states)], outputs[1 + len(states) :]
        rows.append(appended)
        trip += 1
    if not rows and call.outputs > len(states):
        raise ValueError("a loop without a trip has no outputs to stack")
    return [*carried, *(torch.stack(column) for column in zip(*rows, strict=True))]


@operator("Scan", since=9, moves=True)
def scan(
    call: OpCall,
    *inputs: Tensor,
    body: Body,
    num_scan_inputs: int,
    scan_input_axes: Sequence[int] | None = None,
    scan_input_directions: Sequence[int] | None = None,
    scan_output_axes: Sequence[int] | None = None,
    scan_output_directions: Sequence[int] | None = None,
) -> list[Tensor]:
    """Run a subgraph over slices of the last inputs; returns the last states, then the outputs of each step, stacked.

    Directions are 0 for forward and 1 for backward.
    """
    count = len(inputs) - num_scan_inputs
    states = list(inputs[:count])
    axes = list(scan_input_axes or [0] * num_scan_inputs)
    backward = list(scan_input_directions or [0] * num_scan_inputs)
    slices = [list(x.unbind(axis)) for x, axis in zip(inputs[count:], axes, strict=True)]
    slices = [rows[::-1] if reverse else rows for rows, reverse in zip(slices, backward, strict=True)]
    appended: list[list[Tensor]] = []
    for row in zip(*slices, strict=True):
        outputs = body(*states, *row)
        states = outputs[:count]
        appended.append(outputs[count:])
    columns = list(zip(*appended, strict=True))
    places = list(scan_output_axes or [0] * len(columns))
    reversed_ = list(scan_output_directions or [0] * len(columns))
    ordered = [column[::-1] if reverse else column for column, reverse in zip(columns, reversed_, strict=True)]
    return [*states, *(torch.stack(column, axis) for column, axis in zip(ordered, places, strict=True))]


@operator("Scan", since=8, moves=True)
def scan_8(
    call: OpCall,
    lengths: Tensor | None,
    *inputs: Tensor,
    body: Body,
    num_scan_inputs: int,
    directions: Sequence[int] | None = None,
) -> list[Tensor]:
    """Scan each entry of a batch, as opset 8 defines it: states (B, ...), scanned inputs (B, T, ...).

    Raises:
        NotImplementedError: The sequences have different lengths.
    """
    if lengths is not None:
        raise NotImplementedError("sequences of different lengths")
    entries = [
        scan(
            call, *(x[i] for x in inputs), body=body, num_scan_inputs=num_scan_inputs, scan_input_directions=directions
        )
        for i in range(inputs[0].shape[0])
    ]
    return [torch.stack(column) for column in zip(*entries, strict=True)]
