"""The ONNX project's operator cases: which are included, why the others are left out, and that all of them pass."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest
from onnx import ModelProto, TensorProto, external_data_helper, load, numpy_helper
from onnx.backend.test.loader import load_model_tests

from effbench.deploy.interpreter import Interpreter, operators
from effbench.deploy.interpreter.types import TYPES

LISTING = Path(__file__).with_name("interpreter_cases.txt")
KINDS = ("node", "simple", "pytorch-operator", "pytorch-converted")
# The onnx package overflows on purpose when it generates its cases.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

Sets = list[tuple[list[Any], list[Any]]]


def read(file: Path) -> np.ndarray:
    proto = TensorProto()
    proto.ParseFromString(file.read_bytes())
    return numpy_helper.to_array(proto)


def read_kind(folder: Path, kind: str) -> list[np.ndarray]:
    return [read(folder / f"{kind}_{i}.pb") for i in range(len(list(folder.glob(f"{kind}_*.pb"))))]


def read_sets(folder: Path) -> Sets:
    return [(read_kind(data, "input"), read_kind(data, "output")) for data in sorted(folder.glob("test_data_set_*"))]


def reason_to_exclude(model: ModelProto) -> str | None:
    nodes = model.graph.node
    for node in nodes:
        if node.domain not in ("", "ai.onnx"):
            return f"domain {node.domain}"
        if node.op_type not in operators():
            return f"operator {node.op_type}: not in the interpreter"
    values = [*model.graph.input, *model.graph.output]
    for value in values:
        if value.type.WhichOneof("value") != "tensor_type":
            return "a sequence or an optional value"
    types = [v.type.tensor_type.elem_type for v in values]
    types += [t.data_type for t in external_data_helper._get_all_tensors(model)]
    for kind in types:
        if kind not in TYPES:
            return f"type {TensorProto.DataType.Name(kind)}"
    storage = {"QuantizeLinear", "DequantizeLinear", "Cast", "CastLike"}
    if TensorProto.UINT16 in types and not {n.op_type for n in nodes} <= storage:
        return "arithmetic in UINT16, which torch lacks"
    if any(a.name == "training_mode" and a.i for n in nodes for a in n.attribute):
        return "training"
    if any(n.op_type == "Dropout" and len(n.input) > 2 for n in nodes):
        return "training"
    return None


def cases() -> Iterator[tuple[str, ModelProto, Any]]:
    for kind in KINDS:
        for case in load_model_tests(kind=kind):
            folder = None if case.model_dir is None else Path(case.model_dir)
            model = case.model if folder is None else load(folder / "model.onnx")
            case.data_sets = case.data_sets if folder is None else folder
            yield f"{kind}/{case.name}", model, case


def assert_passes(model: ModelProto, case: Any) -> None:
    interpreter = Interpreter(model)
    sets = read_sets(case.data_sets) if isinstance(case.data_sets, Path) else case.data_sets
    for inputs, outputs in sets:
        arrays = [numpy_helper.to_array(a) if isinstance(a, TensorProto) else np.asarray(a) for a in inputs]
        results = interpreter.run(dict(zip([i.name for i in model.graph.input], arrays, strict=False)))
        assert len(outputs) == len(results)
        for want, have in zip(outputs, results.values(), strict=True):
            expected = numpy_helper.to_array(want) if isinstance(want, TensorProto) else np.asarray(want)
            assert expected.dtype == have.dtype
            assert expected.shape == have.shape
            # Two roundings to half of the same number may differ in the last bit.
            slack = 2e-3 if expected.dtype == np.float16 else case.atol
            if "dft" in case.name:  # elements that cancel hold the rounding of the largest
                slack = max(slack, 1e-6 * float(np.abs(expected).max()))
            np.testing.assert_allclose(have, expected, rtol=case.rtol, atol=slack)


@pytest.mark.slow
def test_operator_cases_of_the_onnx_project() -> None:
    """Every case that is not listed as excluded passes; the list of exclusions is the committed one."""
    excluded, failed, included = [], [], 0
    for name, model, case in cases():
        reason = reason_to_exclude(model)
        if reason is not None:
            excluded.append(f"{name}: {reason}")
            continue
        included += 1
        try:
            assert_passes(model, case)
        except Exception as error:  # noqa: BLE001 every failure is collected and asserted on below
            failed.append(f"{name}: {str(error).strip().splitlines()[0]}")
    reasons = Counter(line.partition(": ")[2] for line in excluded)
    summary = [f"# {included} cases included, {len(excluded)} excluded", "# reasons:"]
    summary += [f"#   {count:3d}  {reason}" for reason, count in sorted(reasons.items(), key=lambda r: (-r[1], r[0]))]
    text = "\n".join([*summary, *sorted(excluded)]) + "\n"
    assert failed == []
    golden.check(LISTING, text)


def test_a_wrong_answer_fails_a_case() -> None:
    _, model, case = next(item for item in cases() if item[0] == "node/test_relu")
    model.graph.node[0].op_type = "Neg"
    with pytest.raises(AssertionError):
        assert_passes(model, case)
