"""Build modules from names, factories and files, and the errors for invalid ones."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from effbench import models
from effbench.errors import DataError, UsageError
from effbench.models.build import build, build_unfused, load_factory, load_state
from effbench.models.iformer import iformer_t
from effbench.models.weights import weights_of
from effbench.schema import Backbone, Weights

OWN = """
import torch
calls = []
def net(): return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
def needs_width(width): return torch.nn.Identity()
def number(): return 7
constant = 7
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a user's module in the current folder."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", sys.path.copy())
    return name


def user(factory: str) -> Backbone:
    return Backbone(name=factory, family="", factory=factory)


def test_a_registered_model_is_built_for_export() -> None:
    model = build(models.get("iformer_t"), Weights())
    assert not model.training
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert not any(p.requires_grad and p.dtype != torch.float32 for p in model.parameters())


def test_a_users_factory_keeps_its_own_initialisation(own: str) -> None:
    torch.manual_seed(5)
    expected = nn.Conv2d(3, 4, 3)
    state = torch.get_rng_state()
    model = build_unfused(user(f"{own}:net"), Weights(seed=5))
    assert torch.equal(expected.weight, model[0].weight)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("no.such.package:f", "Cannot import 'no.such.package'"),
        ("justaname", "not a factory"),
        ("{own}:missing", "has no 'missing'"),
        ("{own}:constant", "has no callable 'constant'"),
        ("{own}:needs_width", "without arguments"),
        ("{own}:number", "returned a int"),
    ],
)
def test_invalid_factories_are_named(own: str, factory: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(user(factory.format(own=own)), Weights())


def test_errors_inside_a_users_module_are_not_hidden(own: str, tmp_path: Path) -> None:
    (tmp_path / f"{own}_broken.py").write_text("import no_such_library_anywhere")
    with pytest.raises(UsageError, match="no_such_library_anywhere"):
        load_factory(f"{own}_broken:f")


@pytest.fixture
def state(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    tensors = {k: v for k, v in iformer_t().state_dict().items() if not k.endswith("num_batches_tracked")}
    path = tmp_path / "weights.safetensors"
    save_file(tensors, path)
    return path, tensors


def test_weights_are_loaded_from_a_file(state: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, tensors = state
    weights = weights_of(path)
    model = build_unfused(models.get("iformer_t"), weights, path)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in tensors.items())
    assert (weights.kind, weights.source, len(weights.sha256 or "")) == ("file", "weights.safetensors", 64)


def test_tensors_that_do_not_match_are_named(state: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, tensors = state
    del tensors["classifier.linear.bias"]
    tensors["head.extra"] = torch.zeros(2)
    tensors["classifier.linear.weight"] = torch.zeros(10, 256)
    save_file(tensors, path)
    message = (
        r"missing: classifier.linear.bias; unexpected: head.extra; "
        r"of another shape: classifier.linear.weight \[10, 256\] instead of \[1000, 256\]"
    )
    with pytest.raises(DataError, match=message):
        load_state(iformer_t(), path)


def test_an_incomplete_file_is_named(state: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, _ = state
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"weights.safetensors: cannot be read as safetensors"):
        load_state(iformer_t(), path)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt"])
def test_a_pickle_is_an_error_with_the_command_that_converts_it(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    torch.save({"model": {"a": torch.ones(2)}}, path)
    with pytest.raises(UsageError, match="is a pickle") as caught:
        weights_of(path)
    if suffix != ".pth":
        return
    # The command must work as printed.
    line = (caught.value.hint or "").partition("python ")[2]
    done = subprocess.run(f"{sys.executable} {line}", shell=True, check=False, capture_output=True, text=True)  # noqa: S602
    assert done.returncode == 0, done.stderr
    assert path.with_suffix(".safetensors").is_file()


def test_other_weights_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a safetensors file"):
        weights_of(tmp_path / "model.h5")
    with pytest.raises(DataError, match="no such file"):
        weights_of(tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match="No pretrained weights"):
        build(models.get("iformer_t"), Weights(kind="pretrained"))
