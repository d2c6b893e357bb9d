"""Jobs of the export worker that produce the fp32 graph, with the expected outputs to verify it by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from effbench import reading
from effbench.api.export import graph_proof
from effbench.api.export.dependencies.origins import Origins
from effbench.api.export.dependencies.record import Places
from effbench.api.export.dependencies.trace import Tracer
from effbench.api.export.source import versions
from effbench.api.export.stages import Stages
from effbench.codec import from_json, to_json
from effbench.deploy import installed
from effbench.deploy.artifact import bundle, encoded, feeding, fidelity, kinds
from effbench.deploy.graph import normalize, onnx_file, signature
from effbench.deploy.graph.from_torch import image_inputs
from effbench.schema import (
    Artifact,
    Backbone,
    Fidelity,
    InputShapes,
    InputSpec,
    InputTerms,
    Preprocessing,
    Subject,
    Weights,
    image_of,
)


def graph(job: dict[str, Any], emit: Any) -> None:
    """Export the fp32 graph artifact of a model at one size and batch; emit what a factory's graph depends on."""
    stages = Stages(emit)
    if job["path"]:
        bundle.write(Path(job["folder"]), lambda draft: _from_file(job, draft, stages))
        return
    origins = Origins(job["backbone"]["factory"], output=Path(job["folder"]).parent)
    tracer = Tracer(Places(Path(job["project"]), Path.cwd()), origins)
    with tracer.active():
        bundle.write(Path(job["folder"]), lambda draft: _from_factory(job, draft, stages))
    emit({"event": "result", "dependencies": tracer.result()})


def _subject(job: dict[str, Any], params: int, macs: int | None, notes: tuple[str, ...] = ()) -> Subject:
    backbone = from_json(Backbone, job["backbone"], "job")
    return Subject(
        model=backbone.name,
        family=backbone.family,
        weights=from_json(Weights, job["weights"], "job"),
        shapes=from_json(InputShapes, job["shapes"], "job"),
        batch=job["batch"],
        target="onnx",
        storage_precision="fp32",
        published=backbone.published,
        reconstruction=backbone.reconstruction,
        params=params,
        macs=macs,
        notes=(*(("dynamic batch",) if job["dynamic_batch"] else ()), *notes),
    )


def _from_factory(job: dict[str, Any], draft: Path, stages: Stages) -> Artifact:
    stages.begin("import torch")
    import torch

    from effbench.deploy.graph import from_torch as torch_graph
    from effbench.deploy.graph import torch_program
    from effbench.models import results
    from effbench.models.build import build_unfused, build_with_notes, fit_resolution
    from effbench.models.layers import fuse

    torch.set_num_threads(int(job["threads"]))
    backbone = from_json(Backbone, job["backbone"], "job")
    weights = from_json(Weights, job["weights"], "job")
    stages.begin("build the model")
    module, notes = build_with_notes(backbone, weights, Path(job["state"]) if job["state"] else None)
    if backbone.family == "user":
        backbone, job = _with_declaration(backbone, module, job)
    inputs, batch = _declared_inputs(backbone, job), job["batch"]
    resolution = _resolution(inputs)
    if resolution:
        notes += fit_resolution(module, resolution)
    stages.begin("reference outputs")
    samples, source = _samples(inputs, job)
    run = _eager(module, inputs)
    batches = feeding.feeds(samples, batch, inputs, backbone.preprocessing)
    graph_proof.check_repeatable(run, batches[0])
    expected = fidelity.run_all(graph_proof.defined(run), batches, batch)
    example = encoded.make_example(run, inputs, batch, backbone.preprocessing)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    module = fuse(module)
    stages.begin("torch -> ONNX")
    shape = None if job["dynamic_batch"] else batch
    with results.as_tuple(module):
        model, program = torch_graph.export(module, inputs, shape, tuple(expected))
    import onnx

    onnx.save(model, draft / "model.onnx")
    torch_program.save(program, draft)
    names = [spec.name for spec in onnx_file.specs(model.graph.output)]
    expected = dict(zip(names, expected.values(), strict=True))
    example = example and replace(example, outputs=dict(zip(names, example.outputs.values(), strict=True)))
    stages.begin("prove the graph")
    reference = fidelity.Reference(samples, expected, f"torch {torch.__version__} eager fp32, unfused", source)
    reference = _with_kinds(reference, model, job)
    # An open batch is checked with more than one image: a graph with a hidden fixed batch fails here.
    setup = fidelity.Setup(reference, 3 if shape is None else batch, inputs, backbone.preprocessing, "fp32")

    def in_float64() -> fidelity.Run:
        again = build_unfused(backbone, weights, Path(job["state"]) if job["state"] else None)
        if resolution:
            fit_resolution(again, resolution)
        again.load_state_dict(state)
        return _eager(again.double(), inputs)

    proof, rounding = graph_proof.prove_export(model, setup, in_float64, _eager(module, inputs))
    fidelity.save_reference(draft / bundle.REFERENCE, reference._replace(rounding=rounding), example)
    params = sum(item.numel() for item in module.parameters())
    static = onnx_file.fix_shapes(model, {spec.name: spec.shape for spec in inputs}, "the exported graph")
    macs = onnx_file.count_macs(static if job["dynamic_batch"] else model)
    job = {**job, "inputs": _opened(inputs, [spec.name for spec in inputs]) if job["dynamic_batch"] else inputs}
    artifact = _artifact(job, draft, model, _subject(job, params, macs, notes), stages, backbone)
    return _proved(artifact, proof)


def _with_kinds(reference: fidelity.Reference, model: Any, job: dict[str, Any]) -> fidelity.Reference:
    """Return the reference with the kind of each output: the user's word, else a guess."""
    image = from_json(InputShapes, job["shapes"], "job").image
    guesses = kinds.guess_all(reference.outputs, image, onnx_file.writers(model))
    return reference._replace(kinds=kinds.chosen(guesses, job.get("output_kinds", {})))


def _proved(artifact: Artifact, proof: Fidelity) -> Artifact:
    return replace(artifact, fidelity=proof, subject=replace(artifact.subject, fidelity_passed=proof.proved))


def _with_declaration(backbone: Backbone, module: Any, job: dict[str, Any]) -> tuple[Backbone, dict[str, Any]]:
    """Take over the preprocessing and the origin of weights that a user's factory declares."""
    from effbench.models.build import load_factory, state_sha256
    from effbench.models.declared import declaration

    declared = declaration(load_factory(backbone.factory), module)
    if declared.weights is not None and job["weights"]["kind"] == "untrained":
        weights = Weights("pretrained", None, declared.weights, state_sha256(module))
        job = {**job, "weights": to_json(weights)}
    return replace(backbone, preprocessing=declared.preprocessing or backbone.preprocessing), job


def _eager(module: Any, inputs: Sequence[InputSpec]) -> fidelity.Run:
    import torch

    from effbench.models import results
    from effbench.models.user_code import user_code

    def run(feeds: Any) -> dict[str, Any]:
        with user_code("forward pass"), torch.inference_mode():
            own = next((value.dtype for value in module.parameters() if value.is_floating_point()), None)
            tensors = [torch.from_numpy(feeds[spec.name]) for spec in inputs]
            result = module(*(t.to(own) if own and t.is_floating_point() else t for t in tensors))
        return {name: value.numpy() for name, value in results.tensors(result).items()}

    return run


def _from_file(job: dict[str, Any], draft: Path, stages: Stages) -> Artifact:
    import onnx

    if installed("torch"):  # for the interpreter; other engines do without
        import torch

        torch.set_num_threads(int(job["threads"]))
    stages.begin("read the .onnx file")
    path = Path(job["path"])
    model, steps = normalize.load(path)
    batch, terms = job["batch"], from_json(InputTerms, job["terms"], "job")
    stated = signature.stated(signature.guessed(model), terms, _sampled(terms))
    inputs = signature.settled(stated, from_json(InputShapes, job["shapes"], "job"), batch, path.name)
    static = onnx_file.fix_shapes(model, {spec.name: spec.shape for spec in inputs}, path.name)
    dynamic = onnx_file.infer_shapes(model, path.name) if job["dynamic_batch"] else static
    backbone = from_json(Backbone, job["backbone"], "job")
    stages.begin("reference outputs")
    samples, source = _samples(inputs, job)
    batches = feeding.feeds(samples, batch, inputs, backbone.preprocessing)
    engine, run = graph_proof.reference_engine(static, batches[0])
    graph_proof.check_repeatable(engine.open(static), batches[0])
    expected = fidelity.run_all(graph_proof.defined(run), batches, batch)
    example = encoded.make_example(run, inputs, batch, backbone.preprocessing)
    onnx.save(dynamic, draft / "model.onnx")
    stages.begin("prove the graph")
    reference = _with_kinds(fidelity.Reference(samples, expected, engine.title, source), static, job)
    setup = fidelity.Setup(reference, batch, inputs, backbone.preprocessing, "fp32")
    proof, rounding = graph_proof.prove_file(static, setup, engine)
    fidelity.save_reference(draft / bundle.REFERENCE, reference._replace(rounding=rounding), example)
    notes = (*_fed(inputs, backbone.preprocessing), *steps)
    subject = _subject(job, onnx_file.count_params(static), onnx_file.count_macs(static), notes)
    still_open = [spec.name for spec in stated if signature.has_open_batch([spec])]
    job = {**job, "inputs": _opened(inputs, still_open) if job["dynamic_batch"] else inputs}
    return _proved(_artifact(job, draft, dynamic, subject, stages, backbone), proof)


def _samples(inputs: Sequence[InputSpec], job: dict[str, Any]) -> tuple[feeding.Samples, str]:
    """Return the samples that a check feeds, and what they are: by role, and from the user's file where it has some."""
    terms, count = from_json(InputTerms, job["terms"], "job"), fidelity.count_for(job["batch"])
    samples = feeding.synthetic(inputs, count)
    if terms.samples is None:
        return samples, feeding.described(inputs)
    path = Path(terms.samples)
    return {**samples, **feeding.from_file(path, inputs, count)}, feeding.described(inputs, path.name)


def _fed(inputs: Sequence[InputSpec], preprocessing: Preprocessing) -> Iterator[str]:
    """Say what the inputs of a file are taken for, and how images are prepared where nobody declared it."""
    yield f"inputs: {'; '.join(map(str, inputs))}"
    fractions = any(spec.role == "image" and spec.dtype.startswith("float") and not spec.sampled for spec in inputs)
    if fractions and preprocessing.assumed:
        yield "images are normalized as for ImageNet, which nobody declared for this file (docs/tutorial/own-model.md)"


def _sampled(terms: InputTerms) -> tuple[str, ...]:
    return () if terms.samples is None else tuple(reading.arrays(Path(terms.samples)))


def _opened(inputs: Sequence[InputSpec], names: Sequence[str]) -> tuple[InputSpec, ...]:
    """Return inputs, those of these names with an open batch."""
    return tuple(
        replace(spec, shape=tuple(None if axis == spec.batch_axis else side for axis, side in enumerate(spec.shape)))
        if spec.name in names
        else spec
        for spec in inputs
    )


def _resolution(inputs: Sequence[InputSpec]) -> tuple[int, int] | None:
    image = image_of(inputs)
    return None if image is None else (image.size[0] or 1, image.size[1] or 1)


def _declared_inputs(backbone: Backbone, job: dict[str, Any]) -> tuple[InputSpec, ...]:
    """Return the inputs of a factory's model: one image, unless it declares others."""
    image = from_json(InputShapes, job["shapes"], "job").image
    assert image is not None
    return image_inputs(backbone.in_channels, image, job["batch"])


def _artifact(
    job: dict[str, Any], draft: Path, model: Any, subject: Subject, stages: Stages, backbone: Backbone
) -> Artifact:
    return Artifact(
        folder=draft,
        key=job["key"],
        digest="",
        subject=subject,
        inputs=tuple(job["inputs"]),
        outputs=onnx_file.specs(model.graph.output),
        files={},
        entry="model.onnx",
        preprocessing=backbone.preprocessing,
        versions=versions(*job["packages"]),
        stages=stages.end(),
        placement={"operators": onnx_file.operators(model)},
    )


def read_graph(job: dict[str, Any], emit: Any) -> None:
    """Return the inputs of an .onnx file, so that the parent can choose sizes without importing onnx."""
    inputs = signature.guessed(normalize.load(Path(job["path"]))[0])
    emit({"event": "result", "inputs": [to_json(spec) for spec in inputs]})
