"""Training: it learns, a killed one resumes with the same weights, and two processes equal one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_training as small
import torch
from safetensors.torch import load_file

from effbench.errors import DataError, EffbenchError, UsageError
from effbench.training.journal import CURVE, read
from effbench.training.loop import Training
from effbench.training.recipe import Recipe
from effbench.training.validation import accuracy

SCRIPT = Path(small.__file__)


def silent(text: str) -> None:
    pass


def train(folder: Path, recipe: Recipe = small.RECIPE, **changes: object) -> Training:
    training = Training(small.job(folder, recipe, **changes), silent)
    training.run()
    return training


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_labels_alone_train_any_network(tmp_path: Path):
    recipe = Recipe(epochs=12, batch=16, learning_rate=1e-2, warmup_epochs=1)
    training = train(tmp_path / "t", recipe, teachers=(), images=small.images(64), dropout=0.0)
    held_out = small.images(40, seed=9)
    untrained = accuracy(small.net(dropout=0.0), held_out, (16, 16), small.PREPROCESSING)
    assert untrained < 0.6 < 0.9 < accuracy(training.bare.backbone, held_out, (16, 16), small.PREPROCESSING)


def test_the_student_approaches_every_teacher(tmp_path: Path):
    recipe = replace(small.RECIPE, epochs=20, labels=0.0, ema_decay=0.0, checkpoint_steps=0)
    train(tmp_path / "t", recipe, dropout=0.0)
    curve = read(tmp_path / "t" / CURVE)
    for name in ("teacher/one", "teacher/two.b"):
        first, last = ([line[name] for line in part] for part in (curve[:4], curve[-4:]))
        assert np.mean(first) > 1.15 * np.mean(last), name
    assert all(0 <= line["kept/one"] <= 1 and line["kept/one"] + line["kept/two.b"] >= 1 for line in curve)


def test_projectors_are_not_in_the_weights(tmp_path: Path):
    training = train(tmp_path / "t")
    assert small.net().state_dict().keys() == training.weights().keys()


def test_teachers_do_not_change(tmp_path: Path):
    teacher = small.teacher()
    train(tmp_path / "t", teachers=(teacher,))
    assert small.teacher().identity == teacher.identity
    assert small.teacher(seed=5).identity != teacher.identity


def test_features_during_training_equal_cached_ones(tmp_path: Path):
    recipe = replace(small.RECIPE, augmentation="none", epochs=1)
    cached = read_losses(train(tmp_path / "cached", recipe))
    direct = read_losses(train(tmp_path / "direct", replace(recipe, views=0)))
    np.testing.assert_allclose(cached, direct, rtol=2e-3)  # the cache is in half precision


def test_repeated_views_are_read_from_the_cache(tmp_path: Path):
    batches = []
    teacher = small.teacher()
    counted = replace(teacher, run=lambda x: batches.append(len(x)) or teacher.run(x))
    train(tmp_path / "first", teachers=(counted,))
    assert 48 * 2 == sum(batches)
    train(tmp_path / "second", teachers=(counted,))
    assert 48 * 2 == sum(batches)


def read_losses(training: Training) -> list[float]:
    return [line["loss"] for line in read(training.job.folder / CURVE)]


def test_the_same_seed_gives_the_same_weights(tmp_path: Path):
    first, second = (train(tmp_path / name / "t").weights() for name in "ab")
    assert equal(first, second)
    assert not equal(first, train(tmp_path / "c" / "t", replace(small.RECIPE, seed=1)).weights())


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def killed_after(folder: Path, step: int) -> None:
    """Start a training in a new process, and kill it when it has written the checkpoint of a step."""
    command = [sys.executable, str(SCRIPT), str(folder)]
    written, deadline = folder / f"step-{step:09d}", time.monotonic() + 120
    with subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL) as child:
        try:
            while child.poll() is None and not written.exists():
                assert time.monotonic() < deadline, "no checkpoint of that step was written"
                time.sleep(0.001)
            assert child.poll() is None, "it ended before it could be killed"
        finally:
            child.kill()


def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path):
    complete = train(tmp_path / "complete" / "t")
    folder = tmp_path / "killed" / "t"
    killed_after(folder, 2)
    killed_after(folder, 5)
    resumed = Training(small.job(folder, small.RECIPE), silent)
    assert 5 <= resumed.step < resumed.steps
    resumed.run()
    assert equal(complete.weights(), resumed.weights())
    assert read_losses(complete) == read_losses(resumed)
    assert list(range(1, complete.steps + 1)) == [line["step"] for line in read(folder / CURVE)]


def test_a_finished_training_is_not_trained_again(tmp_path: Path):
    training = train(tmp_path / "t")
    again = Training(small.job(tmp_path / "t", small.RECIPE), silent)
    assert again.step == again.steps
    assert equal(training.weights(), again.weights())


def run_distributed(processes: int, arguments: list[str]) -> None:
    """Run a script in several processes as torchrun does; none is left running after a failure or a time-out."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += ["--master-addr", "127.0.0.1", "--master-port", port, *arguments]
    env = {**environment(), "GLOO_SOCKET_IFNAME": "lo"}
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True) as child:
        try:
            _, errors = child.communicate(timeout=200)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        assert 0 == child.returncode, errors[-3000:]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_processes_give_the_loss_curve_of_one(tmp_path: Path):
    alone = train(tmp_path / "one" / "t", dropout=0.0)
    folder = tmp_path / "two" / "t"
    run_distributed(2, [str(SCRIPT), str(folder), "0"])
    pair = read(folder / CURVE)
    expected = read(alone.job.folder / CURVE)
    assert len(expected) == len(pair)
    for left, right in zip(expected, pair, strict=True):
        assert left.keys() == right.keys()
        np.testing.assert_allclose(list(left.values()), list(right.values()), rtol=1e-4, atol=1e-6)
    weights = load_file(folder / "weights.safetensors")
    for name, value in alone.weights().items():
        torch.testing.assert_close(value, weights[name], rtol=2e-3, atol=2e-4)


def test_a_batch_larger_than_the_data_set_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="smaller --batch"):
        train(tmp_path / "t", replace(small.RECIPE, batch=64), teachers=())


def test_nothing_to_learn_from_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="nothing to learn from"):
        train(tmp_path / "t", teachers=(), images=small.images(48, labelled=0))


def test_labels_beyond_the_student_are_an_error(tmp_path: Path):
    dataset = small.images()
    items = (*dataset.items[:-1], replace(dataset.items[-1], label=7))
    with pytest.raises(DataError, match="has label 7, the student has 4 outputs"):
        train(tmp_path / "t", teachers=(), images=replace(dataset, items=items))


def test_logits_of_other_classes_are_an_error(tmp_path: Path):
    network = small.net(12)
    network.head = torch.nn.Linear(24, 9)
    teacher = small.from_module("nine", network, (16, 16), small.PREPROCESSING)
    with pytest.raises(UsageError, match="no teacher has the student's 4 classes"):
        train(tmp_path / "t", replace(small.RECIPE, logits=1.0), teachers=(teacher,))


def test_a_loss_that_is_not_finite_is_an_error(tmp_path: Path):
    with pytest.raises(EffbenchError, match="The loss of step"):
        train(tmp_path / "t", replace(small.RECIPE, learning_rate=1e30, warmup_epochs=0, augmentation="none"))


def test_the_curve_is_json(tmp_path: Path):
    training = train(tmp_path / "t")
    lines = [json.loads(line) for line in (training.job.folder / CURVE).read_text().splitlines()]
    assert training.steps == len(lines)
    assert list((training.job.folder / "tensorboard").glob("events.*"))
