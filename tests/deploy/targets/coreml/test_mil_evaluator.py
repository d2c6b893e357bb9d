from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytestmark = pytest.mark.target("coreml")
ct = pytest.importorskip("coremltools")

from effbench.deploy.targets.coreml.evaluator import Evaluator  # noqa: E402
from effbench.deploy.targets.coreml.evaluator.sums import CHUNK, convolve, product, total  # noqa: E402
from effbench.deploy.targets.coreml.lazy import quiet_coremltools  # noqa: E402
from effbench.deploy.targets.coreml.package import read  # noqa: E402
from effbench.errors import ConversionError, DataError, UsageError  # noqa: E402


class Convolutions(nn.Module):
    """Operators of mobile networks: strided, depthwise and dilated convolutions, gates, pools, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 5, 1, 4, dilation=2, groups=8), nn.ReLU6())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Hardsigmoid())
        self.up = nn.ConvTranspose2d(8, 6, 3, 2, 1, 1, groups=2)
        self.pool = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2, 2, count_include_pad=False))
        self.head = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.depthwise(self.stem(x))
        x = self.up(x * self.gate(x))
        return self.head(self.pool(nn.functional.silu(x)).mean((2, 3)))


class Attention(nn.Module):
    """Operators of transformers: norms, projections, heads, softmax, GELU, residuals."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(q @ k.transpose(-2, -1) * (c // 2) ** -0.5, -1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(b, n, c))
        return x + self.mlp(x)


class Others(nn.Module):
    """Other operators: resizing, padding, slicing, concatenation, other norms and activations."""

    def __init__(self) -> None:
        super().__init__()
        self.group, self.prelu = nn.GroupNorm(2, 4), nn.PReLU(4)
        self.conv = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.prelu(self.group(self.conv(x)))
        up = nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        down = nn.functional.interpolate(up, size=(8, 8), mode="nearest")
        left, right = torch.chunk(down, 2, 1)
        joined = torch.cat(
            [left.tanh() * right.sigmoid(), nn.functional.elu(right[:, :, :, ::2]).repeat(1, 1, 1, 2)], 1
        )
        rows = torch.einsum("bchw,bcwk->bchk", joined, joined)
        return torch.clamp(rows, -1, 1).abs().sqrt() + rows.pow(2).mean(1, keepdim=True).rsqrt().clamp(max=10)


MODULES: dict[str, Callable[[], nn.Module]] = {
    "convolutions": Convolutions,
    "attention": Attention,
    "others": Others,
}


def package_of(
    name: str, folder: Path, precision: str = "FLOAT32", compress: Callable[[Any], Any] | None = None
) -> tuple[Path, np.ndarray, np.ndarray]:
    """Convert with coremltools' torch frontend; returns the package, an input, and torch's output."""
    torch.manual_seed(0)
    module = MODULES[name]().eval()
    for buffer_name, buffer in module.named_buffers():
        if buffer_name.endswith(("running_mean", "running_var")):
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    x = torch.randn(1, 3, 16, 16)
    with quiet_coremltools():
        program = torch.export.export(module, (x,)).run_decompositions({})
        model = ct.convert(
            program,
            minimum_deployment_target=ct.target.iOS18,
            compute_precision=getattr(ct.precision, precision),
            skip_model_load=True,
        )
        model = compress(model) if compress else model
        model.save(str(folder / "m.mlpackage"))
    with torch.inference_mode():
        return folder / "m.mlpackage", x.numpy(), module(x).numpy()


def evaluate(path: Path, x: np.ndarray, accumulate: str = "float32") -> np.ndarray:
    evaluator = Evaluator(read(path), accumulate)
    (name,) = (variable.name for variable in evaluator.package.inputs)
    (output,) = evaluator({name: x}).values()
    return np.asarray(output)


@pytest.mark.parametrize("name", MODULES)
def test_a_package_of_the_torch_frontend_agrees_with_torch(name: str, tmp_path: Path) -> None:
    path, x, expected = package_of(name, tmp_path)
    np.testing.assert_allclose(evaluate(path, x), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", MODULES)
def test_half_precision_and_half_sums_are_close_but_not_exact(name: str, tmp_path: Path) -> None:
    path, x, expected = package_of(name, tmp_path, "FLOAT16")
    spread = expected.std()
    near, far = (np.abs(evaluate(path, x, mode) - expected).max() / spread for mode in ("float32", "float16"))
    assert 1e-5 < near < 2e-2
    assert 1e-5 < far < 5e-2
    # Sums of at most one chunk are exact, so only the attention's long sums must differ.
    assert near != far or name != "attention"


def test_a_changed_weight_changes_the_output(tmp_path: Path) -> None:
    path, x, expected = package_of("attention", tmp_path)
    package = read(path)
    evaluator = Evaluator(package)
    name = next(op.outputs[0].name for op in package.operations if op.outputs[0].shape == (32, 16))
    evaluator._constants[name] = evaluator._constants[name].flip(0)
    (output,) = evaluator({package.inputs[0].name: x}).values()
    assert np.abs(output - expected).max() > 0.05 * expected.std()


def compressions() -> dict[str, Callable[[Any], Any]]:
    import coremltools.optimize.coreml as cto

    def palettize(model: Any) -> Any:
        config = cto.OpPalettizerConfig(mode="uniform", nbits=4, weight_threshold=50)
        return cto.palettize_weights(model, cto.OptimizationConfig(config))

    def quantize(model: Any) -> Any:
        config = cto.OpLinearQuantizerConfig(mode="linear", weight_threshold=50)
        return cto.linear_quantize_weights(model, cto.OptimizationConfig(config))

    def quantize_blocks(model: Any) -> Any:
        config = cto.OpLinearQuantizerConfig(
            mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=4, weight_threshold=50
        )
        return cto.linear_quantize_weights(model, cto.OptimizationConfig(config))

    def prune(model: Any) -> Any:
        config = cto.OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=50)
        return cto.prune_weights(model, cto.OptimizationConfig(config))

    return {"palettized": palettize, "quantized": quantize, "in blocks": quantize_blocks, "pruned": prune}


@pytest.mark.parametrize("kind", ["palettized", "quantized", "in blocks", "pruned"])
def test_compressed_weights_agree_with_coremltools(kind: str, tmp_path: Path) -> None:
    import coremltools.optimize.coreml as cto

    path, x, plain = package_of("attention", tmp_path, compress=compressions()[kind])
    assert any(op.startswith("constexpr_") for op in read(path).count())
    with quiet_coremltools():
        dense = cto.decompress_weights(ct.models.MLModel(str(path), skip_model_load=True))
        dense.save(str(tmp_path / "dense.mlpackage"))
    output = evaluate(path, x)
    np.testing.assert_allclose(output, evaluate(tmp_path / "dense.mlpackage", x), rtol=1e-4, atol=1e-5)
    assert np.abs(output - plain).max() > 1e-3  # compression changes the output


def test_half_sums_round_at_every_chunk() -> None:
    terms = torch.full((4096,), 1.0)
    assert total(terms, [0], half=False).item() == 4096
    assert total(terms, [0], half=True).item() == 4096
    # Half precision cannot represent 0.1: each partial sum is rounded, and the running sum more coarsely.
    running = np.float16(0)
    part = np.float16(np.float32(0.1) * CHUNK)
    for _ in range(4096 // CHUNK):
        running = np.float16(running + part)
    assert total(terms * 0.1, [0], half=True).item() == float(running)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_half_convolutions_and_products_agree_with_float32_within_their_rounding(groups: int) -> None:
    generator = torch.Generator().manual_seed(groups)
    x, w = torch.randn(2, 64, 9, 9, generator=generator), torch.randn(8, 64 // groups, 3, 3, generator=generator)
    exact = convolve(x, w, (2, 1), (1, 2), groups, half=False)
    rounded = convolve(x, w, (2, 1), (1, 2), groups, half=True)
    assert 0 < (exact - rounded).abs().max() < 64 / groups * 9 * 2**-9
    a, b = torch.randn(3, 5, 100, generator=generator), torch.randn(100, 7, generator=generator)
    assert 0 < (product(a, b, False) - product(a, b, True)).abs().max() < 100 * 2**-9


def test_an_unknown_operation_is_named(tmp_path: Path) -> None:
    from dataclasses import replace

    path, _, _ = package_of("attention", tmp_path)
    package = read(path)
    odd = replace(package.operations[-1], kind="time_travel")
    with pytest.raises(ConversionError, match="time_travel"):
        Evaluator(replace(package, operations=(*package.operations, odd)))


def test_an_unknown_accumulation_is_refused(tmp_path: Path) -> None:
    path, _, _ = package_of("attention", tmp_path)
    with pytest.raises(UsageError, match="bfloat16"):
        Evaluator(read(path), "bfloat16")


def damage_manifest(path: Path) -> None:
    (path / "Manifest.json").write_text("{")


def damage_specification(path: Path) -> None:
    file = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    file.write_bytes(b"\xff" + file.read_bytes()[: file.stat().st_size // 2])


def remove_weights(path: Path) -> None:
    shutil.rmtree(path / "Data" / "com.apple.CoreML" / "weights")


def replace_model_kind(path: Path) -> None:
    with quiet_coremltools():
        spec = ct.proto.Model_pb2.Model()
        spec.identity.SetInParent()
        (path / "Data" / "com.apple.CoreML" / "model.mlmodel").write_bytes(spec.SerializeToString())


@pytest.mark.parametrize(
    "damage", [damage_manifest, damage_specification, remove_weights, replace_model_kind, shutil.rmtree]
)
def test_a_damaged_package_is_a_data_error(damage: Callable[[Path], None], tmp_path: Path) -> None:
    path, _, _ = package_of("attention", tmp_path)
    damage(path)
    with pytest.raises(DataError, match=r"m\.mlpackage|weight"):
        read(path)


def test_features_and_metadata_are_read(tmp_path: Path) -> None:
    path, _, _ = package_of("attention", tmp_path)
    package = read(path)
    assert (package.features_in[0].kind, package.features_in[0].shape) == ("multiarray", (1, 3, 16, 16))
    assert "com.github.apple.coremltools.version" in package.metadata
    assert json.loads((path / "Manifest.json").read_text())["rootModelIdentifier"]
