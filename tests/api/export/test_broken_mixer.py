"""Untrained or not: an artifact whose mixer is broken does not pass as the same model, at either size."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import Run
from effbench import deploy
from effbench.deploy.artifact import bundle, fidelity

pytestmark = [pytest.mark.slow, *map(pytest.mark.target, ("torch", "ort"))]

MODELS = '''
"""{name} as it is, and with its attention term replaced by the mean over positions or its denominator by a constant."""
import torch
from effbench import models
from effbench.models import iformer, regla
from effbench.models.build import build
from effbench.schema import Weights

KINDS = (iformer.SoftmaxAttention, regla.LinearAttention)

def healthy():
    return build(models.get("{name}"), Weights())

def spatial_mean():
    return changed(lambda own: lambda q, k, v: own(q, k, v).mean((2, 3), keepdim=True).expand_as(v))

def denominator():
    def wrong(own):
        def forward(q, k, v):
            z = (k.sum((2, 3), keepdim=True) * q).sum(1, keepdim=True)
            return own(q, k, v) * z / z.mean((2, 3), keepdim=True)
        return forward
    return changed(wrong)

def changed(change):
    model = healthy()
    found = [m for m in model.modules() if isinstance(m, KINDS)]
    assert found
    for module in found:
        module.forward = change(module.forward)
    return model
'''


def check(run: Run, factory: str, size: int, reference: Path | None = None) -> tuple[bool, Path]:
    done = run("export", f"variants:{factory}", "--res", str(size), "-t", "ort", "--no-verify")
    assert done.returncode == 0, done.stdout + done.stderr
    exported = {
        item.subject.target: item
        for item in bundle.artifacts(run.folder / "runs")
        if factory in item.subject.model and item.subject.resolution == (size, size)
    }
    own = exported["onnx"].folder / bundle.REFERENCE
    session = deploy.get("ort").open(exported["ort"], 1, {})
    expected = fidelity.load_reference(reference or own)
    # Held to the looser limits of half precision: what fails these fails all.
    result = fidelity.check(
        session, fidelity.Setup(expected, 1, exported["ort"].inputs, exported["ort"].preprocessing, "fp16")
    )
    return result.passed, own


@pytest.mark.parametrize("size", [224, 512])
@pytest.mark.parametrize(
    ("name", "faults"), [("regla_t", ("spatial_mean", "denominator")), ("iformer_t", ("spatial_mean",))]
)
def test_a_broken_mixer_fails(run: Run, name: str, faults: tuple[str, ...], size: int) -> None:
    (run.folder / "variants.py").write_text(MODELS.format(name=name))
    passed, reference = check(run, "healthy", size)
    assert passed
    for fault in faults:
        assert not check(run, fault, size, reference)[0], fault
