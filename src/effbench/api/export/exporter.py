"""One export: its graphs, the graphs in a precision, the artifacts, and their cells."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench import deploy, drafts
from effbench.api.export import fp32_fallback, stage
from effbench.api.export.calibration_images import CalibrationImages
from effbench.api.export.dependencies.builds import Builds
from effbench.api.export.inputs import Inputs
from effbench.api.export.request import ExportRequest
from effbench.api.export.source import Source, code_hashes, option_files, places_of, request_of, versions
from effbench.api.export.stage import EXPORT_WORKER, Limits
from effbench.api.export.verification import source_graph, verify_artifact
from effbench.codec import file_sha256, to_json
from effbench.deploy.artifact import bundle, placement
from effbench.errors import DataError, EffbenchError, UnavailableError, UnsupportedError
from effbench.process import TIME_LIMIT, ChildFailure
from effbench.schema import CALIBRATED, PRECISIONS, Artifact, Cell, Device, InputShapes, Preprocessing
from effbench.store import home as home_of

if TYPE_CHECKING:
    from effbench.deploy.precision.mix import Mix

_CALIBRATED_BY = tuple(
    f"effbench.deploy.precision.{name}"
    for name in (
        "quantize:to_int8",
        "a16w8:to_a16w8",
        "rounding:round_weights",
        "int8_noise:to_mixed_int8",
        "noise:quantization_noise",
        "mix:mixed",
        "calibration:write_reference",
        "pairing:pair",
    )
)
WRITERS = {"fp16": ("effbench.deploy.precision.half:to_fp16",), **dict.fromkeys(CALIBRATED, _CALIBRATED_BY)}
"""The code that writes a precision into a graph; it is part of the graph's key."""
PRECISION_PACKAGES = {"int8": ("nncf",), "a16w8": ("onnxruntime",)}
WAIT_S = 3600.0
"""The longest wait for another export of the same artifact."""

LOST_DB = 6.0
"""A loss between a graph's signal-to-noise ratio and a runtime's that is reported: four times the noise. Rounding some
values to the neighboring level costs up to 3 dB in networks that amplify it."""
GRAPH_PACKAGES = ("torch", "onnx", "onnxscript", "onnx-ir", "effbench")


class Exporter:
    """One export: the state that all its cells share.

    ``mixes`` holds, per size, the operators that an int8 graph keeps in float; ``half_targets`` are the targets of this
    export in fp16. With ``whole_int8`` the quantizer does
    not choose them by noise: the caller sets ``mixes``.
    """

    def __init__(
        self, request: ExportRequest, source: Source, device: Device | None, inputs: Inputs, whole_int8: bool = False
    ) -> None:
        self.request, self.source, self.device, self.whole_int8 = request, source, device, whole_int8
        self.inputs, self.batch = inputs, inputs.batch
        self.dynamic, self.options = request.dynamic_batch, dict(request.options)
        self.allow_fallback, self.notify = request.allow_fallback, request.notify
        self.home = home_of(request.out)
        self.limits = Limits.of(request.time_limit_s, request.memory_limit_bytes, request.cell_limit_s)
        self.output_kinds = {**inputs.declarations.outputs, **request.output_kinds}
        self.calibration = CalibrationImages()
        self.mixes: dict[InputShapes, Mix] = {}
        self.half_targets: Sequence[str] = ()
        self._graphs: dict[InputShapes, Artifact | EffbenchError] = {}
        self._agreements: dict[InputShapes, fp32_fallback.Agreement] = {}

    def declared(self) -> Preprocessing | None:
        """Return the preprocessing of the exported graphs: a user's factory may declare its own."""
        return next((graph.preprocessing for graph in self._graphs.values() if isinstance(graph, Artifact)), None)

    def prepare(self, sizes: Sequence[InputShapes]) -> None:
        """Export the graphs of all sizes, several at a time; each takes one thread."""
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(max(1, min(len(sizes), (os.cpu_count() or 1), 4))) as pool:
            for shapes, graph in zip(sizes, pool.map(self._try_graph, sizes), strict=True):
                self._graphs[shapes] = graph

    def _try_graph(self, shapes: InputShapes) -> Artifact | EffbenchError:
        try:
            return self.graph(shapes)
        except EffbenchError as error:
            return error

    def cell(self, shapes: InputShapes, target: str, precision: str | None, verify: bool) -> Cell:
        """Export and verify one cell; an error becomes its status."""
        start = time.perf_counter()
        registered = deploy.registered().get(target)
        name = (self.source.name, shapes, precision or (registered.precision if registered else "default"), target)
        try:
            islands = self._islands(shapes, target, precision) if verify else ()
            artifact, cached = self.artifact(shapes, target, precision, islands)
            cell = Cell.of(*name, artifact, cached=cached, notes=artifact.subject.remarks)
        except EffbenchError as error:
            cell = Cell.of(*name, error)
        else:
            cell = self._verified(cell, shapes, artifact) if verify else cell
        cell = replace(cell, seconds=round(time.perf_counter() - start, 3))
        self.notify(_line(cell))
        return cell

    def _verified(self, cell: Cell, shapes: InputShapes, artifact: Artifact) -> Cell:
        """Verify an artifact and return its cell."""
        reason = "not verified"
        try:
            try:
                artifact = self.compared(artifact)
            except UnavailableError as error:
                # The artifact is complete, but for another machine.
                reason = f"not verified here: {error.message}"
            attempts = self._attempts(shapes, artifact)
            key = (cell.model, shapes, cell.precision, cell.target)
            notes = (*artifact.subject.remarks, *attempts, *_computed(artifact), *self._noise_of_runtime(artifact))
            cell = Cell.of(*key, artifact, reason=reason, cached=cell.cached, notes=notes)
            if not self.allow_fallback:
                placement.check(artifact.placement, artifact.name)
        except EffbenchError as error:
            return cell.failed(error)
        return cell

    def artifact(
        self, shapes: InputShapes, name: str, precision: str | None, islands: Sequence[str] = ()
    ) -> tuple[Artifact, bool]:
        """Return the artifact of one cell, and whether it was cached; ``islands`` of the graph stay in fp32.

        Raises:
            EffbenchError: It cannot be exported.
        """
        target = deploy.get(name)
        stored = self.storage_precision(name, precision)
        options = {**(self.device.options.get(name, {}) if self.device else {}), **self.options}
        if stored in target.refuses:
            others = ", ".join(name for name in PRECISIONS if name not in target.refuses)
            refused = f"Target '{name}' takes no {stored}: {target.refuses[stored]}."
            raise UnsupportedError(refused, hint=f"It takes {others}.")
        reason = target.available()
        if reason is not None:
            absent = f"Target '{name}' cannot be made here: {reason}."
            raise UnavailableError(absent, hint=target.install_command or None)
        if self.allow_fallback and "fallback" in target.options:
            options.setdefault("fallback", "yes")
        graph = self._graphs[shapes]
        if isinstance(graph, EffbenchError):
            raise graph
        if stored != "fp32":
            graph = self.in_precision(shapes, stored, islands)
        if stored == "int8" and shapes in self.mixes:
            graph = self._mixed(shapes, graph, self.mixes[shapes])
        key = bundle.make_key(
            {
                "graph": graph.key,
                "target": name,
                "options": options,
                "option_files": option_files(options),
                "versions": versions(*target.packages),
                "code": code_hashes(f"{type(target).__module__}:TARGET"),
            }
        )
        folder = bundle.folder_of(self.home, self._name(shapes, stored, name), key)
        job = {"op": "convert", "graph": str(graph.folder), "target": name, "options": options}
        return self._make(folder, key, job, f"convert {self.source.name} at {shapes} to {target.title}")

    def compared(self, artifact: Artifact) -> Artifact:
        """Return an artifact with its fidelity, compared with the reference if it has none yet."""
        if artifact.fidelity is not None:
            return artifact
        self.notify(f"verify {artifact.name}")
        return verify_artifact(artifact, self.home, self.limits)

    def _agreed(self, shapes: InputShapes, target: str) -> fp32_fallback.Agreement:
        """Return what the targets of this export agree on in fp16, decided once per size."""
        if shapes not in self._agreements:
            targets = dict.fromkeys([*self.half_targets, target])
            self._agreements[shapes] = fp32_fallback.agree(self, shapes, list(targets))
        return self._agreements[shapes]

    def _islands(self, shapes: InputShapes, target: str, precision: str | None) -> tuple[str, ...]:
        """Return the operators of an fp16 graph that stay in fp32, as all targets of this export agree.

        Raises:
            FidelityError: The graph is broken, and the target cannot run here to show otherwise.
        """
        if self.storage_precision(target, precision) != "fp16" or "fp32" in deploy.get(target).refuses:
            return ()
        agreed = self._agreed(shapes, target)
        if not fp32_fallback.runs_here(target):
            agreed.check(target)
        return agreed.islands

    def _attempts(self, shapes: InputShapes, artifact: Artifact) -> tuple[str, ...]:
        """Return what was tried to keep an artifact in half precision within its limits."""
        if artifact.subject.storage_precision != "fp16":
            return ()
        no_fp32 = deploy.get(artifact.subject.target).refuses.get("fp32")
        if no_fp32 is None:
            return self._agreed(shapes, artifact.subject.target).notes
        failed = artifact.fidelity is not None and artifact.fidelity.failed
        return (f"fp32 islands are not possible: {no_fp32}",) if failed else ()

    def _noise_of_runtime(self, artifact: Artifact) -> Iterator[str]:
        """Report a runtime whose outputs have far more noise than the quantized graph itself."""
        fidelity = artifact.fidelity
        if artifact.subject.storage_precision not in CALIBRATED or fidelity is None or fidelity.snr_db is None:
            return
        try:
            graph = self.compared(source_graph(artifact))
        except EffbenchError as error:  # an operator that the interpreter lacks, or a time limit
            yield f"the noise of the graph itself is unknown: {error.message}"
            return
        graph_db = graph.fidelity.snr_db if graph.fidelity else None
        if graph_db is not None and graph_db - fidelity.snr_db > LOST_DB:
            lost = f"this runtime loses {graph_db - fidelity.snr_db:.0f} dB"
            yield f"the graph itself has {graph_db:.1f} dB on effbench's interpreter: {lost}"

    def storage_precision(self, target: str, precision: str | None) -> str:
        """Return the precision of an artifact: that of the request, else the device's, else the target's default."""
        device = self.device.precisions.get(target) if self.device else None
        return precision or device or deploy.get(target).precision

    def graph(self, shapes: InputShapes) -> Artifact:
        """Return the fp32 graph of a size, exported if it is not cached."""
        source = self.source
        request = {
            "model": request_of(source),
            "shapes": shapes,
            "inputs": replace(self.inputs.terms, samples=None),
            "batch": self.batch,
            "dynamic_batch": self.dynamic,
            "versions": versions(*GRAPH_PACKAGES),
            "code": code_hashes(
                "effbench.deploy.graph.from_torch:from_module", "effbench.deploy.artifact.fidelity:check"
            ),
            "proof": proof_sha256(),
        }
        if self.output_kinds:
            request["output_kinds"] = self.output_kinds
        places = places_of(source)
        builds = Builds(self.home, self._name(shapes, "fp32", "onnx"), request, places)
        job = {
            "op": "graph",
            "backbone": to_json(source.backbone),
            "weights": to_json(source.weights),
            "path": str(source.path) if source.path else None,
            "state": str(source.state) if source.state else None,
            "shapes": to_json(shapes),
            "terms": to_json(self.inputs.terms),
            "batch": self.batch,
            "dynamic_batch": self.dynamic,
            "threads": 1,
            "packages": GRAPH_PACKAGES,
            "project": str(places.project),
            "output_kinds": self.output_kinds,
            "key": builds.request,
        }
        graph, _ = builds.find()
        if graph is not None:
            return graph
        description = f"export {source.name} at {shapes} to ONNX"
        with self._lock(builds.label, description):
            graph, changes = builds.find()
            if graph is not None:
                return graph
            self.notify(f"{description}{f': {changes[0]}' if changes else ''}")
            return builds.add(lambda folder: self._run({**job, "folder": str(folder)}, builds.label))

    def in_precision(self, shapes: InputShapes, precision: str, islands: Sequence[str] = ()) -> Artifact:
        """Return the graph of a size in a precision, with ``islands`` in fp32; written if it is not cached."""
        graph = self._graphs[shapes]
        if isinstance(graph, EffbenchError):
            raise graph
        if precision == "fp32":
            return graph
        packages = PRECISION_PACKAGES.get(precision, ())
        calibration = self.calibration.hashes.get(shapes) if precision in CALIBRATED else None
        options: dict[str, Any] = {"precision": precision, "calibration": calibration}
        if precision == "int8":
            options["whole"] = self.whole_int8
        if islands:
            options["islands"] = list(islands)
        code = code_hashes(*WRITERS[precision])
        key = bundle.make_key({"graph": graph.key, **options, "versions": versions(*packages), "code": code})
        folder = bundle.folder_of(self.home, self._name(shapes, precision, "onnx"), key)
        job = {"op": "precision", "graph": str(graph.folder), **options, "images": self.calibration.place}
        job["packages"] = packages
        return self._make(folder, key, job, f"write {precision} into {graph.name}")[0]

    def _mixed(self, shapes: InputShapes, int8: Artifact, mix: Mix) -> Artifact:
        graph = self.in_precision(shapes, "fp32")
        options = {"float_nodes": list(mix.float_nodes), "float_type": mix.float_type, "note": mix.note}
        code = code_hashes("effbench.deploy.precision.mix:mixed", "effbench.deploy.precision.pairing:pair")
        key = bundle.make_key({"graph": graph.key, "int8": int8.key, **options, "code": code})
        folder = bundle.folder_of(self.home, self._name(shapes, "int8", "onnx"), key)
        job = {"op": "mix", "graph": str(graph.folder), "int8": str(int8.folder), **options}
        job["images"] = self.calibration.place
        return self._make(folder, key, job, f"write a {mix.note}")[0]

    def _name(self, shapes: InputShapes, precision: str, target: str) -> str:
        return bundle.name_of(self.source.name, shapes, None if self.dynamic else self.batch, precision, target)

    def _make(self, folder: Path, key: str, job: Mapping[str, Any], description: str) -> tuple[Artifact, bool]:
        cached = bundle.find(folder, key)
        if cached is not None:
            return cached, True
        with self._lock(folder.name, description):
            if (cached := bundle.find(folder, key)) is not None:
                return cached, True
            self.notify(description)
            self._run({**job, "folder": str(folder), "key": key}, folder.name)
        return bundle.load(folder), False

    def _run(self, job: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
        return stage.run(EXPORT_WORKER, job, self.limits, self.home, name)

    @contextmanager
    def _lock(self, name: str, description: str) -> Iterator[None]:
        """Let one export at a time make what has this name; a second one waits for the first."""
        from filelock import Timeout

        artifacts = self.home / "artifacts"
        wait_s = min(self.limits.seconds(), WAIT_S)
        try:
            with drafts.file_lock(artifacts / ".locks" / name, wait_s):
                yield
        except Timeout:
            message = f"{description}: another export of it has run for more than {wait_s:g} s"
            raise ChildFailure(TIME_LIMIT, message, "wait", "") from None
        except OSError as error:
            raise DataError(
                f"Cannot write {artifacts}: {error.strerror}.", hint="Choose another with --out."
            ) from error


def proof_sha256() -> str:
    """Return the hash of the code of the first proof, without the engines: they do not make a graph another one."""
    return file_sha256(Path(__file__).with_name("graph_proof.py"))


def _computed(artifact: Artifact) -> tuple[str, ...]:
    """Report the compute precision if it differs from the storage precision, such as fp32 in place of half."""
    computed, stored = artifact.subject.compute_precision, artifact.subject.storage_precision
    return (f"computed {computed}",) if computed not in (None, stored) else ()


def _line(cell: Cell) -> str:
    name = f"{cell.model} {cell.shapes.label} {cell.precision} {cell.target}"
    if not cell.has_artifact:
        return f"{name}: {cell.status}: {cell.reason}"
    checked = f"max error {cell.fidelity.max_error:.1e} of the spread" if cell.fidelity else cell.reason
    return f"{name}: {cell.status}{' (cached)' if cell.cached else ''}, {checked}, {cell.seconds:.1f} s"
