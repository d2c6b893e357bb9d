"""What an export leaves where TensorRT cannot build: graph, recipe and expected outputs, and how a device finishes it.

Finishing is written from NVIDIA's documentation of TensorRT 10 and 11; where it was run is in docs/how-to/tensorrt.md.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

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


def leave(
    graph: Artifact, model: bytes, shapes: build.Profile, options: Mapping[str, str], out: Path
) -> dict[str, Any]:
    """Write model, expected outputs and recipe below ``out``; returns the recipe.

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
        "preflight": _preflight(model),
    }
    (out / RECIPE).write_text(json.dumps(recipe, indent=1) + "\n")
    return recipe


def _preflight(model: bytes) -> dict[str, Any]:
    """Ask TensorRT's own parser where it is installed, else that of TensorRT for RTX, and record whose it was."""
    return build.preflight(TENSORRT if TENSORRT.missing() is None else RTX, model)


def read_recipe(folder: Path) -> dict[str, Any]:
    """Read a bundle's recipe.

    Raises:
        DataError: It is missing, not JSON, or of another format.
    """
    path = folder / RECIPE
    try:
        recipe = json.loads(path.read_text())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}.", hint="A bundle is what `effbench export -t trt` left.") from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}).") from error
    if not isinstance(recipe, dict) or recipe.get("format") != FORMAT:
        raise DataError(f"{path}: not a recipe of format {FORMAT}.", hint="Export it again with this version.")
    return recipe


def missing() -> str | None:
    """Return None where an engine can be built and run here, else what is missing."""
    return TENSORRT.missing() or cuda.missing()


def finish(folder: Path, home: Path, timing_cache: Path | None = None) -> Artifact:
    """Build the engine of a bundle on the device that will run it, as an artifact of its own below ``home``.

    Args:
        folder: The bundle.
        home: Where artifacts belong.
        timing_cache: Kernel timings of earlier builds on this device; written back.

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
    made = make_engine(build.read_model(source.path), shapes, recipe["options"], draft, timing_cache)
    shutil.copyfile(source.folder / fidelity.REFERENCE, draft / fidelity.REFERENCE)
    shutil.copyfile(source.folder / RECIPE, draft / RECIPE)
    subject = replace(source.subject, compute_precision=build.compute_precision(made.network), notes=())
    return replace(
        source,
        folder=draft,
        key=key,
        subject=subject,
        entry=ENGINE,
        fidelity=None,
        placement={**source.placement, **made.record, "network": made.network, "finished": True, **units(made)},
        stages=(*source.stages, Stage("build the engine on the device", round(time.perf_counter() - start, 3))),
    )


def make_engine(
    model: bytes, shapes: build.Profile, options: Mapping[str, str], out: Path, timing_cache: Path | None
) -> build.Engine:
    """Build with TensorRT and write engine, timing cache and the inspector's account below ``out``."""
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

    made = build.build(TENSORRT, model, shapes, configure, conclude)
    (out / ENGINE).write_bytes(made.plan)
    (out / TIMING_CACHE).write_bytes(caches[0])
    if timing_cache is not None:
        timing_cache.parent.mkdir(parents=True, exist_ok=True)
        timing_cache.write_bytes(caches[0])
    (out / INSPECTOR).write_text(_inspected(made.plan) + "\n")
    return made


def _inspected(plan: bytes) -> str:
    from effbench.deploy.targets.tensorrt.library import logger

    trt = TENSORRT.load()
    engine = trt.Runtime(logger(trt)).deserialize_cuda_engine(plan)
    return str(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def units(made: build.Engine) -> dict[str, Any]:
    """Return the placement of an engine: the GPU, or a DLA core with what it leaves to the GPU."""
    layers = int(made.network["layers"])
    dla = made.record["dla"]
    if dla["status"] == "not asked for":
        return placement.record({"GPU": layers}, wanted="GPU")
    left = len(dla["left_to_gpu"])
    counted = {"DLA": layers - left, "GPU": left}
    whole = left == 0
    return placement.record(counted, wanted="DLA", partitions=1 if whole else None, copies=0 if whole else None)


def place_on_dla(trt: Any, builder: Any, network: Any, config: Any, options: Mapping[str, str]) -> dict[str, Any]:
    """Ask for a DLA core of an Orin where the options do; returns how far the layers fit, as a status.

    Fallback to the GPU is an error unless ``fallback=yes`` allows it; then what stays on the GPU is named.

    Raises:
        UnavailableError: There is no such core, or layers do not fit and fallback is not allowed.
    """
    if "dla" not in options:
        return {"status": "not asked for"}
    cores, core = int(builder.num_DLA_cores), int(options["dla"])
    if core >= cores:
        raise UnavailableError(f"DLA core {core} was asked for; this device has {cores}.")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    left = [layer.name for layer in layers if not config.can_run_on_DLA(layer)]
    if left and options.get("fallback", "no") != "yes":
        raise UnavailableError(
            f"{len(left)} of {len(layers)} layers do not run on the DLA, the first is '{left[0]}'.",
            hint="--allow-fallback leaves them to the GPU, and records them.",
        )
    if left:
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    status = "whole" if not left else "partial"
    return {"status": status, "core": core, "cores": cores, "on_dla": len(layers) - len(left), "left_to_gpu": left}
