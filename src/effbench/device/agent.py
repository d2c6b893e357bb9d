"""What runs on a device host: verify an artifact, measure one round of it, describe the machine.

``python -m effbench.device.agent`` reads one job from standard input and answers in JSON lines (see
`effbench.process`).
It needs Python >= 3.10, numpy and the runtime of the artifact, nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

STARTED_NS = time.perf_counter_ns()
SLOW_MODEL_S = 1.0
"""A slow model may run over its share of the budget by so much, to have samples that support a median at all."""
WARMUP_SHARE_S = 0.3
"""What warm-up usually takes, kept back from a round's share of the budget."""


def _open(job: dict[str, Any], emit: Any) -> tuple[Any, Any]:
    from effbench import deploy
    from effbench.deploy.artifact import bundle

    emit({"event": "stage", "stage": "check files"})
    artifact = bundle.load(Path(job["artifact"]))
    if artifact.subject.target == "onnx":
        # The graph itself, which no runtime owns: the reference of a model that came as an .onnx file.
        from effbench.deploy.interpreter.session import InterpreterSession

        return artifact, InterpreterSession(artifact, int(job.get("threads", 1)))
    target = deploy.get(artifact.subject.target)
    emit({"event": "stage", "stage": f"load in {target.title}"})
    return artifact, target.open(artifact, int(job.get("threads", 1)), {**artifact.options, **job.get("options", {})})


def _batch(artifact: Any, asked: int | None) -> int:
    from effbench.errors import UsageError

    fixed = artifact.inputs[0].shape[0]
    if asked is not None and fixed is not None and asked != fixed:
        hint = f"Export it again with --batch {asked}, or with --dynamic-batch."
        raise UsageError(f"{artifact.name} was exported with batch {fixed}, not {asked}.", hint=hint)
    return int(asked or fixed or 1)


def _inputs(artifact: Any, batch: int, count: int) -> list[dict[str, Any]]:
    from effbench.deploy.artifact import fidelity

    spec = artifact.inputs[0]
    images = fidelity.reference_images(count * batch, spec.shape[1], artifact.subject.resolution)
    return fidelity.feeds(images, batch, spec, artifact.preprocessing)


def verify(job: dict[str, Any], emit: Any) -> None:
    """Compare an artifact with its expected outputs; emits the fidelity and the placement."""
    from importlib.util import find_spec

    from effbench import deploy
    from effbench.codec import to_json
    from effbench.deploy.artifact import bundle, encoded, fidelity

    reference = fidelity.load_reference(Path(job["reference"]))
    # Decoding takes Pillow, which a device may lack; the record then says that it was not checked.
    example = encoded.load(Path(job["reference"])) if find_spec("PIL") else None
    name = bundle.load(Path(job["artifact"]), check_files=False).subject.target
    checks: tuple[Mapping[str, str], ...] = ({},)
    title = "effbench's interpreter"  # of the graph itself (`_open`)
    if name != "onnx":
        target = deploy.get(name)
        checks, title = target.checks, target.title
    found = []
    for options in checks:
        artifact, session = _open({**job, "options": {**job.get("options", {}), **options}}, emit)
        # An open batch is checked with more than one image: a graph that is secretly static would fail here.
        batch = artifact.inputs[0].shape[0] or 3
        precision = artifact.subject.storage_precision
        emit({"event": "stage", "stage": "verify"})
        # A simulator that needs seconds for an image states how many it takes; the check records that number.
        shape, prepared = artifact.inputs[0], artifact.preprocessing
        one = fidelity.check(session, reference, batch, shape, prepared, precision, example, session.max_images)
        how = "".join(f", {key} {value}" for key, value in options.items())
        engine = f"{title}{', simulated' if session.simulated else ''}{how}"
        found.append(replace(one, engine=engine, proved_by=session.proof))
        placement = session.placement()  # what settles the compute precision where a runtime has to be asked for it
        answer = {"placement": placement, "compute_precision": session.compute_precision}
        session.close()
    emit({"event": "result", "fidelity": to_json(fidelity.worst(found)), **answer})


def measure(job: dict[str, Any], emit: Any) -> None:
    """Measure one round in this fresh process; emits the round, and the state of the machine before and after."""
    from effbench.codec import to_json
    from effbench.profiles import environment
    from effbench.profiles.measure import measure_round
    from effbench.profiles.power import meter
    from effbench.profiles.protocol import Protocol, cool_down

    protocol = Protocol.of(job)
    cooled: dict[str, float] = {}
    if job.get("cool_to_c") is not None:
        emit({"event": "stage", "stage": f"cool down to {job['cool_to_c']:.0f} °C"})
        cooled = cool_down(float(job["cool_to_c"]))
    before = environment.observe(job.get("packages", ()))
    start = time.perf_counter_ns()
    clocks = time.time() - time.perf_counter()
    artifact, session = _open(job, emit)
    load_ms = (time.perf_counter_ns() - start) / 1e6
    batch = _batch(artifact, job.get("batch"))
    feeds, other = _inputs(artifact, batch, 2)
    emit({"event": "stage", "stage": "measure"})
    # Start-up counts against the round's share of the budget, so that a budget means wall time.
    spent = (time.perf_counter_ns() - STARTED_NS) / 1e9 - cooled.get("cool_down_s", 0.0)
    seconds = max(float(job["min_seconds"]), float(job["round_seconds"]) - spent - WARMUP_SHARE_S)
    if protocol.minutes is not None:
        seconds = 60 * protocol.minutes
    with meter() as power:
        measured = measure_round(
            session,
            feeds,
            min_samples=int(job["min_samples"]),
            min_seconds=seconds,
            max_seconds=max(seconds, SLOW_MODEL_S),
            load_ms=load_ms,
            contrast=other if job.get("check_promise") else None,
            protocol=protocol,
            meter=power,
        )
    measured = replace(measured, observed={**measured.observed, **cooled})
    after = environment.observe(job.get("packages", ()))
    # Samples come from a clock that nobody sets; that the wall clock was set meanwhile still belongs to the record.
    step = {"wall_clock_step_s": round(time.time() - time.perf_counter() - clocks, 3)}
    emit(
        {
            "event": "round",
            "round": to_json(replace(measured, observed={**measured.observed, **step})),
            "protocol": protocol.name,
            "agent_s": (time.perf_counter_ns() - STARTED_NS) / 1e9,
            "batch": batch,
            "before": before,
            "after": after,
            "compute_precision": session.compute_precision,
        }
    )
    session.close()


def finish(job: dict[str, Any], emit: Any) -> None:
    """Build, on this device, what an export elsewhere left as a bundle; emits the artifact and where it lies."""
    from effbench import deploy
    from effbench.codec import to_json
    from effbench.deploy.artifact import bundle

    left = bundle.load(Path(job["artifact"]))
    target = deploy.get(left.subject.target)
    emit({"event": "stage", "stage": f"build for {target.name}"})
    made = target.finish(left.folder, left.folder.parent / "finished", job.get("options", {}))
    emit({"event": "result", "artifact": to_json(made), "folder": str(made.folder)})


def evaluate(job: dict[str, Any], emit: Any) -> None:
    """Run an artifact over labelled images, once per preprocessing asked for; emits predictions every second."""
    import os

    from effbench.codec import from_json, plain
    from effbench.data import pixels
    from effbench.profiles import accuracy
    from effbench.schema import Preprocessing

    emit({"event": "stage", "stage": "find the images"})
    cut, label_of = _pushed(job) if "images" in job else _decoded(job)
    artifact, session = _open(job, emit)
    batch, spec = _batch(artifact, job.get("batch")), artifact.inputs[0]
    output = accuracy.score_output(artifact.outputs, artifact.name).name
    workers = int(job.get("workers") or max(1, min(8, (os.cpu_count() or 2) - 1)))
    for task in job["tasks"]:
        preprocessing = from_json(Preprocessing, task["preprocessing"], "job")
        places = task["places"]

        def load(place: int, preprocessing: Preprocessing = preprocessing) -> Any:
            image = cut(place, artifact, preprocessing)
            return pixels.normalize(image[None], preprocessing, spec.dtype)[0]

        labels = [-1 if label is None else label for label in map(label_of, places)]
        emit({"event": "stage", "stage": "evaluate"})
        found = accuracy.evaluate(session, load, places, labels, spec=spec, output=output, batch=batch, workers=workers)
        for portion, seconds in found:
            emit({"event": "predictions", "task": task["name"], "predictions": plain(portion), "seconds": seconds})
    emit({"event": "result", "compute_precision": session.compute_precision, "simulated": session.simulated})
    session.close()


def _decoded(job: dict[str, Any]) -> tuple[Any, Any]:
    """Return how an image of a data set on this machine is read and cut, and how its label is found."""
    from effbench.data import open_dataset, pixels

    data = open_dataset(job["data"], job["classes"])

    def cut(place: int, artifact: Any, preprocessing: Any) -> Any:
        item = data.items[place]
        size, channels = artifact.subject.resolution, artifact.inputs[0].shape[1] or 3
        return pixels.read(item.read(), item.name, size, preprocessing, channels)

    return cut, lambda place: data.items[place].label


def _pushed(job: dict[str, Any]) -> tuple[Any, Any]:
    """Return the same for images that came cut, in the order of the one task's places."""
    import numpy as np

    images = np.load(job["images"], allow_pickle=False)
    rows = {place: row for row, place in enumerate(job["tasks"][0]["places"])}
    return lambda place, *_: images[rows[place]], lambda place: job["labels"][rows[place]]


def load(job: dict[str, Any], emit: Any) -> None:
    """Import the packages of a target, to find out whether they work, and tell their versions."""
    from importlib import import_module
    from importlib.metadata import version

    from effbench import deploy
    from effbench.errors import UnavailableError

    target = deploy.get(job["target"])
    for module in target.modules:
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            raise UnavailableError(f"makes artifacts here, but cannot run them: no module '{error.name}'") from error
    emit({"event": "result", "versions": {package: version(package) for package in target.packages}})


def observe(job: dict[str, Any], emit: Any) -> None:
    """Describe this machine and the targets that can run here."""
    from effbench import deploy
    from effbench.profiles import environment

    reasons = {name: target.available() for name, target in deploy.registered().items()}
    emit({"event": "result", "environment": environment.observe(), "targets": reasons})


def roofline(job: dict[str, Any], emit: Any) -> None:
    """Reach for the processor's peaks at a number of threads; emits GFLOP/s and GB/s."""
    from effbench.profiles import roofline as roof

    threads = int(job["threads"])
    roof.limit_threads(threads)
    emit({"event": "stage", "stage": "reach for the peaks"})
    peaks = {"gflops": roof.gflops(), "gb_per_s": roof.gb_per_s(threads)}
    emit({"event": "result", **peaks})


def layers(job: dict[str, Any], emit: Any) -> None:
    """Time the layers of one artifact of ONNX Runtime; emits each with its work."""
    from effbench.deploy.artifact import bundle
    from effbench.profiles import roofline as roof

    emit({"event": "stage", "stage": "time the layers"})
    artifact = bundle.load(Path(job["artifact"]))
    emit({"event": "result", "layers": roof.layers(artifact.path, int(job["threads"]), int(job["runs"]))})


def clocks(job: dict[str, Any], emit: Any) -> None:
    """Tell what locking this device's clocks would change, lock them while our parent lives, or unlock them."""
    import os

    from effbench.errors import UnavailableError
    from effbench.profiles import clocks as found
    from effbench.profiles import environment

    root, folder = environment.SYS.parent, Path("~/.cache/effbench").expanduser()
    try:
        if job["do"] == "plan":
            emit({"event": "result", "said": [setting.said for setting in found.plan(root, folder)]})
        elif job["do"] == "lock":
            emit({"event": "result", "said": found.lock(root, folder, os.getppid())})
        else:
            emit({"event": "result", "restored": found.unlock(folder)})
    except found.ClockError as error:
        hint = "These settings need root: run effbench as root there, or allow `sudo -n` for that user."
        raise UnavailableError(f"The clocks cannot be locked: {error}.", hint=hint) from error


HANDLERS = {
    "verify": verify,
    "measure": measure,
    "evaluate": evaluate,
    "finish": finish,
    "load": load,
    "observe": observe,
    "roofline": roofline,
    "layers": layers,
    "clocks": clocks,
}


def main() -> None:
    """Serve one job."""
    from effbench.process import serve

    serve(HANDLERS)


if __name__ == "__main__":
    main()
