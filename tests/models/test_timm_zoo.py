"""timm models by name are built and reparameterised exactly, and unknown names are errors."""

from __future__ import annotations

import pytest
import torch

from effbench.api.export.source import resolve
from effbench.errors import UsageError
from effbench.models.build import build, build_unfused, load_factory

pytestmark = [pytest.mark.target("timm"), pytest.mark.filterwarnings("ignore")]


def test_a_timm_model_is_resolved_without_importing_timm_and_has_its_published_name() -> None:
    source = resolve("timm/repvit_m0_9.dist_300e_in1k")
    assert ("repvit_m0_9.dist_300e_in1k", "untrained") == (source.backbone.published, source.weights.kind)
    trained = resolve("timm/resnet50.a1_in1k", "pretrained")
    assert ("pretrained", True) == (trained.weights.kind, "resnet50.a1_in1k" in str(trained.weights.source))
    with pytest.raises(UsageError, match="No pretrained weights are known for 'regla_m'"):
        resolve("regla_m", "pretrained")


def test_deployment_keeps_the_outputs() -> None:
    source = resolve("timm/mobileone_s0")
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        trained, deployed = (make(source.backbone, source.weights) for make in (build_unfused, build))
        expected, outputs = trained(x), deployed(x)
    assert sum(1 for _ in deployed.parameters()) < sum(1 for _ in trained.parameters()) / 2
    # An untrained network this deep amplifies the rounding errors of folded weights.
    torch.testing.assert_close(outputs / expected.std(), expected / expected.std(), rtol=0, atol=1e-3)


def test_an_unknown_name_lists_near_misses() -> None:
    with pytest.raises(UsageError, match="Did you mean resnet50"):
        load_factory("effbench.models.timm_zoo:resnet5x")()


def test_registered_models_are_built_by_timm() -> None:
    from effbench.models import in_timm
    from effbench.models.torchvision_operators import import_timm

    timm = import_timm()
    assert "regla_m" in in_timm.register()
    assert () == in_timm.register()
    assert {"regla_t", "aft_conv_t_h32"} <= set(timm.list_models())
    model = timm.create_model("regla_t", in_chans=1, num_classes=7)
    assert (2, 7) == tuple(model(torch.zeros(2, 1, 64, 64)).shape)
    assert 4 == len(model.forward_features(torch.zeros(1, 1, 64, 64)))
    with pytest.raises(UsageError, match="No pretrained weights are known for 'regla_t'"):
        timm.create_model("regla_t", pretrained=True)
    with pytest.raises(UsageError, match="not drop_path_rate"):
        timm.create_model("regla_t", drop_path_rate=0.1)
