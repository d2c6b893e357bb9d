"""Export: a model argument becomes one ONNX graph, the graph becomes a checked artifact per target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from effbench import deploy
from effbench.api.export import failures
from effbench.api.export.calibration_images import calibration_images
from effbench.api.export.exporter import Exporter
from effbench.api.export.inputs import Inputs, inputs_of
from effbench.api.export.request import ExportRequest
from effbench.api.export.source import Source, resolve
from effbench.api.export.stage import Limits, Notify, silent
from effbench.api.keywords import from_fields
from effbench.errors import EffbenchError, UnavailableError, UsageError, unknown_name
from effbench.profiles import devices
from effbench.schema import DEFAULT_RESOLUTION, Artifact, Cell, Device, InputShapes, Resolution
from effbench.store import home as home_of

Request = TypeVar("Request", bound=ExportRequest)


def run_export(request: ExportRequest) -> list[Cell]:
    """Export a model to targets, once per resolution, and verify each artifact against the fp32 reference.

    Returns:
        One cell per resolution and target, in order; a cell that failed does not stop the others.

    Raises:
        UsageError: An argument that names nothing valid; nothing was done then.
        DataError: A file that is not what it should be.
    """
    exporter, plan = prepared(request)
    cells = [exporter.cell(shapes, name, request.precision, request.verify) for shapes, name in plan]
    return reduced(cells, request.reduce_s, request.notify)


def run_exports(requests: Sequence[Request], run: Callable[[Request], list[Cell]] = run_export) -> list[Cell]:
    """Run several exports; every model, size, target and option is checked before the first.

    Args:
        requests: At least one.
        run: What runs one of them.

    Returns:
        The cells of all requests, in order. If there are several, one that fails as a whole has failed cells.

    Raises:
        EffbenchError: A name or option of any request is invalid, or the only request fails as a whole.
    """
    if len(requests) == 1:
        return run(requests[0])
    checked = [check_request(request) for request in requests]
    cells: list[Cell] = []
    for request, (source, _, targets) in zip(requests, checked, strict=True):
        try:
            cells += run(request)
        except EffbenchError as error:
            # The size of a file that was not read is unknown.
            own = InputShapes.parse(DEFAULT_RESOLUTION) if source.path is None else InputShapes(None)
            for shapes in request.shapes or [own]:
                for target in targets:
                    precision = request.precision or deploy.get(target).precision
                    cells.append(Cell.of(source.name, shapes, precision, target, error))
    return cells


def check_request(request: ExportRequest) -> tuple[Source, Device | None, list[str]]:
    """Return the model, the device and the targets that a request names, before any work.

    Raises:
        UsageError: A field names nothing valid.
        DataError: A file does not exist, or is of a kind that effbench does not load.
    """
    source = resolve(request.model, request.weights, request.seed)
    for shapes in request.shapes:
        check_shapes(source, shapes)
    device = devices.get(request.device) if isinstance(request.device, str) else request.device
    targets = list(request.targets) or (targets_of(device) if device else at_hand())
    for target in targets:
        check_target(target, request.options)
    return source, device, targets


Plan = list[tuple[InputShapes, str]]
"""The cells of an export."""


def prepared(request: ExportRequest, whole_int8: bool = False) -> tuple[Exporter, Plan]:
    """Check a request, export its fp32 graphs, and return what makes its cells.

    Raises:
        UsageError: A field names nothing valid; nothing was done then.
        DataError: A file is not what it should be.
    """
    source, device, names = check_request(request)
    home, limits = home_of(request.out), Limits.of(request.time_limit_s, request.memory_limit_bytes)
    inputs = inputs_of(request, source, home, limits)
    source, sizes = _prepared_as(source, inputs), inputs.sizes
    exporter = Exporter(request, source, device, inputs, whole_int8)
    precisions = [exporter.storage_precision(name, request.precision) for name in names]
    exporter.half_targets = [name for name, stored in zip(names, precisions, strict=True) if stored == "fp16"]
    preprocessing = source.backbone.preprocessing
    exporter.calibration = calibration_images(request.images, inputs, preprocessing, precisions)
    exporter.prepare(sizes)
    declared = exporter.declared()
    if declared is not None and declared != preprocessing:
        exporter.calibration = calibration_images(request.images, inputs, declared, precisions)
    return exporter, [(shapes, name) for shapes in sizes for name in names]


def _prepared_as(source: Source, inputs: Inputs) -> Source:
    """Return an .onnx file with the preprocessing that its project declares; without one, it is assumed."""
    if source.path is None:
        return source
    preprocessing = inputs.terms.preprocessing or replace(source.backbone.preprocessing, assumed=True)
    return replace(source, backbone=replace(source.backbone, preprocessing=preprocessing))


def fp32_graph(
    source: Source, resolution: Resolution | None, home: Path, limits: Limits, notify: Notify = silent
) -> Artifact:
    """Return the fp32 graph of a model at one size, exported if it is not cached; None takes the model's own size."""
    model = str(source.path) if source.path is not None else source.name
    request = ExportRequest(model, resolutions=() if resolution is None else (resolution,), out=home, notify=notify)
    inputs = inputs_of(request, source, home, limits)
    check_shapes(source, inputs.sizes[0])
    exporter = Exporter(request, _prepared_as(source, inputs), None, inputs)
    exporter.limits = limits
    return exporter.graph(inputs.sizes[0])


def at_hand() -> list[str]:
    """Return the targets that can run here, without the reference (torch).

    Raises:
        UnavailableError: There is none.
    """
    runnable = [
        name
        for name, target in deploy.registered().items()
        if name != "torch" and target.available() is None and target.measurable() is None
        if not target.on_request
    ]
    if not runnable:
        raise UnavailableError(
            "No runtime is installed here.", hint="Install one, for example: pip install 'effbench[ort]'"
        )
    return runnable


def targets_of(device: Device) -> list[str]:
    """Return the target to export for a device: its first one that artifacts can be made for here, else its first one.

    Returns:
        A list of one target, or none if the device has none.
    """
    registered = [name for name in device.targets if name in deploy.registered()]
    available = [name for name in registered if deploy.get(name).available() is None]
    return (available or registered or list(device.targets))[:1]


def check_target(name: str, options: Mapping[str, str]) -> None:
    """Refuse an unknown target, or an option that it does not know.

    Raises:
        UsageError: With the valid names.
    """
    valid = deploy.get(name).options
    for key in options:
        if key not in valid:
            raise unknown_name(key, valid, f"option of target '{name}':")


def check_shapes(source: Source, shapes: InputShapes) -> None:
    """Refuse a size that the model does not take, before any work.

    Raises:
        UsageError: Below the model's smallest size, or not a multiple of its strides.
    """
    backbone = source.backbone
    if shapes.image is None:
        return
    if min(shapes.image) < backbone.min_resolution:
        raise UsageError(f"{source.name} takes {backbone.min_resolution} px or more, not {shapes}.")
    if any(length % backbone.stride for length in shapes.image):
        raise UsageError(f"{source.name} takes multiples of {backbone.stride} px, not {shapes}.")
    if backbone.fixed_resolution is not None and set(shapes.image) != {backbone.fixed_resolution}:
        raise UsageError(f"{source.name} takes {backbone.fixed_resolution} px only, not {shapes}.")


def reduced(cells: Sequence[Cell], limit_s: float, notify: Notify = silent) -> list[Cell]:
    """Reduce the graph of each kind of failure once, and note the outcome in the cell."""
    results, kinds = [], set()
    for cell in cells:
        if cell.record and limit_s > 0:
            record = failures.read(Path(cell.record))
            kind = (cell.target, record["signature"])
            if record["job"]["op"] == "convert" and kind not in kinds:
                kinds.add(kind)
                notify(f"search for a smaller graph that fails like {Path(cell.record).name}")
                cell = replace(cell, notes=(*cell.notes, failures.reduce(Path(cell.record), limit_s)))
        results.append(cell)
    return results


@from_fields(ExportRequest)
def export(request: ExportRequest) -> list[Cell]:
    """Export a model to targets, once per resolution, and verify each artifact against the fp32 reference.

    Arguments are the fields of `ExportRequest`; returns and errors are those of `run_export`.
    """
    return run_export(request)
