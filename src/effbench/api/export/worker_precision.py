"""Jobs of the export worker that write a precision into a graph, or examine a graph in half precision."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from effbench.api.export.source import versions
from effbench.api.export.stages import Stages
from effbench.codec import to_json
from effbench.deploy.artifact import bundle, feeding, fidelity
from effbench.deploy.graph import onnx_file
from effbench.deploy.precision.calibration import SYNTHETIC, Calibration
from effbench.errors import ConversionError, DataError, FidelityError, UnsupportedError
from effbench.schema import CALIBRATED, Artifact, image_of


def precision(job: dict[str, Any], emit: Any) -> None:
    """Write a precision into an fp32 graph; the result is a graph artifact with a reference to verify it by."""
    import onnx

    stages = Stages(emit)
    source = bundle.load(Path(job["graph"]))

    def build(draft: Path) -> Artifact:
        stages.begin(f"write {job['precision']} into the graph")
        write = _half if job["precision"] == "fp16" else _quantized
        shutil.copyfile(source.folder / bundle.REFERENCE, draft / bundle.REFERENCE)
        model, entries, notes = write(source, onnx_file.load(source.path), job, draft, stages)
        onnx.save(model, draft / "model.onnx")
        notes = (*source.subject.notes, *notes)
        latency_only = job["precision"] in CALIBRATED and job["images"] == SYNTHETIC
        latency_only = latency_only and not any(spec.sampled for spec in source.inputs)
        subject = replace(
            source.subject,
            storage_precision=job["precision"],
            latency_only=latency_only,
            fidelity_passed=None,
            notes=notes,
        )
        return replace(
            source,
            folder=draft,
            key=job["key"],
            subject=subject,
            graph_digest=source.digest,
            graph_fidelity=source.fidelity,
            fidelity=None,
            calibration=job["calibration"],
            versions={**source.versions, **versions(*job["packages"])},
            stages=(*source.stages, *stages.end()),
            placement={"operators": onnx_file.operators(model), **entries},
        )

    bundle.write(Path(job["folder"]), build)


PAIRED_IMAGES = 2
"""Calibration images that a quantized graph is compared with its float graph on, operator by operator."""
NAMED_FAULTS = 3
"""Operators that a message names."""
Written = tuple[Any, dict[str, Any], tuple[str, ...]]
"""A graph, the entries of its placement, and its notes."""


def _half(source: Artifact, model: Any, job: dict[str, Any], draft: Path, stages: Stages) -> Written:
    from effbench.deploy.precision.half import long_softmaxes, to_fp16

    islands = [*job.get("islands", ()), *sorted(long_softmaxes(onnx_file.infer_shapes(model, source.name)))]
    count = len(model.graph.node)
    notes = (f"{len(islands)} of {count} operators stay in fp32 (islands)",) if islands else ()
    return to_fp16(model, islands), {"fp32_islands": islands}, notes


def _quantized(source: Artifact, model: Any, job: dict[str, Any], draft: Path, stages: Stages) -> Written:
    from effbench.deploy.precision.a16w8 import to_a16w8
    from effbench.deploy.precision.calibration import write_reference
    from effbench.deploy.precision.int8_noise import to_mixed_int8
    from effbench.deploy.precision.quantize import to_int8

    batch = source.fixed_batch
    if batch is None:
        raise UnsupportedError(
            f"{job['precision']} is calibrated at a fixed batch.", hint="Export without --dynamic-batch."
        )
    calibration = _calibration(source, job["images"])
    if calibration.sha256 != job["calibration"]:
        raise DataError(f"The images in {job['images']} changed while they were read.", hint="Export again.")
    batches = _calibration_feeds(source, calibration, batch)
    notes: tuple[str, ...] = ()
    entries: dict[str, Any] = {"calibration_images": len(calibration.images)}
    if job["precision"] == "a16w8":
        quantized = to_a16w8(model, batches)
    elif job["whole"]:
        quantized = to_int8(model, batches)
    else:
        stages.begin("quantize and choose the operators that stay in float")
        result = to_mixed_int8(model, batches)
        quantized, notes = result.model, (*notes, *result.notes())
        if result.float_nodes:
            entries |= {"float_nodes": list(result.float_nodes), "float_type": "fp32"}
        if result.clipping:
            entries["ranges"] = "extremes"
    stages.begin("compare operator by operator")
    paired, remarks = _paired(model, quantized, _few(batches, batch), job["precision"])
    entries, notes = entries | paired, (*notes, *remarks)
    if calibration.check_images is not None:
        stages.begin("reference outputs on images of the calibration folder")
        try:
            write_reference(draft / bundle.REFERENCE, source, onnx_file.load(source.path), calibration)
        except ConversionError as error:
            notes = (*notes, f"verified on synthetic images: {error.message}")
    return quantized, entries, notes


def _calibration(source: Artifact, place: str) -> Calibration:
    from effbench.deploy.precision.calibration import load_calibration

    image = image_of(source.inputs)
    channels = 3 if image is None else image.channels
    return load_calibration(place, source.subject.resolution, source.preprocessing, channels)


def _calibration_feeds(source: Artifact, calibration: Calibration, batch: int) -> list[dict[str, Any]]:
    """Return what an integer graph is calibrated with: the user's arrays if there are some, else images or by role."""
    if not any(spec.sampled for spec in source.inputs):
        return calibration.feeds(batch, source.inputs, source.preprocessing)
    samples = fidelity.load_reference(source.folder / bundle.REFERENCE).samples
    return feeding.feeds(samples, batch, source.inputs, source.preprocessing)


def _few(batches: Sequence[Any], batch: int) -> Sequence[Any]:
    """Return the batches that two graphs are paired on."""
    return batches[: -(-PAIRED_IMAGES // batch)]


def _paired(model: Any, quantized: Any, batches: Any, precision: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Compare a quantized graph with its float graph; return the entries of its placement, and notes.

    Raises:
        FidelityError: An operator differs by more than quantization explains.
    """
    from effbench.deploy.precision.pairing import pair

    try:
        result = pair(model, quantized, batches)
    except ConversionError as error:
        return {}, (f"not compared operator by operator: {error.message}",)
    faults = [str(fault) for fault in result.faults if not fault.poor]
    if not faults:
        poor = [f"quantized poorly: {fault}" for fault in result.faults]
        return {"paired_operators": result.compared}, tuple(poor[:NAMED_FAULTS])
    named = "; ".join(faults[:NAMED_FAULTS])
    rest = len(faults) - NAMED_FAULTS
    raise FidelityError(
        f"The {precision} graph is not its float graph, by more than quantization explains: {named}"
        f"{f'; and {rest} more' if rest > 0 else ''}.",
        hint=f"{result.compared} operators were compared. Use another precision, and report this graph.",
    )


def pair_runtime(job: dict[str, Any], emit: Any) -> None:
    """Compare a runtime with the quantized graph it was given, part by part; emit the count and the faults."""
    from effbench import deploy
    from effbench.deploy.precision.pairing import runtime

    artifact, graph = bundle.load(Path(job["artifact"])), bundle.load(Path(job["graph"]))
    target = deploy.get(artifact.subject.target)
    emit({"event": "stage", "stage": f"compare {target.title} operator by operator"})
    model = onnx_file.load(graph.path)
    traced = target.traced(artifact, artifact.options, runtime.inner_tensors(model))
    if traced is None:
        emit({"event": "result", "compared": 0, "faults": []})
        return
    batch = graph.fixed_batch or 1
    reference = fidelity.first(fidelity.load_reference(Path(job["reference"])), PAIRED_IMAGES, batch)
    feeds = feeding.feeds(reference.samples, batch, graph.inputs, graph.preprocessing)
    try:
        result = runtime.pair_runtime(model, traced, feeds)
    except ConversionError as error:  # the interpreter lacks an operator
        emit({"event": "result", "compared": 0, "faults": [], "reason": error.message})
        return
    emit({"event": "result", "compared": result.compared, "faults": [str(fault) for fault in result.faults]})


def mix(job: dict[str, Any], emit: Any) -> None:
    """Make a graph artifact with some nodes in int8 and the others in ``float_type``: fp32 or fp16."""
    import onnx

    from effbench.deploy.precision.mix import in_half, mixed

    source, int8 = bundle.load(Path(job["graph"])), bundle.load(Path(job["int8"]))
    batch = source.fixed_batch or 1

    def build(draft: Path) -> Artifact:
        emit({"event": "stage", "stage": "mix int8 and float in the graph"})
        exact = onnx_file.load(source.path)
        model = mixed(exact, onnx_file.load(int8.path), job["float_nodes"])
        emit({"event": "stage", "stage": "compare operator by operator"})
        batches = _calibration_feeds(source, _calibration(source, job["images"]), batch)
        # Before the float part is in half precision, whose rounding is not that of quantization.
        entries, remarks = _paired(exact, model, _few(batches, batch), "int8")
        model = in_half(model) if job["float_type"] == "fp16" else model
        onnx.save(model, draft / "model.onnx")
        shutil.copyfile(int8.folder / bundle.REFERENCE, draft / bundle.REFERENCE)
        subject = replace(int8.subject, fidelity_passed=None, notes=(*int8.subject.notes, job["note"], *remarks))
        placement = {
            "operators": onnx_file.operators(model),
            "float_nodes": job["float_nodes"],
            "float_type": job["float_type"],
            **entries,
        }
        return replace(
            int8,
            folder=draft,
            key=job["key"],
            subject=subject,
            graph_digest=source.digest,
            fidelity=None,
            placement=placement,
        )

    bundle.write(Path(job["folder"]), build)


def numerics(job: dict[str, Any], emit: Any) -> None:
    """Examine a graph in half precision over natural images, black and white, or over a user's images."""
    import torch

    from effbench.deploy.precision.diagnose import examine

    torch.set_num_threads(1)  # the searches of a sweep run side by side
    stages = Stages(emit)
    stages.begin("read images")
    source = bundle.load(Path(job["graph"]))
    inputs, count = source.inputs, int(job["count"])
    if job["images"]:
        feeds = _calibration(source, job["images"]).feeds(1, inputs, source.preprocessing)[:count]
    else:
        # An overflow on black or white alone, as in sums of linear attention, fails the artifact as well.
        black, white, noise = range(fidelity.NATURAL, fidelity.NATURAL + 3)
        total = max(count, fidelity.NATURAL) + 3
        scenes = [index for index in range(total) if not black <= index <= noise]
        samples = feeding.take(feeding.synthetic(inputs, total), [*scenes[:count], black, white])
        feeds = feeding.feeds(samples, 1, inputs, source.preprocessing)
    stages.begin("examine numerics")
    report = examine(onnx_file.load(source.path), feeds, job["precision"], count)
    emit({"event": "result", "report": to_json(report)})


def fp32_islands(job: dict[str, Any], emit: Any) -> None:
    """Find the fp32 islands with which a graph holds the limits of fp16 on its reference images."""
    import torch

    from effbench.deploy.precision.diagnose import find_islands

    torch.set_num_threads(1)  # as in `numerics`
    stages = Stages(emit)
    stages.begin("search for fp32 islands")
    source = bundle.load(Path(job["graph"]))
    samples = fidelity.load_reference(source.folder / bundle.REFERENCE).samples
    feeds = feeding.feeds(samples, source.fixed_batch or 1, source.inputs, source.preprocessing)
    names, late = find_islands(onnx_file.load(source.path), feeds, job["images"])
    emit({"event": "result", "islands": list(names), "late": late})
