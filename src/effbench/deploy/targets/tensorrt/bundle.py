"""The bundle of an export without TensorRT: graph, recipe and expected outputs; the device builds the engine from it.

`finish` is written from NVIDIA's documentation of TensorRT 10 and 11; docs/how-to/tensorrt.md lists where it was run.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from effbench import reading
from effbench.deploy import abbreviate
from effbench.deploy.artifact import bundle as folders
from effbench.deploy.artifact import fidelity, placement
from effbench.deploy.targets.tensorrt import build, cuda
from effbench.deploy.targets.tensorrt.library import RTX, TENSORRT
from effbench.errors import DataError, UnavailableError, UsageError
from effbench.schema import Artifact, Stage

MODEL, RECIPE, ENGINE, INSPECTOR = "model.onnx", "recipe.json", "model.engine", "inspector.json"
TIMING_CACHE = "timing.cache"
COMMAND = "effbench export --finish BUNDLE"
FORMAT = 1
NOT_REQUESTED, COMPLETE, PARTIAL = "not requested", "complete", "partial"
"""How much of a network a DLA core runs."""


def write(
    graph: Artifact, model: bytes, shapes: build.Profile, options: Mapping[str, str], out: Path
) -> dict[str, Any]:
    """Write model, expected outputs and recipe into ``out``; returns the recipe.

    Raises:
        DataError: The graph has no expected outputs beside it.
    """
    (out / MODEL).write_bytes(model)
    reference = graph.folder / fidelity.REFERENCE
    if not reference.is_file():
        raise DataError(f"{reference}: missing.", hint="Remove the graph's folder and export again.")
    shutil.copyfile(reference, out / fidelity.REFERENCE)
    recipe = {
        "format": FORMAT,
        "library": TENSORRT.title,
        "versions": "10 or newer",
        "strongly_typed": True,
        "tf32": False,
        "profile": {name: [list(shape) for shape in triple] for name, triple in shapes.items()},
        "options": {key: value for key, value in options.items() if key in ("dla", "fallback")},
        "command": COMMAND,
        # TensorRT's own parser is the better check; that of TensorRT for RTX is the second best.
        "preflight": build.preflight(TENSORRT if TENSORRT.missing() is None else RTX, model),
    }
    (out / RECIPE).write_text(json.dumps(recipe, indent=1) + "\n")
    return recipe


def read_recipe(folder: Path) -> dict[str, Any]:
    """Read a bundle's recipe.

    Raises:
        DataError: It is missing, not JSON, or of another format.
    """
    path = folder / RECIPE
    recipe = reading.json_file(path, hint="A bundle is a folder that `effbench export -t trt` wrote.")
    if not isinstance(recipe, dict) or recipe.get("format") != FORMAT:
        raise DataError(f"{path}: not a recipe of format {FORMAT}.", hint="Export it again with this version.")
    return recipe


def missing() -> str | None:
    """Return None if an engine can be built and run here, else what is missing."""
    return TENSORRT.missing() or cuda.missing()


def finish(folder: Path, home: Path, timing_cache: Path | None = None) -> Artifact:
    """Build the engine of a bundle on the device that will run it, as a new artifact below ``home``.

    Args:
        folder: The bundle.
        home: Folder that artifacts are written below.
        timing_cache: File of kernel timings of earlier builds on this device; updated.

    Raises:
        ConversionError: TensorRT refuses the graph.
        DataError: The bundle is damaged.
        UnavailableError: TensorRT or a GPU is missing.
        UsageError: The folder is a finished artifact, or one of another target.
    """
    source = folders.load(folder)
    if source.subject.target != "trt" or source.entry != MODEL:
        raise UsageError(f"{source.name} is not an unfinished bundle of target 'trt'.")
    reason = missing()
    if reason is not None:
        raise UnavailableError(
            f"{source.name} cannot be finished here: {reason}.", hint=f"On the device that runs it: {COMMAND}"
        )
    gpu = cuda.gpu()
    ingredients = {"bundle": source.digest, "gpu": gpu.name, "capability": gpu.sm, **TENSORRT.identity()}
    key = folders.make_key(ingredients)
    target = folders.folder_of(home, source.name.rsplit("-", 1)[0], key)
    return folders.find(target, key) or folders.write(target, lambda draft: _finished(source, draft, key, timing_cache))


def _finished(source: Artifact, draft: Path, key: str, timing_cache: Path | None) -> Artifact:
    import time

    recipe = read_recipe(source.folder)
    start = time.perf_counter()
    shapes = {name: (tuple(low), tuple(usual), tuple(high)) for name, (low, usual, high) in recipe["profile"].items()}
    engine = build_engine(build.read_model(source.path), shapes, recipe["options"], draft, timing_cache)
    shutil.copyfile(source.folder / fidelity.REFERENCE, draft / fidelity.REFERENCE)
    shutil.copyfile(source.folder / RECIPE, draft / RECIPE)
    subject = replace(source.subject, compute_precision=build.compute_precision(engine.network), notes=())
    return replace(
        source,
        folder=draft,
        key=key,
        subject=subject,
        entry=ENGINE,
        fidelity=None,
        placement={**source.placement, **engine.record, "network": engine.network, "finished": True, **units(engine)},
        stages=(*source.stages, Stage("build the engine on the device", round(time.perf_counter() - start, 3))),
    )


def build_engine(
    model: bytes, shapes: build.Profile, options: Mapping[str, str], out: Path, timing_cache: Path | None
) -> build.Engine:
    """Build with TensorRT and write engine, timing cache and the inspector's report into ``out``."""
    caches: list[bytes] = []

    def configure(trt: Any, builder: Any, network: Any, config: Any) -> dict[str, Any]:
        old = timing_cache.read_bytes() if timing_cache is not None and timing_cache.exists() else b""
        config.set_timing_cache(config.create_timing_cache(old), ignore_mismatch=False)
        gpu = cuda.gpu()
        record = {**TENSORRT.identity(), "gpu": gpu.name, "compute_capabilities": [gpu.sm], "cuda_driver": gpu.driver}
        return {
            **record,
            "timing_cache": "warm" if old else "cold",
            "dla": place_on_dla(trt, builder, network, config, options),
        }

    def conclude(config: Any) -> None:
        caches.append(bytes(config.get_timing_cache().serialize()))

    engine = build.build(TENSORRT, model, shapes, configure, conclude)
    (out / ENGINE).write_bytes(engine.plan)
    (out / TIMING_CACHE).write_bytes(caches[0])
    if timing_cache is not None:
        timing_cache.parent.mkdir(parents=True, exist_ok=True)
        timing_cache.write_bytes(caches[0])
    (out / INSPECTOR).write_text(_inspect(engine.plan) + "\n")
    return engine


def _inspect(plan: bytes) -> str:
    from effbench.deploy.targets.tensorrt.library import logger

    trt = TENSORRT.load()
    engine = trt.Runtime(logger(trt)).deserialize_cuda_engine(plan)
    return str(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def units(engine: build.Engine) -> dict[str, Any]:
    """Return the placement of an engine: the GPU, or a DLA core and the layers that it leaves to the GPU."""
    layers = int(engine.network["layers"])
    dla = engine.record["dla"]
    if dla["status"] == NOT_REQUESTED:
        return placement.record({"GPU": layers}, requested="GPU")
    fallback = len(dla["left_to_gpu"])
    partitions, copies = (1, 0) if fallback == 0 else (None, None)
    counts = {"DLA": layers - fallback, "GPU": fallback}
    return placement.record(counts, requested="DLA", partitions=partitions, copies=copies)


def place_on_dla(trt: Any, builder: Any, network: Any, config: Any, options: Mapping[str, str]) -> dict[str, Any]:
    """Place the layers on a DLA core of an Orin if the options request one; returns a status and the fallback layers.

    Fallback to the GPU is an error unless ``fallback=yes`` allows it; then the layers on the GPU are listed.

    Raises:
        UnavailableError: There is no such core, or the DLA does not support a layer and fallback is not allowed.
    """
    if "dla" not in options:
        return {"status": NOT_REQUESTED}
    cores, core = int(builder.num_DLA_cores), int(options["dla"])
    if core >= cores:
        raise UnavailableError(f"DLA core {core} was requested; this device has {cores}.")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    fallback = [layer.name for layer in layers if not config.can_run_on_DLA(layer)]
    if fallback and options.get("fallback", "no") != "yes":
        print(f"layers that do not run on the DLA: {', '.join(fallback)}", file=sys.stderr)  # for the failure's log
        raise UnavailableError(
            f"{len(fallback)} of {len(layers)} layers do not run on the DLA: {abbreviate(fallback)}.",
            hint="--allow-fallback leaves them to the GPU, and records them.",
        )
    if fallback:
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    on_dla = len(layers) - len(fallback)
    status = PARTIAL if fallback else COMPLETE
    return {"status": status, "core": core, "cores": cores, "on_dla": on_dla, "left_to_gpu": fallback}
