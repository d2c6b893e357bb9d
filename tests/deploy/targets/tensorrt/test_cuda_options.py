from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_graphs import attention, graph_artifact

from effbench.deploy.graph import torch_program
from effbench.deploy.targets import ort, torch
from effbench.errors import UnavailableError, UsageError
from effbench.schema import Artifact, InputShapes, InputSpec, Subject, TensorSpec, Weights

FEEDS = {"image": np.random.default_rng(0).standard_normal((1, 3, 32, 32), dtype=np.float32)}


def layer() -> Any:
    import torch as library

    return library.nn.Sequential(library.nn.Conv2d(3, 4, 3, stride=2), library.nn.GELU(), library.nn.Flatten())


@pytest.fixture
def weights(tmp_path: Path) -> Artifact:
    import torch as library

    torch_program.save(library.export.export(layer(), (library.zeros(1, 3, 32, 32),)), tmp_path)
    subject = Subject("layer", "user", Weights(), InputShapes((32, 32)), 1, "torch", "fp32")
    image, output = InputSpec("image", "float32", (1, 3, 32, 32)), TensorSpec("output", "float32", (1, 900))
    return Artifact(tmp_path, "key", "", subject, (image,), (output,), {}, torch_program.PROGRAM)


@pytest.mark.target("torch")
@pytest.mark.parametrize(
    ("options", "message"),
    [({"device": "tpu"}, "Unknown device 'tpu'"), ({"mode": "fast"}, "Unknown mode"), ({"mode": "cuda-graph"}, "cuda")],
)
def test_an_unknown_device_or_mode_is_refused(weights: Artifact, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        torch.TARGET.open(weights, 1, options)


@pytest.mark.target("torch")
def test_without_a_gpu_the_hint_is_the_message_of_torch(weights: Artifact) -> None:
    import torch as library

    if library.cuda.is_available():
        pytest.skip("a GPU answers here")
    with pytest.raises(UnavailableError, match="finds no NVIDIA GPU here") as caught:
        torch.TARGET.open(weights, 1, {"device": "cuda"})
    assert "CUDA" in str(caught.value.hint)


@pytest.mark.slow
@pytest.mark.target("torch")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch calls its own deprecated functions
def test_a_compiled_module_computes_the_same(weights: Artifact) -> None:
    import shutil

    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler on the CPU")
    eager, compiled = (torch.TARGET.open(weights, 1, {"mode": mode}) for mode in ("eager", "compile"))
    expected, output = eager(FEEDS)["output"], compiled(FEEDS)["output"]
    assert output == pytest.approx(expected, abs=1e-5)
    placement = compiled.placement()
    assert (placement["devices"], placement["mode"], placement["fallback"]) == (["cpu"], "compile", {})


@pytest.mark.gpu
@pytest.mark.target("torch")
@pytest.mark.parametrize("mode", torch.MODES)
def test_torch_on_a_gpu_computes_the_same(weights: Artifact, mode: str) -> None:
    import torch as library

    if not library.cuda.is_available():
        pytest.skip("no NVIDIA GPU answers")
    expected = torch.TARGET.open(weights, 1, {})(FEEDS)["output"]
    session = torch.TARGET.open(weights, 1, {"device": "cuda", "mode": mode})
    first = session(FEEDS)["output"]
    session({"image": np.zeros_like(FEEDS["image"])})
    assert first == pytest.approx(expected, abs=1e-4)  # the next call does not overwrite it
    session.close()


@pytest.mark.target("ort")
def test_without_the_cuda_provider_the_available_ones_are_listed(tmp_path: Path) -> None:
    import onnxruntime

    if ort.CUDA in onnxruntime.get_available_providers():
        pytest.skip("the CUDA provider is here")
    graph = graph_artifact(tmp_path, attention())
    artifact = replace(graph, subject=replace(graph.subject, target="ort"))
    with pytest.raises(UnavailableError, match=f"has no {ort.CUDA}") as caught:
        ort.TARGET.open(artifact, 1, {"provider": ort.CUDA})
    assert ort.CPU in str(caught.value.hint)
    on_cpu = ort.TARGET.open(artifact, 1, {})
    placement = on_cpu.placement()
    assert (placement["providers"], list(placement["units"]), placement["partitions"]) == ([ort.CPU], ["CPU"], 1)
    on_cpu.close()
