"""One export under way: graphs, graphs in a precision, artifacts, and the cells that tell of them."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from effbench import deploy
from effbench.api.export import fp32_fallback, stage
from effbench.api.export.calibration_images import CalibrationImages
from effbench.api.export.request import ExportRequest
from effbench.api.export.source import Source, code_hashes, ingredients, versions
from effbench.api.export.stage import EXPORT_WORKER, Limits
from effbench.api.export.verification import source_graph, verify_artifact
from effbench.codec import to_json
from effbench.deploy.artifact import bundle, placement
from effbench.deploy.precision.mix import Mix
from effbench.errors import DataError, EffbenchError, UnavailableError, UnsupportedError
from effbench.process import TIME_LIMIT, ChildFailure
from effbench.schema import CALIBRATED, PRECISIONS, Artifact, Cell, Device, InputShapes, Preprocessing
from effbench.store import home as home_of

_CALIBRATED_BY = tuple(
    f"effbench.deploy.precision.{name}"
    for name in (
        "quantize:to_int8",
        "rounding:round_weights",
        "int8_noise:to_mixed_int8",
        "noise:quantization_noise",
        "mix:mixed",
        "calibration:reference",
    )
)
WRITERS = {"fp16": ("effbench.deploy.precision.half:to_fp16",), **dict.fromkeys(CALIBRATED, _CALIBRATED_BY)}
"""What writes a precision into a graph."""
PRECISION_PACKAGES = {"int8": ("nncf",), "a16w8": ("onnxruntime",)}
LOST_DB = 6.0
"""Between a graph's signal to noise and a target's: four times the noise. Values that round to the next level here and
there cost up to 3 dB, in networks where that spreads."""
GRAPH_PACKAGES = ("torch", "onnx", "onnxscript", "onnx-ir", "effbench")


class Exporter:
    """One export under way: what all its cells share.

    ``mixes`` says per size which operators an int8 graph keeps in float; ``whole_int8`` leaves that decision to whoever
    sets them, where the quantizer would search by noise.
    """

    def __init__(self, request: ExportRequest, source: Source, device: Device | None, whole_int8: bool = False) -> None:
        self.request, self.source, self.device, self.whole_int8 = request, source, device, whole_int8
        self.batch, self.dynamic, self.options = request.batch, request.dynamic_batch, dict(request.options)
        self.allow_fallback, self.notify = request.allow_fallback, request.notify
        self.home = home_of(request.out)
        self.limits = Limits.of(request.time_limit_s, request.memory_limit_bytes, request.cell_limit_s)
        self.calibration = CalibrationImages()
        self.mixes: dict[InputShapes, Mix] = {}
        self._graphs: dict[InputShapes, Artifact | EffbenchError] = {}

    def declared(self) -> Preprocessing | None:
        """Return the preprocessing that the made graphs carry: a user's factory may declare its own."""
        return next((graph.preprocessing for graph in self._graphs.values() if isinstance(graph, Artifact)), None)

    def prepare(self, sizes: Sequence[InputShapes]) -> None:
        """Make the graphs of all sizes, as many at once as there are cores to spare; each is one thread's work."""
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(max(1, min(len(sizes), (os.cpu_count() or 1), 4))) as pool:
            for shapes, made in zip(sizes, pool.map(self._try_graph, sizes), strict=True):
                self._graphs[shapes] = made

    def _try_graph(self, shapes: InputShapes) -> Artifact | EffbenchError:
        try:
            return self.graph(shapes)
        except EffbenchError as error:
            return error

    def cell(self, shapes: InputShapes, target: str, precision: str | None, verify: bool) -> Cell:
        """Return one cell, made and verified; what goes wrong is its status."""
        start = time.perf_counter()
        known = deploy.registered().get(target)
        name = (self.source.name, shapes, precision or (known.precision if known else "default"), target)
        try:
            artifact, cached = self.artifact(shapes, target, precision)
            cell = Cell.of(*name, artifact, cached=cached, notes=artifact.subject.remarks)
        except EffbenchError as error:
            cell = Cell.of(*name, error)
        else:
            cell = self._verified(cell, shapes, artifact) if verify else cell
        cell = replace(cell, seconds=round(time.perf_counter() - start, 3))
        self.notify(_line(cell))
        return cell

    def _verified(self, cell: Cell, shapes: InputShapes, artifact: Artifact) -> Cell:
        """Return the cell of an artifact after its check, repaired where fp32 islands can."""
        reason = "not verified"
        tried: tuple[str, ...] = ()
        try:
            if artifact.fidelity is None:
                self.notify(f"verify {artifact.name}")
                try:
                    artifact = verify_artifact(artifact, self.home, self.limits)
                except UnavailableError as error:
                    # Made here, for a machine that this one is not: whole, and not run.
                    reason = f"not verified here: {error.message}"
            if artifact.fidelity is not None and not artifact.fidelity.passed:
                artifact, tried = self._with_islands(shapes, cell.target, artifact)
            key = (cell.model, shapes, cell.precision, cell.target)
            notes = (*artifact.subject.remarks, *tried, *_computed(artifact), *self._lost(artifact))
            cell = Cell.of(*key, artifact, reason=reason, cached=cell.cached, notes=notes)
            if not self.allow_fallback:
                placement.check(artifact.placement, artifact.name)
        except EffbenchError as error:
            return cell.failed(error)
        return cell

    def artifact(
        self, shapes: InputShapes, name: str, precision: str | None, islands: Sequence[str] = ()
    ) -> tuple[Artifact, bool]:
        """Return an artifact of one cell, and whether it was there; ``islands`` of the graph stay in fp32.

        Raises:
            EffbenchError: It cannot be made.
        """
        target = deploy.get(name)
        reason = target.available()
        if reason is not None:
            raise UnavailableError(
                f"Target '{name}' cannot be made here: {reason}.", hint=f"pip install 'effbench[{target.extra}]'"
            )
        wanted = self.wanted(name, precision)
        options = {**(self.device.options.get(name, {}) if self.device else {}), **self.options}
        if wanted in target.refuses:
            others = ", ".join(name for name in PRECISIONS if name not in target.refuses)
            reason = target.refuses[wanted]
            raise UnsupportedError(f"Target '{name}' takes no {wanted}: {reason}.", hint=f"It takes {others}.")
        if self.allow_fallback and "fallback" in target.options:
            options.setdefault("fallback", "yes")
        graph = self._graphs[shapes]
        if isinstance(graph, EffbenchError):
            raise graph
        if wanted != "fp32":
            graph = self.in_precision(shapes, wanted, islands)
        if wanted == "int8" and shapes in self.mixes:
            graph = self._mixed(shapes, graph, self.mixes[shapes])
        key = bundle.make_key(
            {
                "graph": graph.key,
                "target": name,
                "options": options,
                "versions": versions(*target.packages),
                "code": code_hashes(f"{type(target).__module__}:TARGET"),
            }
        )
        folder = bundle.folder_of(self.home, self._name(shapes, wanted, name), key)
        job = {"op": "convert", "graph": str(graph.folder), "target": name, "options": options}
        return self._make(folder, key, job, f"convert {self.source.name} at {shapes} to {target.title}")

    def _with_islands(self, shapes: InputShapes, target: str, made: Artifact) -> tuple[Artifact, tuple[str, ...]]:
        """Return what an artifact that missed its limit in half precision becomes with islands of fp32, if that helps.

        Else the artifact itself, with what was tried.
        """
        if made.subject.storage_precision != "fp16":
            return made, ()
        no_fp32 = deploy.get(target).refuses.get("fp32")
        if no_fp32 is not None:
            return made, (f"fp32 islands cannot save it: {no_fp32}",)
        try:
            half = self.in_precision(shapes, "fp16")
            names = fp32_fallback.islands(self.in_precision(shapes, "fp32"), half, self.home, self.limits, self.notify)
            if not names:
                return made, ("no operator is to blame that fp32 islands could save",)
            found, _ = self.artifact(shapes, target, "fp16", names)
            if found.fidelity is None:
                self.notify(f"verify {found.name}")
                found = verify_artifact(found, self.home, self.limits)
        except EffbenchError as error:
            return made, (f"fp32 islands could not be tried: {error.message}",)
        if found.fidelity is None or not found.fidelity.passed:
            return made, (f"{len(names)} fp32 islands were tried and did not suffice",)
        return found, ()

    def _lost(self, made: Artifact) -> Iterator[str]:
        """Say where a runtime leaves far more noise than the quantized graph has that it was given."""
        if made.subject.storage_precision not in CALIBRATED or made.fidelity is None or made.fidelity.snr_db is None:
            return
        try:
            graph = source_graph(made)
            if graph.fidelity is None:
                self.notify(f"verify {graph.name}")
                graph = verify_artifact(graph, self.home, self.limits)
        except EffbenchError as error:  # an operator that the interpreter does not know, or too little time
            yield f"whether this runtime loses anything of the graph is not known: {error.message}"
            return
        own = graph.fidelity.snr_db if graph.fidelity else None
        if own is not None and own - made.fidelity.snr_db > LOST_DB:
            lost = own - made.fidelity.snr_db
            yield f"the graph itself has {own:.1f} dB on effbench's interpreter: this runtime loses {lost:.0f} dB"

    def wanted(self, target: str, precision: str | None) -> str:
        """Return the precision of a target: the one asked for, else the device's, else the target's own."""
        device = self.device.precisions.get(target) if self.device else None
        return precision or device or deploy.get(target).precision

    def graph(self, shapes: InputShapes) -> Artifact:
        """Return the fp32 graph of a size; made where it is not there."""
        source = self.source
        key = bundle.make_key(
            {
                "model": ingredients(source),
                "resolution": shapes.image,
                "batch": self.batch,
                "dynamic_batch": self.dynamic,
                "versions": versions(*GRAPH_PACKAGES),
                "code": code_hashes(
                    "effbench.deploy.graph.from_torch:from_module", "effbench.deploy.artifact.fidelity:check"
                ),
            }
        )
        folder = bundle.folder_of(self.home, self._name(shapes, "fp32", "onnx"), key)
        job = {
            "op": "graph",
            "backbone": to_json(source.backbone),
            "weights": to_json(source.weights),
            "path": str(source.path) if source.path else None,
            "state": str(source.state) if source.state else None,
            "resolution": shapes.image,
            "batch": self.batch,
            "dynamic_batch": self.dynamic,
            "threads": 1,
            "packages": GRAPH_PACKAGES,
        }
        return self._make(folder, key, job, f"export {source.name} at {shapes} to ONNX")[0]

    def in_precision(self, shapes: InputShapes, precision: str, islands: Sequence[str] = ()) -> Artifact:
        """Return the graph of a size in a precision, ``islands`` of it in fp32; made where it is not there."""
        graph = self._graphs[shapes]
        if isinstance(graph, EffbenchError):
            raise graph
        if precision == "fp32":
            return graph
        packages = PRECISION_PACKAGES.get(precision, ())
        calibration = self.calibration.hashes.get(shapes) if precision in CALIBRATED else None
        how: dict[str, Any] = {"precision": precision, "calibration": calibration}
        if precision == "int8":
            how["whole"] = self.whole_int8
        if islands:
            how["islands"] = list(islands)
        code = code_hashes(*WRITERS[precision])
        key = bundle.make_key({"graph": graph.key, **how, "versions": versions(*packages), "code": code})
        folder = bundle.folder_of(self.home, self._name(shapes, precision, "onnx"), key)
        job = {"op": "precision", "graph": str(graph.folder), **how, "images": self.calibration.place}
        job["packages"] = packages
        return self._make(folder, key, job, f"write {precision} into {graph.name}")[0]

    def _mixed(self, shapes: InputShapes, int8: Artifact, mix: Mix) -> Artifact:
        graph = self.in_precision(shapes, "fp32")
        how = {"float_nodes": list(mix.float_nodes), "float_type": mix.float_type, "note": mix.note}
        code = code_hashes("effbench.deploy.precision.mix:mixed")
        key = bundle.make_key({"graph": graph.key, "int8": int8.key, **how, "code": code})
        folder = bundle.folder_of(self.home, self._name(shapes, "int8", "onnx"), key)
        job = {"op": "mix", "graph": str(graph.folder), "int8": str(int8.folder), **how}
        return self._make(folder, key, job, f"write a {mix.note}")[0]

    def _name(self, shapes: InputShapes, precision: str, target: str) -> str:
        return bundle.name_of(self.source.name, shapes, None if self.dynamic else self.batch, precision, target)

    def _make(self, folder: Path, key: str, job: Mapping[str, Any], what: str) -> tuple[Artifact, bool]:
        from filelock import FileLock, Timeout

        found = bundle.find(folder, key)
        if found is not None:
            return found, True
        try:
            locks = folder.parent / ".locks"
            locks.mkdir(parents=True, exist_ok=True)
            # Two exports of the same thing at once: the second waits, then finds it made.
            wait_s = self.limits.seconds()
            with FileLock(locks / folder.name, timeout=-1 if math.isinf(self.limits.until) else wait_s):
                if (found := bundle.find(folder, key)) is not None:
                    return found, True
                self.notify(what)
                request = {**job, "folder": str(folder), "key": key}
                stage.run(EXPORT_WORKER, request, self.limits, self.home, folder.name)
        except Timeout:
            message = f"{what}: another export makes it, for more than {wait_s:g} s"
            raise ChildFailure(TIME_LIMIT, message, "wait", "") from None
        except OSError as error:
            raise DataError(
                f"Cannot write {folder.parent}: {error.strerror}.", hint="Choose another with --out."
            ) from error
        return bundle.load(folder), False


def _computed(artifact: Artifact) -> tuple[str, ...]:
    """Say what the runtime computes in where that is not what is stored; fp32 in place of half is allowed, and said."""
    computed, stored = artifact.subject.compute_precision, artifact.subject.storage_precision
    return (f"computed {computed}",) if computed not in (None, stored) else ()


def _line(cell: Cell) -> str:
    name = f"{cell.model} {cell.shapes} px {cell.precision} {cell.target}"
    if not cell.status.made:
        return f"{name}: {cell.status}: {cell.reason}"
    checked = f"max error {cell.fidelity.max_error:.1e} of the spread" if cell.fidelity else cell.reason
    return f"{name}: {cell.status}{' (cached)' if cell.cached else ''}, {checked}, {cell.seconds:.1f} s"
