"""The check of a session's promise, on sessions that break it, on sessions that keep it, and in the agent."""

import threading
import time

import numpy as np
import pytest
from scripted_machine import A, B

from effbench.codec import from_json
from effbench.device import agent
from effbench.profiles import trust
from effbench.profiles.promise import EARLY_RETURN, check_promise
from effbench.schema import Round, Samples


def product(feeds):
    return {"y": np.full((64, 64), feeds["x"].sum()) @ np.eye(64)}


SHARED = np.zeros((64, 64))


def late_thread(feeds):
    result = product(feeds)["y"]
    threading.Timer(0.02, lambda: np.copyto(SHARED, result)).start()
    return {"y": SHARED}


def late_fresh(feeds):
    out = np.zeros((64, 64))
    threading.Timer(0.02, lambda: np.copyto(out, product(feeds)["y"])).start()
    return {"y": out}


class Stale:
    """A session that returns a copy of a buffer that a thread fills later: the returned copy never changes."""

    def __init__(self):
        self.buffer = np.zeros((64, 64))

    def __call__(self, feeds):
        result = product(feeds)["y"]
        stale = self.buffer.copy()
        threading.Timer(0.02, lambda: np.copyto(self.buffer, result)).start()
        return {"y": stale}


class Previous:
    """A pipeline of depth one: each call returns the outputs of the previous call."""

    def __init__(self):
        self.last = {"y": np.zeros((64, 64))}

    def __call__(self, feeds):
        self.last, result = product(feeds), self.last
        return result


class Lazy:
    """An output that waits for its result on first access, like a device array."""

    def __init__(self, value):
        self.value = value
        self.ready = False

    def __array__(self, dtype=None, copy=None):
        if not self.ready:
            time.sleep(0.01)
            self.ready = True
        return self.value


@pytest.mark.parametrize(
    "session",
    [late_thread, late_fresh, Stale(), Previous(), lambda feeds: {"y": Lazy(product(feeds)["y"])}],
    ids=["late-thread", "late-fresh-buffer", "stale-copy", "previous-call", "lazy"],
)
def test_an_early_return_is_flagged(session):
    assert check_promise(session, A, B) == (EARLY_RETURN,)


class Opened:
    """A session as the agent opens it."""

    compute_precision = "fp32"

    def __init__(self, call):
        self.call = call

    def __call__(self, feeds):
        return self.call(feeds)

    def close(self):
        pass


@pytest.mark.parametrize(
    ("call", "checked", "flagged"), [("late", True, True), ("late", False, False), ("plain", True, False)]
)
def test_the_agent_records_an_early_return_beside_the_samples(call, checked, flagged, monkeypatch):
    session = Opened({"late": late_thread, "plain": product}[call])
    monkeypatch.setattr(agent, "_open_timed", lambda job, emit, clock: (None, session))
    monkeypatch.setattr(agent, "_batch", lambda artifact, batch: 1)
    monkeypatch.setattr(agent, "_inputs", lambda artifact, batch, count: [A, B])
    job = {"min_samples": 20, "min_seconds": 0.01, "round_seconds": 0.01, "check_promise": checked}
    events = []
    agent.measure(job, events.append)
    round_ = from_json(Round, events[-1]["round"], "the agent's answer")
    assert len(round_.samples_ns) >= 20
    assert ((EARLY_RETURN,) if flagged else ()) == round_.flags
    if flagged:
        letter, reasons = trust.grade(Samples((round_,)))
        assert ("D", True) == (letter, reasons[0].startswith("early return"))


def noisy(feeds):
    return {"y": product(feeds)["y"] * (1 + 1e-6 * np.random.default_rng().standard_normal((64, 64)))}


def test_a_session_that_reuses_its_buffer_keeps_its_promise():
    buffer = np.zeros((64, 64))

    def session(feeds):
        np.copyto(buffer, product(feeds)["y"])
        return {"y": buffer}

    assert check_promise(session, A, B, settle_seconds=0.01) == ()


@pytest.mark.parametrize(
    "session",
    [
        product,
        noisy,
        lambda feeds: {"y": np.full(3, np.nan)},
        lambda feeds: {"y": np.ones(3)},
        lambda feeds: {"y": feeds["x"].tolist(), "n": 3},
        lambda feeds: {},
    ],
    ids=["plain", "sums-in-any-order", "nan", "same-for-all", "lists", "no-output"],
)
def test_a_correct_session_is_not_flagged(session):
    assert check_promise(session, A, B, settle_seconds=0.01) == ()


def projection(folder, size=256):
    """Write a graph with two products, and an output of a megabyte beside a small one."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["large"]),
            helper.make_node("ReduceMean", ["large"], ["small"], keepdims=0),
        ],
        "projection",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1024, size])],
        [
            helper.make_tensor_value_info("large", TensorProto.FLOAT, [1024, size]),
            helper.make_tensor_value_info("small", TensorProto.FLOAT, []),
        ],
        [numpy_helper.from_array(weight, "w")],
    )
    path = folder / "projection.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def open_ort(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda feeds: dict(zip(("large", "small"), session.run(["large", "small"], feeds), strict=True))


def open_ov(path):
    import openvino

    request = openvino.Core().compile_model(path, "CPU").create_infer_request()

    def session(feeds):
        results = request.infer(feeds, share_inputs=True, share_outputs=True)
        return {name: results[name] for name in ("large", "small")}

    return session


@pytest.mark.parametrize(
    "open_session",
    [pytest.param(open_ort, marks=pytest.mark.target("ort")), pytest.param(open_ov, marks=pytest.mark.target("ov"))],
    ids=["onnxruntime", "openvino-shared-memory"],
)
def test_real_runtimes_are_not_flagged(open_session, tmp_path):
    session = open_session(str(projection(tmp_path)))
    feeds = {"x": np.random.default_rng(1).standard_normal((1024, 256)).astype(np.float32)}
    contrast = {"x": -feeds["x"]}
    for _ in range(10):
        assert check_promise(session, feeds, contrast, settle_seconds=0.002) == ()


@pytest.mark.target("ort")
def test_a_real_runtime_run_in_the_background_is_flagged(tmp_path):
    session = open_ort(str(projection(tmp_path)))
    buffers = {"large": np.zeros((1024, 256), np.float32), "small": np.zeros((), np.float32)}

    def later(feeds):
        for name, value in session(feeds).items():
            np.copyto(buffers[name], value)

    def background(feeds):
        threading.Thread(target=later, args=(feeds,)).start()
        return buffers

    feeds = {"x": np.random.default_rng(1).standard_normal((1024, 256)).astype(np.float32)}
    assert check_promise(background, feeds, {"x": -feeds["x"]}) == (EARLY_RETURN,)
