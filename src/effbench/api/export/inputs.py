"""The inputs of one export: the sizes and the batch at which a model is exported, and what its inputs are fed with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from effbench import drafts, reading
from effbench.api.export import stage
from effbench.api.export.declarations import Declarations, declared
from effbench.api.export.request import ExportRequest
from effbench.api.export.source import Source, code_hashes
from effbench.api.export.stage import EXPORT_WORKER, Limits
from effbench.codec import document, file_sha256, fingerprint, from_json
from effbench.deploy.graph import signature
from effbench.errors import DataError, UsageError
from effbench.schema import DEFAULT_BATCH, DEFAULT_RESOLUTION, InputShapes, InputSpec, InputTerms, image_of

SIGNATURE_CODE = "effbench.deploy.graph.signature:guessed"


@dataclass(frozen=True)
class Inputs:
    """What an export is asked for, settled.

    Attributes:
        sizes: The shapes of each of its graphs.
        batch: Images per inference.
        terms: What the user says of the inputs.
        declarations: What the project declares of the model.
        channels: Of its image input.
    """

    sizes: list[InputShapes]
    batch: int
    terms: InputTerms
    declarations: Declarations
    channels: int = 3

    @property
    def needs_no_images(self) -> bool:
        """Whether calibration has something else to run on than images."""
        return self.terms.samples is not None or self.sizes[0].image is None


def inputs_of(request: ExportRequest, source: Source, home: Path, limits: Limits) -> Inputs:
    """Return the sizes, the batch and the terms of an export.

    An .onnx file is read in a child: its own size and batch are the defaults.

    Raises:
        UsageError: A name is no input, or a dimension is open and nothing fixes it.
        DataError: The .onnx file, or the file of samples, is not what it should be.
    """
    declarations = declared(request.model, Path()) if request.declarations is None else request.declarations
    terms = _terms(request, declarations)
    if source.path is None:
        if terms.roles or terms.shapes or terms.samples or terms.vocabulary:
            raise UsageError(
                "--input, --shape, --inputs and --vocabulary belong to an .onnx file.",
                hint="A factory takes one image. Write another model with torch.onnx.export, and export that file.",
            )
        default = source.backbone.fixed_resolution or DEFAULT_RESOLUTION
        sizes = request.shapes or [InputShapes.parse(default)]
        return Inputs(sizes, request.batch or DEFAULT_BATCH, terms, declarations, source.backbone.in_channels)
    sampled = () if terms.samples is None else tuple(reading.arrays(Path(terms.samples)))
    specs = signature.stated(_signature(source, source.path, home, limits), terms, sampled)
    batch = request.batch or signature.default_batch(specs)
    if request.dynamic_batch and not signature.has_open_batch(specs):
        text = f"The batch of {source.path.name} is fixed to {batch}: {'; '.join(map(str, specs))}."
        raise UsageError(text, hint="Leave out --dynamic-batch, or write the file with an open batch.")
    own = signature.default_shapes(specs, terms, batch)
    if own.image is None and any(shapes.image for shapes in request.shapes):
        raise UsageError(
            f"{source.path.name} has no image input: {'; '.join(map(str, specs))}.", hint="Leave out --res."
        )
    sizes = [
        signature.with_others(shapes, specs, replace(terms, shapes={**terms.shapes, **dict(shapes.named)}), batch)
        for shapes in request.shapes
    ] or [own]
    image = image_of(specs)
    return Inputs(sizes, batch, terms, declarations, 3 if image is None else image.channels)


def _terms(request: ExportRequest, declarations: Declarations) -> InputTerms:
    path = None if request.inputs is None else Path(request.inputs)
    if path is not None and not path.is_file():
        raise DataError(f"{path}: no such file.", hint="--inputs takes a .npz file with an array per input.")
    return InputTerms(
        roles={**declarations.inputs, **request.input_roles},
        shapes={**declarations.shapes, **request.input_shapes},
        samples=None if path is None else str(path.resolve()),
        sha256=None if path is None else file_sha256(path),
        vocabulary=request.vocabulary,
        preprocessing=declarations.preprocessing,
    )


def _signature(source: Source, path: Path, home: Path, limits: Limits) -> tuple[InputSpec, ...]:
    """Return the inputs of an .onnx file as guessed, from the cache if the file was read before."""
    key = fingerprint({"file": source.weights.sha256, "code": code_hashes(SIGNATURE_CODE)})
    cached = home / "signatures" / f"{key[:32]}.json"
    if cached.is_file():
        data = reading.json_file(cached, hint=f"Remove {cached}.")["data"]
    else:
        (answer,) = stage.run(EXPORT_WORKER, {"op": "read_graph", "path": str(path)}, limits, home, source.name)
        data = answer["inputs"]
        with drafts.draft(cached.parent) as draft:
            draft.write_text(document(data))
            draft.replace(cached)
    return tuple(from_json(InputSpec, item, str(cached)) for item in data)
