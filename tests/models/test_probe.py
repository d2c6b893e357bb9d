"""Single parts: every mixer and block is built, depends on the image, and has the sources of all mixers."""

from __future__ import annotations

import pytest
import torch

from effbench.errors import UsageError
from effbench.models import probe
from effbench.models.build import build
from effbench.models.index import macs
from effbench.models.mixers import mixers
from effbench.models.parts import model_argument, parts
from effbench.models.sources import source_files
from effbench.schema import Backbone, Weights


def built(name: str, px: int) -> torch.nn.Module:
    argument, _ = model_argument(name, px)
    return build(Backbone(name=name, family="part", factory=argument, stride=1), Weights())


@torch.no_grad()
@pytest.mark.parametrize("name", list(parts()))
def test_every_part_is_built_alone_and_depends_on_the_image(name: str):
    _, side = model_argument(name, 256)
    first, second = built(name, 256)(torch.randn(2, 3, side, side))
    assert (parts()[name].channels, side, 1) == tuple(first.shape)
    assert torch.isfinite(first).all()
    assert (first - second).std() > 0.02 * first.std()


@pytest.mark.parametrize("name", ["rgma", "aft-simple", "aft-conv", "lambda-conv", "relu-linear", "elrf"])
def test_a_linear_part_costs_exactly_as_many_macs_per_pixel_at_any_size(name: str):
    with torch.device("meta"):
        counted = [macs(getattr(probe, model_argument(name, px)[0].partition(":")[2])(), model_argument(name, px)[1])
                   for px in (128, 256)]  # fmt: skip
    assert 4 * counted[0] == counted[1]


def test_an_elrf_pair_costs_less_than_the_unit_it_replaces():
    with torch.device("meta"):
        assert macs(probe.elrf_at_32(), 32) < macs(probe.conv7_at_32(), 32)


def test_the_sources_of_a_part_are_those_of_all_mixers():
    names = {path.name for path in source_files(model_argument("rgma", 256)[0])}
    modules = {mixer.factory.partition(":")[0].rpartition(".")[2] + ".py" for mixer in mixers().values()}
    assert {"probe.py", "regla.py", "layers.py"} | modules <= names


def test_unknown_parts_and_sizes_are_errors():
    with pytest.raises(UsageError, match="stride 16"):
        model_argument("rgma", 100)
    with pytest.raises(UsageError, match="Did you mean aft-conv"):
        getattr(probe, "aft-con_at_8")
    with pytest.raises(AttributeError):
        _ = probe.nothing
