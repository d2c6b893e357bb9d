"""The tensors in a module's result, by name."""

from collections import OrderedDict

import odd_factories
import pytest
import torch

from effbench.errors import ConversionError
from effbench.models import results

ONE = torch.ones(1, 3)


@pytest.mark.parametrize(
    ("result", "names"),
    [
        (ONE, ["output"]),
        ((ONE, ONE), ["output_0", "output_1"]),
        ([ONE], ["output_0"]),
        ({"logits": ONE, "aux": None}, ["logits"]),
        (OrderedDict(b=ONE, a=ONE), ["b", "a"]),
        (odd_factories.Pair(ONE, ONE), ["boxes", "scores"]),
        (odd_factories.Detections(ONE), ["logits"]),
        ({"levels": [ONE, (ONE, None)], "count": 3}, ["levels_0", "levels_1_0"]),
        ({"a.b/c": ONE, 7: ONE}, ["a_b_c", "output_7"]),
        ((ONE, {"mask": ONE}), ["output_0", "output_1_mask"]),
    ],
)
def test_names_are_paths(result: object, names: list[str]):
    assert names == list(results.tensors(result))


def test_a_scalar_gets_a_dimension_and_bfloat16_a_type_of_numpy():
    outputs = results.tensors((torch.tensor(2.0), ONE.to(torch.bfloat16)))
    assert [((1,), torch.float32), ((1, 3), torch.float32)] == [(tuple(v.shape), v.dtype) for v in outputs.values()]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "no tensor but None"),
        ((), "no tensor but a tuple"),
        ({"count": 3}, "no tensor but a dict"),
        (object(), "a object, which holds no tensors"),
        ({"a.b": ONE, "a_b": ONE}, "two outputs have the name 'a_b'"),
    ],
)
def test_what_holds_no_tensors_is_refused(result: object, message: str):
    with pytest.raises(ConversionError, match=message):
        results.tensors(result)


def test_an_exporter_sees_a_plain_tuple():
    net = odd_factories.nested().eval()
    images = torch.ones(1, 3, 8, 8)
    expected = results.tensors(net(images)).values()
    with results.as_tuple(net):
        outputs = net(images)
    assert isinstance(outputs, tuple)
    assert isinstance(net(images), dict)
    assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))
