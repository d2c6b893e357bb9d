"""Export: a model argument becomes one ONNX graph, the graph becomes a checked artifact per target."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from effbench import deploy
from effbench.api import bounded, failures, rescue, stage
from effbench.api.pictures import Pictures, pictures_for
from effbench.api.source import Source, code_hashes, ingredients, resolve, versions
from effbench.api.stage import AGENT, STAGE_LIMIT_S, WORKER, Limits, Notify, failed, silent
from effbench.api.verify import find_artifact, verify_artifact
from effbench.codec import to_json
from effbench.deploy import bundle, placement
from effbench.errors import (
    DataError,
    EffbenchError,
    FidelityError,
    UnavailableError,
    UnsupportedError,
    UsageError,
    did_you_mean,
)
from effbench.process import ChildFailure
from effbench.profiles import devices
from effbench.schema import (
    CALIBRATED,
    PRECISIONS,
    Artifact,
    Cell,
    Device,
    Preprocessing,
    parse_resolution,
    resolution_text,
)
from effbench.store import home as home_of

PRECISION_PACKAGES = {"int8": ("nncf",), "a16w8": ("onnxruntime",)}
GRAPH_PACKAGES = ("torch", "onnx", "onnxscript", "onnx-ir", "effbench")


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
    request = _Request(source, batch, dynamic_batch, dict(options or {}), home_of(out), limits, notify, used)
    wanted = [request.wanted(name, precision) for name in names if name in deploy.registered()]
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
    return _Request(source, 1, False, {}, home, limits, notify, None).graph(size)


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
    if name in deploy.PLANNED and name not in deploy.registered():
        return
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


class _Request:
    """One call of `export`: what all its cells share."""

    def __init__(
        self,
        source: Source,
        batch: int,
        dynamic: bool,
        options: dict[str, str],
        home: Path,
        limits: Limits,
        notify: Notify,
        device: Device | None,
    ) -> None:
        self.device = device
        self.source, self.batch, self.dynamic, self.options = source, batch, dynamic, options
        self.home, self.limits, self.notify = home, limits, notify
        self.pictures = Pictures()
        self.mixes: dict[tuple[int, int], bounded.Mix] = {}
        self.islands: dict[tuple[int, int], tuple[str, ...]] = {}
        self.allow_fallback = False
        self._graphs: dict[tuple[int, int], Artifact | EffbenchError] = {}

    def declared(self) -> Preprocessing | None:
        """Return the preprocessing that the made graphs carry: a user's factory may declare its own."""
        return next((graph.preprocessing for graph in self._graphs.values() if isinstance(graph, Artifact)), None)

    def prepare(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Make the graphs of all sizes, as many at once as there are cores to spare; each is one thread's work."""
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(max(1, min(len(sizes), (os.cpu_count() or 1), 4))) as pool:
            for size, made in zip(sizes, pool.map(self._try_graph, sizes), strict=True):
                self._graphs[size] = made

    def _try_graph(self, size: tuple[int, int]) -> Artifact | EffbenchError:
        try:
            return self.graph(size)
        except EffbenchError as error:
            return error

    def cell(self, size: tuple[int, int], target: str, precision: str | None, verify: bool) -> Cell:
        start = time.perf_counter()
        known = deploy.registered().get(target)
        blank = Cell(self.source.name, size, precision or (known.precision if known else "default"), target, "ok")
        try:
            made, cached = self.artifact(size, target, precision)
            blank = replace(
                blank, precision=made.subject.storage_precision, artifact=str(made.folder), digest=made.digest
            )
            blank = replace(blank, cached=cached, notes=made.subject.notes)
            if verify and made.fidelity is None:
                self.notify(f"verify {made.name}")
                try:
                    made = verify_artifact(made, self.home, self.limits)
                except UnavailableError as error:
                    # Made here, for a machine that this one is not: whole, and said to be unverified.
                    blank = replace(blank, notes=(*blank.notes, f"not verified here: {error.message}"))
            if verify and made.fidelity is not None and not made.fidelity.passed:
                made, said = self._with_islands(size, target, made)
                blank = replace(blank, artifact=str(made.folder), digest=made.digest)
                blank = replace(blank, notes=(*made.subject.notes, *said))
            blank = replace(blank, fidelity=made.fidelity, placement=made.placement)
            blank = replace(blank, notes=(*blank.notes, *_computed(made)))
            if not self.allow_fallback:
                placement.check(made.placement, made.name)
            if verify and made.fidelity is not None and not made.fidelity.passed:
                raise FidelityError(f"{made.name} is not the same model: {'; '.join(made.fidelity.reasons)}.")
        except EffbenchError as error:
            blank = failed(blank, error)
        seconds = round(time.perf_counter() - start, 3)
        self.notify(_line(replace(blank, seconds=seconds)))
        return replace(blank, seconds=seconds)

    def artifact(self, size: tuple[int, int], name: str, precision: str | None) -> tuple[Artifact, bool]:
        target = deploy.get(name)
        reason = target.available()
        if reason is not None:
            raise UnavailableError(
                f"Target '{name}' cannot be made here: {reason}.", hint=f"pip install 'effbench[{target.extra}]'"
            )
        wanted = self.wanted(name, precision)
        options = {**(self.device.options.get(name, {}) if self.device else {}), **self.options}
        refused: Mapping[str, str] = getattr(target, "refuses", {})
        if wanted in refused:
            others = ", ".join(name for name in PRECISIONS if name not in refused)
            raise UnsupportedError(f"Target '{name}' takes no {wanted}: {refused[wanted]}.", hint=f"It takes {others}.")
        if self.allow_fallback and "fallback" in target.options:
            options.setdefault("fallback", "yes")
        graph = self._graphs[size]
        if isinstance(graph, EffbenchError):
            raise graph
        if wanted != "fp32":
            graph = self.in_precision(size, wanted)
        if wanted == "int8" and size in self.mixes:
            graph = self._mixed(size, graph, self.mixes[size])
        key = bundle.make_key(
            {
                "graph": graph.key,
                "target": name,
                "options": options,
                "versions": versions(*target.packages),
                "code": code_hashes(f"{type(target).__module__}:TARGET"),
            }
        )
        folder = bundle.folder_of(self.home, self._name(size, wanted, name), key)
        job = {"op": "convert", "graph": str(graph.folder), "target": name, "options": options}
        return self._make(folder, key, job, f"convert {self.source.name} at {resolution_text(size)} to {target.title}")

    def _with_islands(self, size: tuple[int, int], target: str, made: Artifact) -> tuple[Artifact, tuple[str, ...]]:
        """Return what an artifact that missed its limit in half precision becomes with islands of fp32, if that helps.

        Else the artifact itself, with what was tried.
        """
        if made.subject.storage_precision != "fp16":
            return made, ()
        try:
            half = self.in_precision(size, "fp16")
            names = rescue.islands(self.in_precision(size, "fp32"), half, self.home, self.limits, self.notify)
            if not names:
                return made, ("no operator is to blame that fp32 islands could save",)
            self.islands[size] = names
            try:
                found, _ = self.artifact(size, target, "fp16")
            finally:
                del self.islands[size]
            if found.fidelity is None:
                self.notify(f"verify {found.name}")
                found = verify_artifact(found, self.home, self.limits)
        except EffbenchError as error:
            return made, (f"fp32 islands could not be tried: {error.message}",)
        if found.fidelity is None or not found.fidelity.passed:
            return made, (f"{len(names)} fp32 islands were tried and did not suffice",)
        return found, ()

    def wanted(self, target: str, precision: str | None) -> str:
        """Return the precision of a target: the one asked for, else the device's, else the target's own."""
        device = self.device.precisions.get(target) if self.device else None
        return precision or device or deploy.get(target).precision

    def graph(self, size: tuple[int, int]) -> Artifact:
        source = self.source
        key = bundle.make_key(
            {
                "model": ingredients(source),
                "resolution": size,
                "batch": self.batch,
                "dynamic_batch": self.dynamic,
                "versions": versions(*GRAPH_PACKAGES),
                "code": code_hashes("effbench.deploy.graph:from_module", "effbench.deploy.fidelity:check"),
            }
        )
        folder = bundle.folder_of(self.home, self._name(size, "fp32", "onnx"), key)
        job = {
            "op": "graph",
            "backbone": to_json(source.backbone),
            "weights": to_json(source.weights),
            "path": str(source.path) if source.path else None,
            "state": str(source.state) if source.state else None,
            "resolution": size,
            "batch": self.batch,
            "dynamic_batch": self.dynamic,
            "threads": 1,
            "packages": GRAPH_PACKAGES,
        }
        return self._make(folder, key, job, f"export {source.name} at {resolution_text(size)} to ONNX")[0]

    def in_precision(self, size: tuple[int, int], precision: str) -> Artifact:
        """Return the graph of a size in a precision; made where it is not there."""
        graph = self._graphs[size]
        if isinstance(graph, EffbenchError):
            raise graph
        if precision == "fp32":
            return graph
        packages = PRECISION_PACKAGES.get(precision, ())
        pictures = self.pictures.hashes.get(size) if precision in CALIBRATED else None
        how: dict[str, Any] = {"precision": precision, "calibration": pictures}
        if precision == "fp16" and size in self.islands:
            how["islands"] = list(self.islands[size])
        code = code_hashes("effbench.deploy.precision:to_fp16", "effbench.deploy.quantize:to_int8")
        key = bundle.make_key({"graph": graph.key, **how, "versions": versions(*packages), "code": code})
        folder = bundle.folder_of(self.home, self._name(size, precision, "onnx"), key)
        job = {"op": "precision", "graph": str(graph.folder), **how, "pictures": self.pictures.place}
        job["packages"] = packages
        return self._make(folder, key, job, f"write {precision} into {graph.name}")[0]

    def _mixed(self, size: tuple[int, int], int8: Artifact, mix: bounded.Mix) -> Artifact:
        graph = self.in_precision(size, "fp32")
        how = {"floats": list(mix.floats), "rest": mix.rest, "note": mix.note}
        code = code_hashes("effbench.deploy.mix:mixed")
        key = bundle.make_key({"graph": graph.key, "int8": int8.key, **how, "code": code})
        folder = bundle.folder_of(self.home, self._name(size, "int8", "onnx"), key)
        job = {"op": "mix", "graph": str(graph.folder), "int8": str(int8.folder), **how}
        return self._make(folder, key, job, f"write a {mix.note}", bounded.WORKER)[0]

    def _name(self, size: tuple[int, int], precision: str, target: str) -> str:
        return bundle.name_of(self.source.name, size, None if self.dynamic else self.batch, precision, target)

    def _make(
        self, folder: Path, key: str, job: Mapping[str, Any], what: str, worker: str = WORKER
    ) -> tuple[Artifact, bool]:
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
                stage.run(worker, request, self.limits, self.home, folder.name)
        except Timeout:
            raise ChildFailure(
                "time limit", f"{what}: another export makes it, for more than {wait_s:g} s", "wait", ""
            ) from None
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
    what = f"{cell.model} {resolution_text(cell.resolution)} px {cell.precision} {cell.target}"
    if cell.status != "ok":
        return f"{what}: {cell.status}: {cell.reason}"
    checked = f", max error {cell.fidelity.max_error:.1e} of the spread" if cell.fidelity else ", not verified"
    return f"{what}: ok{' (cached)' if cell.cached else ''}{checked}, {cell.seconds:.1f} s"


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
