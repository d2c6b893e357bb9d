"""A torch program is data: it reproduces the model, and a hostile one names nothing that runs."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from effbench import deploy
from effbench.boundary.names import cache_file
from effbench.deploy.graph import torch_program
from effbench.deploy.graph.torch_program import PROGRAM, WEIGHTS, Program, form
from effbench.errors import DataError
from effbench.schema import Artifact, InputShapes, InputSpec, Subject, TensorSpec, Weights

pytestmark = pytest.mark.target("torch")


def model() -> Any:
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, stride=2, bias=False)
            self.tied = self.conv
            self.head = nn.Linear(8, 5)
            self.scale = nn.Buffer(self.head.weight.new_tensor(float("inf")))

        def forward(self, x: Any) -> Any:
            left, right = self.tied(x).relu_().chunk(2, dim=1)
            x = nn.functional.gelu(left * right.sigmoid(), approximate="tanh").clamp(max=self.scale)
            x = (x.flatten(2).softmax(-1) @ x.flatten(2).transpose(1, 2)).reshape(x.shape[0], -1)
            return self.head(x[:, :8]), x.masked_fill(x < 0, float("-inf"))

    return Net().eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The model, and the folder of its program for any batch."""
    import torch

    folder = tmp_path_factory.mktemp("program")
    net = model()
    dynamic = ({0: torch.export.Dim("batch")},)
    torch_program.save(torch.export.export(net, (torch.zeros(2, 3, 9, 9),), dynamic_shapes=dynamic), folder)
    return net, folder


def test_a_program_computes_what_its_model_does_at_any_batch(saved: tuple[Any, Path]) -> None:
    import torch

    net, folder = saved
    program = Program(folder)
    for batch in (1, 2, 5):
        image = torch.randn(batch, 3, 9, 9)
        with torch.inference_mode():
            expected, actual = net(image), program(image)
        for left, right in zip(expected, actual, strict=True):
            torch.testing.assert_close(right, left)
    assert not any(isinstance(step["args"], str) for step in json.loads((folder / PROGRAM).read_text())["steps"])


def test_a_model_that_is_no_program_of_aten_says_why(tmp_path: Path) -> None:
    torch_program.save(None, tmp_path)
    assert "captured no program" in json.loads((tmp_path / PROGRAM).read_text())["refused"]


HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a function of Python": lambda step: step.update(op="os.system", args=["touch escaped"]),
    "a function below torch": lambda step: step.update(op="torch.hub.load", args=["escaped", "model"]),
    "a library": lambda step: step.update(op="torch.ops.load_library", args=["escaped.so"]),
    "an operator that opens a file": lambda step: step.update(op="aten.from_file.default", args=["escaped", True, 9]),
    "an operator of another namespace": lambda step: step.update(op="prims.device_put.default"),
    "an attribute of an operator": lambda step: step.update(op="aten.relu.op"),
    "an attribute of the namespace": lambda step: step.update(op="aten.__class__.default"),
    "a hidden attribute": lambda step: step.update(op="aten.relu.__init__"),
    "a private operator": lambda step: step.update(op="aten._print.default", args=["text"]),
    "code in the name of an argument": lambda step: step.update(kwargs={"a=open('escaped','w')": 1}),
    "an object as an argument": lambda step: step.update(args=[{"object": "os:system"}]),
    "a module as a type": lambda step: step.update(args=[{"dtype": "hub"}]),
    "a function as a type": lambda step: step.update(args=[{"dtype": "load"}]),
    "a dotted type": lambda step: step.update(args=[{"dtype": "os.system"}]),
    "a builtin": lambda step: step.update(op="python.exec", args=["open('escaped', 'w')"]),
    "another function of the module operator": lambda step: step.update(op="python.attrgetter", args=["x"]),
    "a value that does not exist": lambda step: step.update(args=[{"value": 10**6}]),
    "a value before it is defined": lambda step: step.update(args=[{"value": step["to"]}]),
    "a negative value": lambda step: step.update(args=[{"value": -1}]),
    "a huge number of values": lambda step: step.update(to=10**9),
    "a list in place of a name": lambda step: step.update(op=["aten.relu.default"]),
    "nothing": lambda step: step.clear(),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_program_is_refused_before_it_runs(
    case: str, saved: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    document = json.loads((saved[1] / PROGRAM).read_text())
    HOSTILE[case](document["steps"][0])
    (tmp_path / PROGRAM).write_text(json.dumps(document))
    (tmp_path / WEIGHTS).write_bytes((saved[1] / WEIGHTS).read_bytes())
    with pytest.raises(DataError, match=r"program\.json"):
        Program(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [PROGRAM, WEIGHTS]


class Bomb:
    def __reduce__(self) -> Any:
        return Path("escaped").touch, ()


def test_pickled_weights_are_not_unpickled(
    saved: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / PROGRAM).write_bytes((saved[1] / PROGRAM).read_bytes())
    (tmp_path / WEIGHTS).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataError):
        Program(tmp_path)
    assert not Path("escaped").exists()


def test_no_operator_that_takes_a_string_takes_the_name_of_a_file() -> None:
    """The list of those that may take one holds names of modes and equations alone."""
    import torch

    named = {"filename", "path", "file", "name"}
    for name in form.WITH_TEXT:
        packet = getattr(torch.ops.aten, name)
        for overload in packet.overloads():
            for argument in getattr(packet, overload)._schema.arguments:
                assert "str" not in str(argument.type) or argument.name not in named, (name, argument)


def test_a_manifest_that_names_code_runs_none_of_it(
    saved: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The options by which an artifact once chose the function that builds its module."""
    monkeypatch.chdir(tmp_path)
    code = "open('escaped', 'w').write('x')"
    options = {"loader": "cProfile:run", "factory": code, "python": "./evil", "runtime_cache": "../escaped"}
    subject = Subject("toy", "user", Weights(), InputShapes((9, 9)), 2, "torch", "fp32")
    image, output = InputSpec("image", "float32", (None, 3, 9, 9)), TensorSpec("output", "float32", (None, 5))
    artifact = Artifact(saved[1], "key", "", subject, (image,), (output, output), {}, PROGRAM, options=options)
    session = deploy.get("torch").open(artifact, 1, artifact.options)
    session.placement()
    session.close()
    assert [] == list(tmp_path.iterdir())
    with pytest.raises(DataError, match="the name of a runtime_cache"):
        cache_file("runtime_cache", options["runtime_cache"])
