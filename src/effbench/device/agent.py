"""The agent on a device: verify an artifact, measure one round of it, describe the machine.

``python -m effbench.device.agent`` reads one job from standard input and answers in JSON lines (`effbench.process`). It
needs only Python >= 3.10, numpy and the runtime of the artifact.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

STARTED_NS = time.perf_counter_ns()
SLOW_MODEL_S = 1.0
"""A slow model may exceed its share of the budget by this much, to collect enough samples for a median."""
WARMUP_SHARE_S = 0.3
"""The usual duration of warm-up, reserved from a round's share of the budget."""


def _open(job: dict[str, Any], emit: Any) -> tuple[Any, Any]:
    from effbench.profiles.start import StartClock

    return _open_timed(job, emit, StartClock())


def _open_timed(job: dict[str, Any], emit: Any, clock: Any) -> tuple[Any, Any]:
    """Load an artifact and time the parts; with ``cold_start`` in the job, from the disk."""
    from effbench import deploy
    from effbench.deploy.artifact import bundle

    folder, threads = Path(job["artifact"]), int(job.get("threads", 1))
    if job.get("cold_start"):
        _drop_caches(folder, job, clock)
    emit({"event": "stage", "stage": "check files"})
    with clock.part("read"):
        artifact = bundle.load(folder)
    if artifact.subject.target == "onnx":
        # The graph itself belongs to no runtime: it is the reference of a model given as an .onnx file.
        with clock.part("import"):
            from effbench.deploy.interpreter.session import InterpreterSession

        with clock.part("session"):
            return artifact, InterpreterSession(artifact, threads, job.get("options", {}))
    target = deploy.get(artifact.subject.target)
    emit({"event": "stage", "stage": f"load in {target.title}"})
    with clock.part("import"):
        for module in target.modules:
            with contextlib.suppress(ImportError):  # `open` says what is missing
                import_module(module)
    with clock.part("session"):
        return artifact, target.open(artifact, threads, {**artifact.options, **job.get("options", {})})


def _drop_caches(folder: Path, job: dict[str, Any], clock: Any) -> None:
    from effbench import deploy
    from effbench.deploy.artifact import bundle
    from effbench.profiles.start import files_of

    artifact = bundle.load(folder, check_files=False)
    compiled = ""
    if artifact.subject.target != "onnx":
        options = {**artifact.options, **job.get("options", {})}
        compiled = deploy.get(artifact.subject.target).kept_compiled(options)
    files = [folder / name for name in (*artifact.files, bundle.MANIFEST)]
    clock.drop([*files, *files_of(job.get("packages", ()))], (compiled,) if compiled else ())


def _batch(artifact: Any, requested: int | None) -> int:
    from effbench.errors import UsageError

    fixed = artifact.fixed_batch
    if requested is not None and fixed is not None and requested != fixed:
        hint = f"Export it again with --batch {requested}, or with --dynamic-batch."
        raise UsageError(f"{artifact.name} was exported with batch {fixed}, not {requested}.", hint=hint)
    return int(requested or fixed or 1)


def _inputs(artifact: Any, batch: int, count: int) -> list[dict[str, Any]]:
    from effbench.deploy.artifact import feeding

    inputs = feeding.unsampled(artifact.inputs)
    return feeding.feeds(feeding.synthetic(inputs, count * batch), batch, inputs, artifact.preprocessing)


def verify(job: dict[str, Any], emit: Any) -> None:
    """Compare an artifact with its expected outputs; emit the fidelity and the placement.

    A job with ``outputs``, a path, also keeps there the outputs that were compared.
    """
    from importlib.util import find_spec

    from effbench import deploy
    from effbench.codec import to_json
    from effbench.deploy.artifact import bundle, encoded, fidelity, observed

    reference = fidelity.load_reference(Path(job["reference"]))
    # Decoding needs Pillow, which a device may lack; the record then states that decoding was not checked.
    example = encoded.load(Path(job["reference"])) if find_spec("PIL") else None
    subject = bundle.load(Path(job["artifact"]), check_files=False).subject
    if subject.target == "onnx":  # the graph itself (`_open`)
        from effbench.deploy.interpreter.session import CHECKS

        checks, title = CHECKS.get(subject.storage_precision, ({},)), "effbench's interpreter"
        title += " in simulated half precision" if subject.storage_precision == "fp16" else ""
    else:
        target = deploy.get(subject.target)
        checks, title = target.checks, target.title
    results, outputs = [], []
    for options in checks:
        artifact, session = _open({**job, "options": {**job.get("options", {}), **options}}, emit)
        # An open batch is checked with more than one image: a graph with a hidden fixed batch fails here.
        batch = artifact.fixed_batch or 3
        precision = artifact.subject.storage_precision
        emit({"event": "stage", "stage": "verify"})
        # A slow simulator limits the number of images; the check records that number.
        inputs, prepared = artifact.inputs, artifact.preprocessing
        setup = fidelity.Setup(
            reference, batch, inputs, prepared, precision, example, session.max_images, session.slack
        )
        outputs.append(fidelity.observe(session, setup))
        result = fidelity.decide(outputs[-1], setup)
        settings = "".join(f", {key} {value}" for key, value in options.items())
        engine = f"{title}{', simulated' if session.simulated else ''}{settings}"
        results.append(replace(result, engine=engine, proved_by=session.proof))
        placement = session.placement()  # some runtimes determine the compute precision here
        answer = {"placement": placement, "compute_precision": session.compute_precision}
        session.close()
    if "outputs" in job:
        observed.save(Path(job["outputs"]), outputs)
    emit({"event": "result", "fidelity": to_json(fidelity.worst(results)), **answer})


def measure(job: dict[str, Any], emit: Any) -> None:
    """Measure one round in this fresh process; emit the round, and the state of the machine before and after."""
    from effbench.codec import to_json
    from effbench.profiles import environment
    from effbench.profiles.measure import RoundPlan, measure_round
    from effbench.profiles.power import meter
    from effbench.profiles.promise import check_promise
    from effbench.profiles.protocol import Protocol, cool_down
    from effbench.profiles.start import StartClock

    protocol = Protocol.of(job)
    cooled: dict[str, float] = {}
    if job.get("cool_to_c") is not None:
        emit({"event": "stage", "stage": f"cool down to {job['cool_to_c']:.0f} °C"})
        cooled = cool_down(float(job["cool_to_c"]))
    before = environment.observe(job.get("packages", ()))
    clocks = time.time() - time.perf_counter()
    start = StartClock()
    artifact, session = _open_timed(job, emit, start)
    batch = _batch(artifact, job.get("batch"))
    feeds, contrast = _inputs(artifact, batch, 2)
    emit({"event": "stage", "stage": "measure"})
    # Start-up counts against the round's share of the budget, since a budget is wall time.
    spent = (time.perf_counter_ns() - STARTED_NS) / 1e9 - cooled.get("cool_down_s", 0.0)
    seconds = max(float(job["min_seconds"]), float(job["round_seconds"]) - spent - WARMUP_SHARE_S)
    if protocol.minutes is not None:
        seconds = 60 * protocol.minutes
    with meter() as power:
        measured = measure_round(
            session,
            feeds,
            RoundPlan(int(job["min_samples"]), seconds, max(seconds, SLOW_MODEL_S), protocol=protocol),
            load_ms=start.load_ms,
            meter=power,
        )
    measured = replace(measured, start=start.start())
    if job.get("check_promise"):
        # After the timed phase, since it sleeps, which would undo the warm-up.
        measured = replace(measured, flags=check_promise(session, feeds, contrast))
    measured = replace(measured, observed={**measured.observed, **cooled})
    after = environment.observe(job.get("packages", ()))
    # Samples use a monotonic clock; a step of the wall clock is recorded nevertheless.
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
    """Finish on this device a bundle that was exported elsewhere; emit the artifact and its folder."""
    from effbench import deploy
    from effbench.codec import to_json
    from effbench.deploy.artifact import bundle

    unfinished = bundle.load(Path(job["artifact"]))
    target = deploy.get(unfinished.subject.target)
    emit({"event": "stage", "stage": f"build for {target.name}"})
    artifact = target.finish(unfinished.folder, unfinished.folder.parent / "finished", job.get("options", {}))
    emit({"event": "result", "artifact": to_json(artifact), "folder": str(artifact.folder)})


def evaluate(job: dict[str, Any], emit: Any) -> None:
    """Run an artifact over labelled images, once per requested preprocessing; emit predictions every second."""
    import os

    from effbench.codec import from_json, plain
    from effbench.deploy.artifact import feeding
    from effbench.profiles import accuracy
    from effbench.schema import Preprocessing

    emit({"event": "stage", "stage": "find the images"})
    cut, label_of = _remote_images(job) if "images" in job else _decoded(job)
    artifact, session = _open(job, emit)
    batch, spec = _batch(artifact, job.get("batch")), artifact.image_input()
    output = accuracy.score_output(artifact.outputs, artifact.name).name
    workers = int(job.get("workers") or max(1, min(8, (os.cpu_count() or 2) - 1)))
    for task in job["tasks"]:
        preprocessing = from_json(Preprocessing, task["preprocessing"], "job")
        indices = task["places"]

        def load(index: int, preprocessing: Preprocessing = preprocessing) -> Any:
            image = cut(index, artifact, preprocessing)
            return feeding.images_in(image[None], spec, preprocessing)[0]

        labels = [-1 if label is None else label for label in map(label_of, indices)]
        emit({"event": "stage", "stage": "evaluate"})
        images = accuracy.Images(load, indices, labels)
        portions = accuracy.evaluate(session, images, accuracy.EvaluationSettings(spec, output, batch, workers))
        for portion, seconds in portions:
            emit({"event": "predictions", "task": task["name"], "predictions": plain(portion), "seconds": seconds})
    emit({"event": "result", "compute_precision": session.compute_precision, "simulated": session.simulated})
    session.close()


def _decoded(job: dict[str, Any]) -> tuple[Any, Any]:
    """Return functions that read and crop an image of a data set on this machine, and that return its label."""
    from effbench.data import open_dataset, pixels

    data = open_dataset(job["data"], job["classes"])

    def cut(index: int, artifact: Any, preprocessing: Any) -> Any:
        item = data.items[index]
        size, channels = artifact.subject.shapes.pixels, artifact.image_input().channels
        return pixels.read(item.read(), item.name, size, preprocessing, channels)

    return cut, lambda index: data.items[index].label


def _remote_images(job: dict[str, Any]) -> tuple[Any, Any]:
    """Return the same functions for images that were sent cropped, in the order of the task's indices."""
    from effbench import reading

    images = reading.arrays(Path(job["images"]))[""]
    rows = {index: row for row, index in enumerate(job["tasks"][0]["places"])}
    return lambda index, *_: images[rows[index]], lambda index: job["labels"][rows[index]]


def load(job: dict[str, Any], emit: Any) -> None:
    """Import the packages of a target, to check that they work; emit their versions."""
    from importlib.metadata import version

    from effbench import deploy
    from effbench.errors import UnavailableError

    target = deploy.get(job["target"])
    for module in target.modules:
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            raise UnavailableError(f"can export here, but not run: no module '{error.name}'") from error
    emit({"event": "result", "versions": {package: version(package) for package in target.packages}})


def observe(job: dict[str, Any], emit: Any) -> None:
    """Describe this machine and the targets that can run here."""
    from effbench import deploy
    from effbench.profiles import environment

    reasons = {name: target.available() for name, target in deploy.registered().items()}
    emit({"event": "result", "environment": environment.observe(), "targets": reasons})


def roofline(job: dict[str, Any], emit: Any) -> None:
    """Measure the processor's peak rates with a number of threads; emit GFLOP/s and GB/s."""
    from effbench.profiles import roofline as roof

    threads = int(job["threads"])
    roof.limit_threads(threads)
    emit({"event": "stage", "stage": "measure the peak rates"})
    peaks = {"gflops": roof.gflops(), "gb_per_s": roof.gb_per_s(threads)}
    emit({"event": "result", **peaks})


def layers(job: dict[str, Any], emit: Any) -> None:
    """Time the layers of one artifact of ONNX Runtime; emit each with its work."""
    from effbench.deploy.artifact import bundle
    from effbench.profiles import roofline as roof

    emit({"event": "stage", "stage": "time the layers"})
    artifact = bundle.load(Path(job["artifact"]))
    emit({"event": "result", "layers": roof.layers(artifact.path, int(job["threads"]), int(job["runs"]))})


def clocks(job: dict[str, Any], emit: Any) -> None:
    """Emit the changes that locking the clocks would make, lock them while the parent process runs, or unlock them."""
    import os

    from effbench.errors import UnavailableError
    from effbench.profiles import clocks as clock_locks
    from effbench.profiles import environment

    root, folder = environment.SYS.parent, Path("~/.cache/effbench").expanduser()
    try:
        if job["do"] == "plan":
            emit({"event": "result", "settings": [setting.description for setting in clock_locks.plan(root, folder)]})
        elif job["do"] == "lock":
            emit({"event": "result", "settings": clock_locks.lock(root, folder, os.getppid())})
        else:
            emit({"event": "result", "restored": clock_locks.unlock(folder)})
    except clock_locks.ClockError as error:
        hint = "These settings need root: run effbench as root on the device, or allow `sudo -n` for its user."
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
