"""Parameters and MACs compared with published ones, and with those of the reconstruction."""

import json

import pytest
import torch

from effbench import models
from effbench.models.build import load_factory
from effbench.models.index import counts, receptive_field, text

# Parameters in M and GMACs at 224 px: arXiv:2501.15369, Table 3.
PUBLISHED = {
    "iformer_t": (2.9, 0.53),
    "iformer_s": (6.5, 1.09),
    "iformer_m": (8.9, 1.64),
    "iformer_l2": (24.5, 4.50),
}
# Parameters in M: arXiv:2105.14103, Table 7, DeiT's included; LambdaResNet-50: d-li14/lambda.pytorch.
TRAINED_PARAMS = {
    "aft_full_t": 6.3,
    "aft_full_s": 22.6,
    "aft_conv_t_h32": 5.4,
    "aft_conv_t_h192": 5.9,
    "aft_conv_s_h16": 20.3,
    "aft_conv_s_h384": 22.5,
    "aft_conv_s_h384_k15": 23.0,
    "deit_t": 5.7,
    "deit_s": 22.1,
    "lambda_resnet50": 14.995,
}
# Parameters in M and GMACs at 224 and 512 px of the reconstruction.
RECONSTRUCTED = {
    "regla_t": (2.88, 0.515, 2.69),
    "regla_s": (6.55, 1.077, 5.63),
    "regla_m": (8.89, 1.622, 8.47),
    "regla_l": (14.78, 2.814, 14.70),
}


def assert_agrees(published: float, counted: float) -> None:
    """Check that counts agree within 1 %, or when rounded to the digits of the published one."""
    decimals = len(str(published).partition(".")[2])
    assert counted == pytest.approx(published, rel=0.01) or round(counted, decimals) == published


@pytest.mark.parametrize("name", PUBLISHED)
def test_iformer_counts_are_the_published_ones(name: str) -> None:
    counted = models.get(name).counts
    assert_agrees(PUBLISHED[name][0], counted["params"] / 1e6)
    assert_agrees(PUBLISHED[name][1], counted["macs_224"] / 1e9)


@pytest.mark.parametrize("name", TRAINED_PARAMS)
def test_parameters_are_the_published_ones_as_trained_and_as_deployed(name: str) -> None:
    with torch.device("meta"):
        trained = sum(item.numel() for item in load_factory(models.get(name).factory)().parameters())
    assert_agrees(TRAINED_PARAMS[name], trained / 1e6)
    assert_agrees(TRAINED_PARAMS[name], models.get(name).counts["params"] / 1e6)


def test_lambda_resnet50_has_the_macs_of_another_implementation() -> None:
    assert_agrees(6.576, models.get("lambda_resnet50").counts["macs_224"] / 1e9)


def test_a_shortcut_does_not_change_the_receptive_field() -> None:
    longer = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3, 2), torch.nn.MaxPool2d(2), torch.nn.Conv2d(1, 1, 3))
    assert receptive_field(longer) == 3 + 2 + 8
    longer.add_module("shortcut", torch.nn.Conv2d(1, 1, 9, 4))
    assert receptive_field(longer) == 3 + 2 + 8


def test_iformer_l_differs_from_its_published_macs_as_the_released_code_does() -> None:
    counted = models.get("iformer_l").counts
    assert_agrees(14.7, counted["params"] / 1e6)
    assert_agrees(2.83, counted["macs_224"] / 1e9)


@pytest.mark.parametrize("name", RECONSTRUCTED)
def test_regla_counts_are_those_of_the_reconstruction(name: str) -> None:
    counted = models.get(name).counts
    params, at_224, at_512 = RECONSTRUCTED[name]
    assert counted["params"] / 1e6 == pytest.approx(params, rel=0.01)
    assert counted["macs_224"] / 1e9 == pytest.approx(at_224, rel=0.01)
    assert counted["macs_512"] / 1e9 == pytest.approx(at_512, rel=0.01)


def test_a_wrong_count_is_detected() -> None:
    with pytest.raises(AssertionError):
        assert_agrees(1.64, 1.67)


def test_index_is_up_to_date() -> None:
    assert models.INDEX.read_text() == text(), "run: python -m effbench.models.index"


def test_index_lists_all_models_and_marks_reconstructions() -> None:
    entries = {entry["name"]: entry for entry in json.loads(models.INDEX.read_text())}
    assert list(entries) == list(models.models())
    assert all(
        ("reconstructed" in (entries[name]["reconstruction"] or "")) == name.startswith("regla") for name in entries
    )


def test_counts_of_one_model_are_exact_integers() -> None:
    assert counts(models.get("iformer_t")) == {
        "params": 2873032,
        "macs_224": 530472064,
        "macs_512": 3292653568,
        "receptive_field_px": 1109,
    }


def test_stages_are_those_of_the_feature_maps() -> None:
    assert ((48, 4), (96, 8), (192, 16), (384, 32)) == models.get("regla_m").stages
    assert {(item.name, 4) for item in models.models().values() if item.family != "user"} == {
        (name, len(item.stages)) for name, item in models.models().items()
    }
