"""Export: a model argument becomes one ONNX graph, the graph becomes a checked artifact per target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from effbench import deploy
from effbench.api import bounded, failures
from effbench.api.pictures import pictures_for
from effbench.api.request import Request
from effbench.api.source import Source, resolve
from effbench.api.stage import AGENT, STAGE_LIMIT_S, WORKER, Limits, Notify, silent
from effbench.api.verify import find_artifact
from effbench.errors import (
    UnavailableError,
    UsageError,
    did_you_mean,
)
from effbench.profiles import devices
from effbench.schema import (
    PRECISIONS,
    Artifact,
    Cell,
    Device,
    parse_resolution,
    resolution_text,
)
from effbench.store import home as home_of


def export(
    model: str,
    targets: Sequence[str] = (),
    resolutions: Sequence[str | int] = (224,),
    *,
    precision: str | None = None,
    calibration: str | Path | None = None,
    max_drop: float | None = None,
    data: str | Path | None = None,
    classes: str | Path | None = None,
    batch: int = 1,
    dynamic_batch: bool = False,
    weights: str | None = None,
    seed: int = 0,
    options: Mapping[str, str] | None = None,
    device: str | Device | None = None,
    verify: bool = True,
    out: str | Path | None = None,
    allow_fallback: bool = False,
    time_limit_s: float = STAGE_LIMIT_S,
    cell_limit_s: float | None = None,
    memory_limit_bytes: int | None = None,
    reduce_s: float = failures.REDUCE_S,
    notify: Notify = silent,
) -> list[Cell]:
    """Export a model to targets, once per resolution, and verify each artifact against the fp32 reference.

    Args:
        model: A registered name, a path to an .onnx file, or ``package.module:factory``.
        targets: Names; none means every target that runs on this machine.
        resolutions: Pixels (``512``) or height x width (``384x640``).
        precision: Written into the graph; None takes each target's default.
        calibration: A folder of pictures that int8 and a16w8 are calibrated with, or ``synthetic``: latency only.
        max_drop: With int8: how many points of top-1 it may cost; what costs more stays in float (docs/quantize.md).
        data: The pictures that `max_drop` is judged on, with labels or without.
        classes: A file that lists their classes in the order of the outputs.
        batch: Fixed batch size.
        dynamic_batch: Leave the batch open instead.
        weights: A .safetensors file; without it the model is untrained, from ``seed``.
        seed: Of untrained weights.
        options: What the targets accept as ``--set key=value``.
        device: Its profile picks targets, precisions and options where the arguments above leave them open.
        verify: Compare with the reference and record the result.
        out: The folder to write below (`store.home`).
        allow_fallback: Accept operators that another unit takes over, and record them.
        time_limit_s: For each stage.
        cell_limit_s: For all stages of this call together; None sets none.
        memory_limit_bytes: For each stage; None takes four fifths of the machine's memory.
        reduce_s: How long to look for a smaller graph that fails in the same way; 0 looks for none.
        notify: Called with one line per step.

    Returns:
        One cell per resolution and target, in order; a cell that failed does not stop the others.

    Raises:
        UsageError: An argument that names nothing valid; nothing was done then.
        DataError: A file that is not what it should be.
    """
    source = resolve(model, weights, seed)
    sizes = [parse_resolution(text) for text in resolutions]
    for size in sizes:
        check_resolution(source, size)
    if precision is not None and precision not in PRECISIONS:
        raise did_you_mean(precision, PRECISIONS, "precision")
    if batch < 1:
        raise UsageError(f"Batch {batch} is not a number of pictures.", hint="Give 1 or more.")
    used = devices.get(device) if isinstance(device, str) else device
    names = list(targets) or (targets_of(used) if used else at_hand())
    plan = [(size, name) for size in sizes for name in names]
    for name in names:
        check_target(name, options or {})
    limits = Limits.of(time_limit_s, memory_limit_bytes, cell_limit_s)
    request = Request(source, batch, dynamic_batch, dict(options or {}), home_of(out), limits, notify, used)
    wanted = [request.wanted(name, precision) for name in names]
    request.pictures = pictures_for(calibration, source.backbone, sizes, wanted)
    if max_drop is not None or data is not None:
        bounded.check_arguments(precision, calibration, max_drop, data)
    request.prepare(sizes)
    request.allow_fallback = allow_fallback
    declared = request.declared()
    if declared is not None and declared != source.backbone.preprocessing:
        backbone = replace(source.backbone, preprocessing=declared)
        request.pictures = pictures_for(calibration, backbone, sizes, wanted)
    if max_drop is not None and data is not None:
        return bounded.cells(request, plan, verify, max_drop, Path(data), classes)
    cells = [request.cell(size, name, precision, verify) for size, name in plan]
    return reduced(cells, reduce_s, notify)


def graph_of(source: Source, size: tuple[int, int], home: Path, limits: Limits, notify: Notify = silent) -> Artifact:
    """Return the fp32 graph of a model at one size and batch 1; made where it is not there."""
    check_resolution(source, size)
    return Request(source, 1, False, {}, home, limits, notify, None).graph(size)


def at_hand() -> list[str]:
    """Return the targets that can run here, the reference (torch) left out.

    Raises:
        UnavailableError: There is none.
    """
    found = [
        name
        for name, target in deploy.registered().items()
        if name != "torch" and target.available() is None and target.measurable() is None
        if not getattr(target, "on_request", False)
    ]
    if not found:
        raise UnavailableError(
            "No runtime is installed here.", hint="Install one, for example: pip install 'effbench[ort]'"
        )
    return found


def targets_of(device: Device) -> list[str]:
    """Return the targets of a device that artifacts can be made for here; where there is none, those that were missed.

    A device's first target is the one it is for: where it can be made here, it is the only one.
    """
    known = [name for name in device.targets if name in deploy.registered()]
    made = [name for name in known if deploy.get(name).available() is None]
    return (made or known or list(device.targets))[:1]


def check_target(name: str, options: Mapping[str, str]) -> None:
    """Refuse an unknown target, or an option that it does not know.

    Raises:
        UsageError: With the valid names.
    """
    known = deploy.get(name).options
    for key in options:
        if key not in known:
            raise did_you_mean(key, known, f"option of target '{name}':")


def check_resolution(source: Source, size: tuple[int, int]) -> None:
    """Refuse a size that the model is known not to take, before any work.

    Raises:
        UsageError: Below the model's smallest size, or not a multiple of its strides.
    """
    backbone, text = source.backbone, resolution_text(size)
    if min(size) < backbone.min_resolution:
        raise UsageError(f"{source.name} takes {backbone.min_resolution} px or more, not {text}.")
    if any(side % backbone.stride for side in size):
        raise UsageError(f"{source.name} takes multiples of {backbone.stride} px, not {text}.")
    if backbone.fixed_resolution is not None and set(size) != {backbone.fixed_resolution}:
        raise UsageError(f"{source.name} takes {backbone.fixed_resolution} px only, not {text}.")


def reduced(cells: Sequence[Cell], limit_s: float, notify: Notify = silent) -> list[Cell]:
    """Reduce the graph of each kind of failure once, and tell in the cell how that ended."""
    found, seen = [], set()
    for cell in cells:
        if cell.record and limit_s > 0:
            record = failures.read(Path(cell.record))
            kind = (cell.target, record["signature"])
            if record["job"]["op"] == "convert" and kind not in seen:
                seen.add(kind)
                notify(f"look for a smaller graph that fails like {Path(cell.record).name}")
                cell = replace(cell, notes=(*cell.notes, failures.reduce(Path(cell.record), limit_s)))
        found.append(cell)
    return found


__all__ = [
    "AGENT",
    "STAGE_LIMIT_S",
    "WORKER",
    "Notify",
    "at_hand",
    "export",
    "find_artifact",
    "silent",
]
