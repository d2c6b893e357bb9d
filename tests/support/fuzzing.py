"""Every format that effbench reads, at the door where it comes in, with a seeded mutation of a good example.

A door takes the bytes and reads them as the command would. It may return or raise an `EffbenchError` that does not say
"slower"; anything else is a fault. `docs/threat-model.md` lists the same doors.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import random
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from effbench import process, reading
from effbench.codec import digest_of, fingerprint, to_json
from effbench.errors import EffbenchError
from effbench.schema import (
    FORMAT_VERSION,
    Artifact,
    Cell,
    DataInfo,
    Device,
    Evaluation,
    FileInfo,
    InputShapes,
    InputSpec,
    Measurement,
    Predictions,
    Preprocessing,
    Round,
    Samples,
    Status,
    Subject,
    Weights,
)

SUBJECT = Subject("net", "user", Weights(), InputShapes((64, 64)), 1, "ort", "fp32")
ROUND = Round((1000, 1100, 1050), 3, True, 1.0, 2.0, 1 << 20, {"other_cpu_pct": 1.0, "cpu_mhz_before": 9.0})
MEASUREMENT = Measurement(
    "d" * 64,
    SUBJECT,
    "local",
    {"threads": "1", "batch": "1"},
    Samples((ROUND,)),
    {"cpu_model": "x", "temperature_c": 40.0},
    {"cpu_model": "x", "temperature_c": 41.0},
    "2026-01-01",
    "run",
)
ANSWER = {"event": "round", "round": to_json(ROUND), "batch": 1, "before": {}, "after": {}, "agent_s": 0.1}


@dataclass(frozen=True)
class Format:
    """A format: a good example, and the door that reads it from a folder that is empty at first."""

    name: str
    example: Callable[[], bytes]
    door: Callable[[bytes, Path], object]


class Fault(Exception):
    """An input ended as no input may."""


def attempt(form: Format, data: bytes, folder: Path) -> str:
    """Read an input and return how it ended: ``read``, or the class of the error.

    Raises:
        Fault: It ended with something else than a result or one sentence, or with the exit code of "slower".
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            form.door(data, folder)
        except EffbenchError as error:
            if error.exit_code == 1 or not error.message or len(str(error)) > 20_000:
                raise Fault(f"{form.name}: exit code {error.exit_code}: {str(error)[:200]!r}") from error
            str(error).encode()
            return type(error).__name__
        except Exception as error:
            raise Fault(f"{form.name}: {type(error).__name__}: {str(error)[:200]}") from error
    return "read"


TOKENS = (
    b"\0",
    b"\xff\xfe",
    b"[" * 300,
    b'{"a":' * 300,
    b"9" * 5000,
    b"1e999",
    b"-1",
    b"NaN",
    b"Infinity",
    b'"\\ud800"',
    b"\n" * 500,
    b" " * 500,
    b"../" * 8,
    b"x" * 70_000,
    b"null",
    b"true",
    b"=",
    b",",
    b"\xe2\x80\xae",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    5,
    2**63,
    1e308,
    0.5,
    "",
    "x",
    "9" * 400,
    "../x",
    [],
    {},
    [[]],
    {"a": 1},
    [1],
)


def mutate(data: bytes, random_: random.Random) -> bytes:
    """Return a damaged copy: in its structure where it is JSON, in its bytes otherwise and sometimes."""
    if random_.random() < 0.6:
        changed = _structure(data, random_)
        if changed is not None:
            return changed
    for _ in range(random_.choice((1, 1, 1, 2, 5))):
        at, length = random_.randrange(len(data) + 1), random_.choice((1, 1, 4, 30))
        kind = random_.randrange(6)
        if kind == 0:
            data = data[:at]
        elif kind == 1:
            data = data[:at] + data[at + length :]
        elif kind == 2:
            data = data[:at] + data[at : at + length] * random_.choice((2, 50)) + data[at + length :]
        elif kind == 3:
            data = data[:at] + bytes(random_.randrange(256) for _ in range(length)) + data[at + length :]
        elif kind == 4:
            data = data[:at] + random_.choice(TOKENS) + data[at:]
        else:
            other = random_.randrange(len(data) + 1)
            data = data[:at] + data[other : other + length * 10] + data[at:]
    return data


def _structure(data: bytes, random_: random.Random) -> bytes | None:
    lines = data.split(b"\n")
    at = random_.randrange(len(lines))
    for whole, index in ((False, at), (True, 0)):
        try:
            value = json.loads(data if whole else lines[index])
        except ValueError:
            continue
        if isinstance(value, (dict, list)) and value:
            text = json.dumps(_changed(value, random_)).encode()
            return text if whole else b"\n".join([*lines[:index], text, *lines[index + 1 :]])
    return None


def _changed(value: Any, random_: random.Random) -> Any:
    """Change one place of a JSON document, chosen by walking down from the top."""
    if not isinstance(value, (dict, list)) or not value or random_.random() < 0.15:
        return random_.choice(VALUES)
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    key = random_.choice(list(value)) if isinstance(value, dict) else random_.randrange(len(value))
    kind = random_.randrange(8)
    if kind == 0:
        del copy[key]
    elif kind == 1 and isinstance(copy, dict):
        copy[random_.choice(("more", "format", "", "\0"))] = random_.choice(VALUES)
    elif kind == 1:
        copy.insert(0, random_.choice(VALUES))
    else:
        copy[key] = _changed(value[key], random_)
    return copy


def _lines(*records: Any) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def _write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _manifest() -> bytes:
    files = {"model.onnx": FileInfo(hashlib.sha256(b"graph").hexdigest(), 5)}
    spec = InputSpec("image", "float32", (1, 3, 64, 64))
    artifact = Artifact(Path(), "k", digest_of(files), SUBJECT, (spec,), (), files, "model.onnx")
    return json.dumps(to_json(artifact)).encode()


def _load_manifest(data: bytes, folder: Path) -> None:
    from effbench.deploy.artifact import bundle

    _write(folder, "artifacts/a/model.onnx", b"graph")
    try:
        record = json.loads(data)
        data = json.dumps({**record, "checksum": fingerprint(record)}).encode()  # the checks behind it count
    except (ValueError, TypeError, RecursionError, EffbenchError):
        pass
    _write(folder, "artifacts/a/manifest.json", data)
    bundle.load(folder / "artifacts" / "a")


def _reference() -> bytes:
    stream = io.BytesIO()
    arrays: dict[str, Any] = {"sample:x": np.zeros((2, 3, 4, 4), np.uint8), "output:y": np.zeros((2, 3), np.float32)}
    np.savez(
        stream,
        engine=np.array("x"),
        source=np.array("y"),
        encoded=np.zeros(3, np.uint8),
        encoded_tensor=np.zeros(3),
        **arrays,
    )
    return stream.getvalue()


def _load_reference(data: bytes, folder: Path) -> None:
    from effbench.deploy.artifact import encoded, fidelity

    path = _write(folder, "reference.npz", data)
    fidelity.load_reference(path)
    encoded.load(path)


def _report(data: bytes, folder: Path) -> None:
    from effbench.api.report import report

    _write(folder, "measurements.jsonl", data)
    report(out=folder)


def _evaluations(data: bytes, folder: Path) -> None:
    from effbench.api.report import measured_accuracies
    from effbench.store import Store

    _write(folder, "evaluations.jsonl", data)
    measured_accuracies(Store(folder).evaluations(), {"d" * 64})


def _evaluation() -> bytes:
    predictions = Predictions((0, 1), (3, 4), (3, 5), (0, 2), (-0.1, -2.0), (0.9, 0.3), (2.0, 0.1))
    info = DataInfo("data", "s" * 64, 2)
    item = Evaluation("d" * 64, SUBJECT, info, Preprocessing(), "ort", False, 10, predictions, "2026-01-01", 1.0)
    return _lines(to_json(item), to_json(item))


def _journal(data: bytes, folder: Path) -> None:
    from effbench.api.sweep.jobs import Journal

    _write(folder, "cells.jsonl", data)
    Journal(folder).read()


def _cell() -> bytes:
    cell = Cell("net", InputShapes((64, 64)), "fp32", "ort", Status.FAILED, reason="no", exit_code=5)
    return _lines({"id": "a", "job": {}, "cell": to_json(cell)})


def _project(data: bytes, folder: Path) -> None:
    from effbench.api.compare.budgets import read_suite
    from effbench.profiles import devices, transports

    _write(folder, "effbench.toml", data)
    suite = read_suite(folder)
    assert suite.device_names is not None
    for device in devices.devices(folder).values():
        transports.check(device)


def _device(data: bytes, folder: Path) -> None:
    from effbench.profiles import devices

    devices.read(_write(folder, "device.toml", data))


def _kit_result() -> bytes:
    digest = json.loads(_manifest())["digest"]
    head = {"format": FORMAT_VERSION, "kit": "0" * 16, "device": "raspberry-pi-5", "time": "t", "threads": 1}
    line = {"artifact": "a", "digest": digest, "op": "measure", "seconds": 9.0, "answer": ANSWER}
    return _lines(head, line, {**line, "op": "verify", "error": "no"}, {"lines": 3})


def _import_kit(data: bytes, folder: Path) -> None:
    from effbench.api.devices.imports import imported

    record = json.loads(_manifest())
    _write(folder, "artifacts/a/manifest.json", json.dumps({**record, "checksum": fingerprint(record)}).encode())
    imported([_write(folder, "result.jsonl", data)], force=True, out=folder)


def _plan() -> bytes:
    plan = {"format": FORMAT_VERSION, "kit": "0", "key": "k", "device": "d", "threads": 1, "rounds": 0, "budget_s": 1.0}
    return json.dumps({**plan, "artifacts": []}).encode()


def _run_kit(data: bytes, folder: Path) -> None:
    from effbench.device import agent_kit

    path = _write(folder, agent_kit.PLAN, data)
    agent_kit._check(reading.json_file(path), path)


def _recording() -> bytes:
    head = {"format": FORMAT_VERSION, "device": {}, "facts": {"machine": "x"}}
    run = {"call": "run", "module": "effbench.api.export.worker", "job": {"op": "observe"}, "events": [ANSWER]}
    return _lines(
        head,
        {"call": "get", "path": "p", "data": "AAAA"},
        run,
        {**run, "error": {"kind": "DeviceError", "message": "m", "hint": None}},
    )


def _replay(data: bytes, folder: Path) -> None:
    from effbench.profiles.transports.replay import Replay

    path = _write(folder, "exchange.jsonl", data)
    link = Replay(Device("d", "board", "x", "replay", ("ort",), connection={"file": str(path)}))
    link.facts()
    link.get("p", folder / "got")
    for _ in range(2):
        list(link.run("m", {"op": "observe"}, time_limit_s=1))


class _Channel:
    """The other end of a connection that sends these bytes and then is closed."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def send(self, data: bytes, timeout_s: float) -> None: ...

    def receive(self, timeout_s: float) -> bytes:
        return self._data.read(4096)

    def log(self) -> str:
        return ""

    def close(self) -> None: ...


def _answers() -> bytes:
    facts = {"home": "/h", "session": "/h/s", "executable": "python3", "free_bytes": 1 << 40, "python": "3.11"}
    answers: list[dict[str, Any]] = [{"ready": True}, facts, {"have": ["agents/x"]}]
    answers += [{"line": json.dumps(ANSWER)}, {"line": '{"event": "done"}'}, {"exit": 0, "timed_out": False, "log": ""}]
    answers += [{"data": "AAAA"}, {"end": True}]
    return b"".join(b"effbench1 " + json.dumps(item).encode() + b"\n" for item in answers)


def _talk(data: bytes, folder: Path) -> None:
    from effbench.api.remote import RoundAnswer
    from effbench.profiles.transports.session import Supervised

    link = Supervised(Device("d", "board", "x", "pipe", ("ort",)), lambda: _Channel(data))
    try:
        with process.reading_answer("'d'"):
            RoundAnswer.of(process.single(link.run("m", {}, time_limit_s=5)), "round")
        link.get("x", folder / "got")
    finally:
        link.close()


def _events(data: bytes, folder: Path) -> None:
    reader = process.EventReader()
    for line in reading.LineBuffer().add(data):
        reader.read(line)
    reader.finish(0, None, "")


def _vendor(name: str) -> Callable[[bytes, Path], object]:
    def door(data: bytes, folder: Path) -> object:
        from effbench.profiles import vendors

        text = reading.file_text(_write(folder, "output.txt", data))
        for form in (name, None):
            _, item = vendors.read(text, "output.txt", form)
        return Round(item.samples_ns, item.warmup, True, item.load_ms, item.first_ms, 0, dict(item.observed))

    return door


TRTEXEC = json.dumps([{"startComputeMs": 250.0 * n, "latencyMs": 2.0, "computeMs": 1.5} for n in range(4)]).encode()
BENCHMARK_APP = b"""[Step 11/11] Dumping statistics report
[ INFO ] First inference took 9.44 ms
[ INFO ] Execution Devices: ['CPU']
[ INFO ] 1 inference requests
[ INFO ] Count:            30 iterations
[ INFO ]    Median:        8.11 ms
[ INFO ]    Average:       8.20 ms
"""
BENCHMARK_JSON = json.dumps(
    {
        "execution_results": {"latency (ms)": "8.1", "total number of iterations": "30", "avg latency": "8.2"},
        "configuration_setup": {"API": "sync", "number of parallel infer requests": "1", "target device": "CPU"},
    }
).encode()
LITERT = b"""INFO: Num threads: [4]
INFO: Replacing 63 out of 64 node(s) with delegate (XNN) node, yielding 2 partitions
INFO: count=50 first=1 curr=2 min=1 max=3 avg=2 std=0
INFO: Inference timings in us: Init: 4512, First inference: 3001, Warmup (avg): 2900.5, Inference (avg): 2800.25
"""
QNN = b"""Execute Stats (Average):
------------------------
NetRun:  2201 us
Backend (Accelerator (execute) time):  2100 us
Execute Stats (Min):
NetRun IPS (includes IO and misc. time): 441.2 inf/sec
"""
ORT = b"""Session creation time cost: 0.05 s
Total inference requests: 20
Average inference time cost: 12.5 ms
P50 Latency: 0.0124 s
"""
PROJECT = b"""[suite]
models = ["regla_m"]
targets = ["ort"]
resolutions = [224, "384x640"]
threads = 1
[gate]
budget_s = 10.0
[[budget]]
model = "regla_m"
latency_ms = 20.0
[devices.orin]
base = "jetson-orin-nano"
connection = { host = "orin", timeout_s = 5 }
"""
DEVICE = b"""name = "board"
kind = "board"
description = "A board"
transport = "ssh"
targets = ["ort"]
evidence = "written from documentation"
[facts.cores]
value = 4
source = "the maker"
"""


def _table(data: bytes, folder: Path) -> None:
    from effbench.data import open_dataset

    _write(folder, "a.png", b"x")
    _use(open_dataset(_write(folder, "list.csv", data)))


def _use(dataset: Any) -> None:
    for item in dataset.items[:5]:
        item.read()


def _tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in (("0.jpg", b"image"), ("0.cls", b"3"), ("1.jpg", b"image"), ("1.json", b'{"label": 4}')):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _shard(data: bytes, folder: Path) -> None:
    from effbench.data import open_dataset

    _use(open_dataset(_write(folder, "s.tar", data)))


def _classes(data: bytes, folder: Path) -> None:
    from effbench.data.classes import class_indices, read_classes

    class_indices(read_classes(_write(folder, "classes.txt", data)), ("cat", "1"), "data")


def _png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = (4).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(13 * 4)))
        + chunk(b"IEND", b"")
    )


def _image(data: bytes, folder: Path) -> None:
    from effbench.data.pixels import read

    read(data, "a.png", (8, 8), Preprocessing())


@cache
def _onnx_model() -> bytes:
    from onnx import TensorProto, helper

    node = helper.make_node("Relu", ["x"], ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in "xy"]
    model = helper.make_model(helper.make_graph([node], "g", values[:1], values[1:]))
    return bytes(model.SerializeToString())


def _onnx(data: bytes, folder: Path) -> None:
    from effbench.deploy.graph import onnx_file, signature

    model = onnx_file.load(_write(folder, "m.onnx", data))
    signature.image_input(model, "m")
    onnx_file.count_params(model)


def _noise(data: bytes, folder: Path) -> None:
    from effbench.api.compare import noise

    noise.load(_write(folder, noise.FILE, data).parent, 1)


def _machine_noise() -> bytes:
    from effbench.api.compare.noise import MachineNoise, machine_of

    examples = {"int": 1, "float": 0.5, "str": "x", "dict[str, Any]": machine_of(1), "dict[str, float]": {}}
    examples["tuple[float, float]"] = [0.1, 0.2]

    fields = {field.name: examples.get(str(field.type)) for field in MachineNoise.__dataclass_fields__.values()}
    return json.dumps([{"format": FORMAT_VERSION, **fields}]).encode()


def _lab(data: bytes, folder: Path) -> None:
    from effbench.lab.measure import has_rounds
    from effbench.lab.results import Results

    _write(folder, "jobs/k.json", data)
    result = Results(folder / "jobs").get("k")
    assert has_rounds(result) in (True, False)


def _failure(data: bytes, folder: Path) -> None:
    from effbench.api.export import failures

    failures.read(_write(folder, f"failures/f/{failures.RECORD}", data).parent)


FAILURE = b'{"job": {"op": "convert", "graph": "HOME/g"}, "module": "effbench.api.export.worker", "cause": ""}'


def _constant(data: bytes) -> Callable[[], bytes]:
    return lambda: data


FORMATS = (
    Format("manifest", _manifest, _load_manifest),
    Format("reference", _reference, _load_reference),
    Format("store", lambda: _lines(to_json(MEASUREMENT), to_json(MEASUREMENT)), _report),
    Format("evaluations", _evaluation, _evaluations),
    Format("cells", _cell, _journal),
    Format("project file", _constant(PROJECT), _project),
    Format("device file", _constant(DEVICE), _device),
    Format("kit result", _kit_result, _import_kit),
    Format("kit plan", _plan, _run_kit),
    Format("recording", _recording, _replay),
    Format("device", _answers, _talk),
    Format("events", lambda: _lines(ANSWER, {"event": "done"}), _events),
    Format("trtexec", _constant(TRTEXEC), _vendor("trtexec")),
    Format("benchmark_app", _constant(BENCHMARK_APP), _vendor("benchmark_app")),
    Format("benchmark_app JSON", _constant(BENCHMARK_JSON), _vendor("benchmark_app")),
    Format("litert", _constant(LITERT), _vendor("litert")),
    Format("qnn", _constant(QNN), _vendor("qnn")),
    Format("onnxruntime", _constant(ORT), _vendor("onnxruntime")),
    Format("samples", _constant(b"1.5\n2.5 # ms\n"), _vendor("samples")),
    Format("table", _constant(b"path,label\na.png,cat\n"), _table),
    Format("shard", _tar, _shard),
    Format("classes", _constant(b"cat\ndog\n"), _classes),
    Format("image", _png, _image),
    Format("ONNX", _onnx_model, _onnx),
    Format("machine noise", _machine_noise, _noise),
    Format("lab result", _constant(b'{"run": "abc", "rounds": 2, "digest": "d", "cell": {}}'), _lab),
    Format("failure", _constant(FAILURE), _failure),
)


def inputs(form: Format, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield damaged examples of a format; the same seed gives the same ones."""
    random_ = random.Random(f"{form.name} {seed}")
    example = form.example()
    for _ in range(count):
        yield mutate(example, random_)


def corpus(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yield the name, format and bytes of each input that once failed.

    The first line of a file names the format. Each further line is a count and a Python bytes literal that is repeated
    so many times, so that large inputs are small files.
    """
    for path in sorted(folder.glob("*.txt")):
        form, *pieces = path.read_text(encoding="utf-8").splitlines()
        data = b""
        for piece in pieces:
            count, _, literal = piece.partition(" ")
            data += int(count) * ast.literal_eval(literal)
        yield path.stem, form, data


def zipped(name: str, content: bytes) -> bytes:
    """Return a zip archive of one member."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return stream.getvalue()
