"""The heavy half of an export, in a child process: build, reference outputs, torch -> ONNX, translation.

``python -m effbench.api.export.worker`` reads one job from standard input and answers in JSON lines
(see `effbench.process`).
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from effbench.codec import from_json, to_json
from effbench.deploy.artifact import bundle, encoded, fidelity
from effbench.deploy.graph import onnx_file
from effbench.deploy.precision.calibration import SYNTHETIC
from effbench.errors import ConversionError, DataError, UnsupportedError
from effbench.schema import CALIBRATED, Artifact, Backbone, InputShapes, Stage, Subject, TensorSpec, Weights


class _Stages:
    """Announce each stage as it begins and keep how long each took."""

    def __init__(self, emit: Any) -> None:
        self._emit = emit
        self._since = time.perf_counter()
        self.done: list[Stage] = []
        self._name: str | None = None

    def begin(self, name: str) -> None:
        self.end()
        self._emit({"event": "stage", "stage": name})
        self._name, self._since = name, time.perf_counter()

    def end(self) -> tuple[Stage, ...]:
        if self._name is not None:
            self.done.append(Stage(self._name, round(time.perf_counter() - self._since, 3)))
            self._name = None
        return tuple(self.done)


def graph(job: dict[str, Any], emit: Any) -> None:
    """Make the fp32 graph artifact of a model at one resolution and batch."""
    stages = _Stages(emit)
    make = _from_file if job["path"] else _from_factory
    bundle.write(Path(job["folder"]), lambda draft: make(job, draft, stages))


def _subject(job: dict[str, Any], params: int, macs: int | None, notes: tuple[str, ...] = ()) -> Subject:
    backbone = from_json(Backbone, job["backbone"], "job")
    return Subject(
        model=backbone.name,
        family=backbone.family,
        weights=from_json(Weights, job["weights"], "job"),
        shapes=InputShapes(tuple(job["resolution"])),
        batch=job["batch"],
        target="onnx",
        storage_precision="fp32",
        published=backbone.published,
        reconstruction=backbone.reconstruction,
        params=params,
        macs=macs,
        notes=(*(("dynamic batch",) if job["dynamic_batch"] else ()), *notes),
    )


def _from_factory(job: dict[str, Any], draft: Path, stages: _Stages) -> Artifact:
    stages.begin("import torch")
    import torch

    from effbench.deploy.graph import from_torch as torch_graph
    from effbench.deploy.targets.torch import save_weights
    from effbench.models.build import build_unfused, fit_resolution
    from effbench.models.layers import fuse

    torch.set_num_threads(int(job["threads"]))
    backbone = from_json(Backbone, job["backbone"], "job")
    weights = from_json(Weights, job["weights"], "job")
    stages.begin("build the model")
    module = build_unfused(backbone, weights, Path(job["state"]) if job["state"] else None)
    if backbone.family == "user":
        backbone, job = _as_declared(backbone, module, job)
    resolution, batch = tuple(job["resolution"]), job["batch"]
    notes = fit_resolution(module, resolution)
    stages.begin("reference outputs")
    images = fidelity.reference_images(fidelity.count_for(batch), backbone.in_channels, resolution)
    spec = TensorSpec(torch_graph.INPUT, "float32", (batch, backbone.in_channels, *resolution))
    run = _eager(module, spec)
    expected = fidelity.run_all(run, fidelity.feeds(images, batch, spec, backbone.preprocessing))
    example = encoded.make_example(run, spec, batch, backbone.preprocessing)
    module = fuse(module)
    stages.begin("torch -> ONNX")
    shape = None if job["dynamic_batch"] else batch
    model = torch_graph.from_module(module, backbone.in_channels, resolution, shape, len(expected))
    import onnx

    onnx.save(model, draft / "model.onnx")
    save_weights(module, draft)
    names = [spec.name for spec in onnx_file.specs(model.graph.output)]
    expected = dict(zip(names, expected.values(), strict=True))
    example = example and replace(example, outputs=dict(zip(names, example.outputs.values(), strict=True)))
    engine = f"torch {torch.__version__} eager fp32, unfused"
    fidelity.save_reference(draft / bundle.REFERENCE, images, expected, engine, example)
    params = sum(item.numel() for item in module.parameters())
    macs = onnx_file.count_macs(_static(model, resolution, job["batch"]) if job["dynamic_batch"] else model)
    return _artifact(job, draft, model, _subject(job, params, macs, notes), stages, backbone)


def _as_declared(backbone: Backbone, module: Any, job: dict[str, Any]) -> tuple[Backbone, dict[str, Any]]:
    """Take over what a user's factory says of its preprocessing and of the weights it loaded itself."""
    from effbench.models.build import load_factory, state_sha256
    from effbench.models.declared import declaration

    said = declaration(load_factory(backbone.factory), module)
    if said.weights is not None and job["weights"]["kind"] == "untrained":
        weights = Weights("pretrained", None, said.weights, state_sha256(module))
        job = {**job, "weights": to_json(weights)}
    return replace(backbone, preprocessing=said.preprocessing or backbone.preprocessing), job


def _eager(module: Any, spec: TensorSpec) -> fidelity.Run:
    import torch

    def run(feeds: Any) -> dict[str, Any]:
        try:
            with torch.inference_mode():
                found = module(torch.from_numpy(feeds[spec.name]))
        except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
            raise ConversionError("forward pass", f"{type(error).__name__}: {error}") from error
        outputs = (found,) if torch.is_tensor(found) else tuple(found)
        return {str(index): value.numpy() for index, value in enumerate(outputs)}

    return run


def _from_file(job: dict[str, Any], draft: Path, stages: _Stages) -> Artifact:
    import onnx
    import torch

    from effbench.deploy.interpreter import run_model

    torch.set_num_threads(int(job["threads"]))
    stages.begin("read the .onnx file")
    path = Path(job["path"])
    model = onnx_file.load(path)
    resolution, batch = tuple(job["resolution"]), job["batch"]
    static = onnx_file.fix_shape(model, resolution, batch, path.name)
    dynamic = onnx_file.infer_shapes(model, path.name) if job["dynamic_batch"] else static
    backbone = from_json(Backbone, job["backbone"], "job")
    stages.begin("reference outputs")
    spec = onnx_file.image_input(static, path.name)
    images = fidelity.reference_images(fidelity.count_for(batch), spec.shape[1] or 3, resolution)
    batches = fidelity.feeds(images, batch, spec, backbone.preprocessing)
    expected = fidelity.run_all(lambda feeds: run_model(static, feeds), batches)
    example = encoded.make_example(lambda feeds: run_model(static, feeds), spec, batch, backbone.preprocessing)
    onnx.save(dynamic, draft / "model.onnx")
    engine = "effbench's ONNX interpreter on torch, fp32"
    fidelity.save_reference(draft / bundle.REFERENCE, images, expected, engine, example)
    subject = _subject(job, onnx_file.count_params(static), onnx_file.count_macs(static))
    return _artifact(job, draft, dynamic, subject, stages, backbone)


def _static(model: Any, resolution: tuple[int, ...], batch: int) -> Any:
    return onnx_file.fix_shape(model, (resolution[0], resolution[1]), batch, "the exported graph")


def _artifact(
    job: dict[str, Any], draft: Path, model: Any, subject: Subject, stages: _Stages, backbone: Backbone
) -> Artifact:
    from effbench.api.export.source import versions

    return Artifact(
        folder=draft,
        key=job["key"],
        digest="",
        subject=subject,
        inputs=onnx_file.inputs(model),
        outputs=onnx_file.specs(model.graph.output),
        files={},
        entry="model.onnx",
        preprocessing=backbone.preprocessing,
        options={} if job["path"] else {"factory": backbone.factory, "loader": "effbench.models.build:skeleton"},
        versions=versions(*job["packages"]),
        stages=stages.end(),
        placement={"operators": onnx_file.operators(model)},
    )


def precision(job: dict[str, Any], emit: Any) -> None:
    """Write a precision into an fp32 graph; the result is a graph artifact with a reference to verify it by."""
    import shutil

    import onnx

    from effbench.api.export.source import versions

    stages = _Stages(emit)
    source = bundle.load(Path(job["graph"]))

    def build(draft: Path) -> Artifact:
        stages.begin(f"write {job['precision']} into the graph")
        write = _half if job["precision"] == "fp16" else _quantized
        shutil.copyfile(source.folder / bundle.REFERENCE, draft / bundle.REFERENCE)
        model, found, notes = write(source, onnx_file.load(source.path), job, draft, stages)
        onnx.save(model, draft / "model.onnx")
        notes = (*source.subject.notes, *notes)
        latency_only = job["precision"] in CALIBRATED and job["images"] == SYNTHETIC
        subject = replace(source.subject, storage_precision=job["precision"], latency_only=latency_only, notes=notes)
        return replace(
            source,
            folder=draft,
            key=job["key"],
            subject=subject,
            graph_digest=source.digest,
            calibration=job["calibration"],
            versions={**source.versions, **versions(*job["packages"])},
            stages=(*source.stages, *stages.end()),
            placement={"operators": onnx_file.operators(model), **found},
        )

    bundle.write(Path(job["folder"]), build)


Written = tuple[Any, dict[str, Any], tuple[str, ...]]


def _half(source: Artifact, model: Any, job: dict[str, Any], draft: Path, stages: _Stages) -> Written:
    from effbench.deploy.precision.half import long_softmaxes, to_fp16

    islands = [*job.get("islands", ()), *sorted(long_softmaxes(onnx_file.infer_shapes(model, source.name)))]
    count = len(model.graph.node)
    notes = (f"{len(islands)} of {count} operators stay in fp32 (islands)",) if islands else ()
    return to_fp16(model, islands), {"fp32_islands": islands}, notes


def _quantized(source: Artifact, model: Any, job: dict[str, Any], draft: Path, stages: _Stages) -> Written:
    from effbench.deploy.precision.calibration import load_calibration, reference
    from effbench.deploy.precision.int8_noise import to_mixed_int8
    from effbench.deploy.precision.quantize import to_a16w8, to_int8

    spec = source.inputs[0]
    if spec.shape[0] is None:
        raise UnsupportedError(
            f"{job['precision']} is calibrated at a fixed batch.", hint="Export without --dynamic-batch."
        )
    images = load_calibration(
        job["images"], source.subject.resolution, source.preprocessing, source.inputs[0].shape[1] or 3
    )
    if images.sha256 != job["calibration"]:
        raise DataError(f"The images in {job['images']} changed while they were read.", hint="Export again.")
    batches = images.feeds(spec.shape[0], spec, source.preprocessing)
    notes: tuple[str, ...] = ()
    found: dict[str, Any] = {"calibration_images": len(images.images)}
    if job["precision"] == "a16w8":
        made = to_a16w8(model, batches)
    elif job["whole"]:
        made = to_int8(model, batches)
    else:
        stages.begin("quantize and find the operators that int8 disturbs most")
        result = to_mixed_int8(model, batches)
        made, notes = result.model, (*notes, *result.notes())
        if result.float_nodes:
            found |= {"float_nodes": list(result.float_nodes), "float_type": "fp32"}
        if result.clipping:
            found["ranges"] = "extremes"
    if images.checks is not None:
        stages.begin("reference outputs on images like those of the calibration")
        try:
            reference(draft / bundle.REFERENCE, source, onnx_file.load(source.path), images)
        except ConversionError as error:
            notes = (*notes, f"verified on synthetic images: {error.message}")
    return made, found, notes


def mix(job: dict[str, Any], emit: Any) -> None:
    """Make a graph artifact with some nodes in int8 and the others in ``float_type``: fp32 or fp16."""
    import shutil

    import onnx

    from effbench.deploy.precision.mix import in_half, mixed

    source, int8 = bundle.load(Path(job["graph"])), bundle.load(Path(job["int8"]))

    def build(draft: Path) -> Artifact:
        emit({"event": "stage", "stage": "mix int8 and float in the graph"})
        model = mixed(onnx_file.load(source.path), onnx_file.load(int8.path), job["float_nodes"])
        model = in_half(model) if job["float_type"] == "fp16" else model
        onnx.save(model, draft / "model.onnx")
        shutil.copyfile(int8.folder / bundle.REFERENCE, draft / bundle.REFERENCE)
        subject = replace(int8.subject, notes=(*int8.subject.notes, job["note"]))
        placement = {
            "operators": onnx_file.operators(model),
            "float_nodes": job["float_nodes"],
            "float_type": job["float_type"],
        }
        return replace(
            int8, folder=draft, key=job["key"], subject=subject, graph_digest=source.digest, placement=placement
        )

    bundle.write(Path(job["folder"]), build)


def numerics(job: dict[str, Any], emit: Any) -> None:
    """Examine how a graph fares in half precision: over some natural images, black and white, or over a user's."""
    import torch

    from effbench.deploy.precision.calibration import load_calibration
    from effbench.deploy.precision.diagnose import examine

    torch.set_num_threads(1)  # searches of a sweep that take all cores each wait for one another
    stages = _Stages(emit)
    stages.begin("read images")
    source = bundle.load(Path(job["graph"]))
    spec, size, count = source.inputs[0], source.subject.resolution, int(job["count"])
    if job["images"]:
        read = load_calibration(job["images"], size, source.preprocessing, spec.shape[1] or 3)
        feeds = read.feeds(1, spec, source.preprocessing)[:count]
    else:
        # What overflows on black or white alone, as sums of linear attention do, fails the artifact as well.
        black, white, noise = range(fidelity.NATURAL, fidelity.NATURAL + 3)
        images = fidelity.reference_images(max(count, fidelity.NATURAL) + 3, spec.shape[1] or 3, size)
        scenes = [index for index in range(len(images)) if not black <= index <= noise]
        images = images[[*scenes[:count], black, white]]
        feeds = fidelity.feeds(images, 1, spec, source.preprocessing)
    stages.begin("examine numerics")
    report = examine(onnx_file.load(source.path), feeds, job["precision"], count)
    emit({"event": "result", "report": to_json(report)})


def rescue(job: dict[str, Any], emit: Any) -> None:
    """Find the fp32 islands with which a graph holds the limits of fp16 on the images of its own check."""
    import torch

    from effbench.deploy.precision.diagnose import find_islands

    torch.set_num_threads(1)  # as in `numerics`
    stages = _Stages(emit)
    stages.begin("look for fp32 islands")
    source = bundle.load(Path(job["graph"]))
    images, _, _ = fidelity.load_reference(source.folder / bundle.REFERENCE)
    feeds = fidelity.feeds(images, 1, source.inputs[0], source.preprocessing)
    emit({"event": "result", "islands": list(find_islands(onnx_file.load(source.path), feeds, job["few"]))})


def convert(job: dict[str, Any], emit: Any) -> None:
    """Translate a graph artifact into one of a target."""
    from effbench import deploy
    from effbench.api.export.source import versions

    stages = _Stages(emit)
    target = deploy.get(job["target"])
    source = bundle.load(Path(job["graph"]))

    def build(draft: Path) -> Artifact:
        stages.begin(f"convert to {target.title}")
        made = target.convert(source, draft, job["options"])
        if not (draft / made.entry).exists():
            raise DataError(f"Target '{target.name}' made no file '{made.entry}'.")
        kept = {name: source.placement[name] for name in ("fp32_islands",) if source.placement.get(name)}
        subject = replace(
            source.subject,
            target=target.name,
            storage_precision=made.storage_precision,
            compute_precision=made.compute_precision,
            notes=(*source.subject.notes, *made.notes),
        )
        return replace(
            source,
            folder=draft,
            key=job["key"],
            subject=subject,
            entry=made.entry,
            options={**source.options, **job["options"]},
            versions={**source.versions, **versions(*target.packages)},
            graph_digest=source.digest,
            fidelity=None,
            placement={**kept, **made.placement},
            stages=(*source.stages, *stages.end()),
        )

    bundle.write(Path(job["folder"]), build)


def attempt(job: dict[str, Any], emit: Any) -> None:
    """Convert a variant of a graph and keep nothing: what a reduction and a reproducer ask."""
    import shutil
    import tempfile

    from effbench import deploy

    target = deploy.get(job["target"])
    source = bundle.load(Path(job["graph"]), check_files=False)
    model = onnx_file.load(Path(job["model"]))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "graph"
        (out := Path(scratch) / "made").mkdir()
        shutil.copytree(source.folder, folder, ignore=shutil.ignore_patterns(source.entry))
        shutil.copyfile(job["model"], folder / source.entry)
        graph = replace(
            source, folder=folder, inputs=onnx_file.inputs(model), outputs=onnx_file.specs(model.graph.output)
        )
        emit({"event": "stage", "stage": f"convert to {target.title}"})
        target.convert(graph, out, job["options"])


def read_graph(job: dict[str, Any], emit: Any) -> None:
    """Tell inputs of an .onnx file, so that the parent can choose a resolution without importing onnx."""
    spec = onnx_file.image_input(onnx_file.load(Path(job["path"])), Path(job["path"]).name)
    emit({"event": "result", "input": to_json(spec)})


HANDLERS = {
    "graph": graph,
    "numerics": numerics,
    "rescue": rescue,
    "precision": precision,
    "mix": mix,
    "convert": convert,
    "attempt": attempt,
    "read_graph": read_graph,
}

if __name__ == "__main__":
    from effbench.process import serve

    serve(HANDLERS)
