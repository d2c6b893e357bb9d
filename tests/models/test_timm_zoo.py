"""timm models by name: built, reparameterised exactly, and refused in one sentence where there is none."""

from __future__ import annotations

import pytest
import torch

from effbench.api.source import resolve
from effbench.errors import UsageError
from effbench.models.build import build, build_unfused, load_factory

pytestmark = [pytest.mark.target("timm"), pytest.mark.filterwarnings("ignore")]


def test_a_timm_model_is_found_without_importing_timm_and_joins_published_rows() -> None:
    source = resolve("timm/repvit_m0_9.dist_300e_in1k")
    assert ("repvit_m0_9.dist_300e_in1k", "untrained") == (source.backbone.published, source.weights.kind)
    trained = resolve("timm/resnet50.a1_in1k", "pretrained")
    assert ("pretrained", True) == (trained.weights.kind, "resnet50.a1_in1k" in str(trained.weights.source))
    with pytest.raises(UsageError, match="No pretrained weights are known for 'regla_m'"):
        resolve("regla_m", "pretrained")


def test_deployment_keeps_what_the_model_computes() -> None:
    source = resolve("timm/mobileone_s0")
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        trained, deployed = (make(source.backbone, source.weights) for make in (build_unfused, build))
        expected, found = trained(x), deployed(x)
    assert sum(1 for _ in deployed.parameters()) < sum(1 for _ in trained.parameters()) / 2
    torch.testing.assert_close(found / expected.std(), expected / expected.std(), rtol=0, atol=1e-4)


def test_an_unknown_name_lists_near_misses() -> None:
    with pytest.raises(UsageError, match="Did you mean resnet50"):
        load_factory("effbench.models.timm_zoo:resnet5x")()
