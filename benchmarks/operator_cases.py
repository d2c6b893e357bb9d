"""Run the ``onnx`` package's operator cases through the Core ML translator and evaluator.

    python benchmarks/operator_cases.py [--write] [--only NAME]

``--write`` saves the table, with every excluded case and its reason, to benchmarks/RESULTS-operators.md.

A case is included if its tensors are float32, float16, int32, bool, or int64 with values that fit 32 bits, of rank 5 at
most. Inputs with shapes, axes or amounts become constants, as do the parameters that Core ML takes as constants only
(`FIXED`). `reason_to_exclude` decides before the case runs; no case is excluded because it fails.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

TYPES = ("float32", "float16", "int32", "bool", "int64")
FIXED: dict[str, tuple[int, ...]] = {
    "CenterCropPad": (1,),
    "Clip": (1, 2),
    "ConstantOfShape": (0,),
    "ConvTranspose": (1,),
    "CumSum": (1,),
    "DequantizeLinear": (1, 2),
    "Dropout": (1, 2),
    "Expand": (1,),
    "AffineGrid": (1,),
    "OneHot": (1, 2),
    "Pad": (1, 2, 3),
    "QuantizeLinear": (1, 2),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "SplitToSequence": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
    **{f"Reduce{kind}": (1,) for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum")},
    "ReduceSumSquare": (1,),
}
"""Operator -> positions of inputs that become constants."""
SCOPE: dict[str, tuple[str, ...]] = {
    "training": ("Adagrad", "Adam", "Momentum", "Gradient"),
    "random numbers": ("Bernoulli", "Multinomial", "RandomNormalLike", "RandomUniformLike"),
    "the output's shape depends on values": ("Compress", "NonMaxSuppression", "NonZero", "Unique", "Range"),
    "control flow": ("If", "Loop", "Scan", "SequenceMap"),
    "recurrent network": ("GRU", "LSTM", "RNN", "CausalConvWithState", "LinearAttention"),
    "bits of integers, which MIL does not have": (
        "BitCast",
        "BitShift",
        "BitwiseAnd",
        "BitwiseNot",
        "BitwiseOr",
        "BitwiseXor",
    ),
    "signal processing": ("DFT", "STFT", "MelWeightMatrix", "HannWindow", "HammingWindow", "BlackmanWindow"),
    "detection or segmentation head, not a backbone": ("DeformConv", "MaxUnpool", "RoiAlign"),
    "linear algebra that MIL does not have": ("Det",),
    "a running product, which MIL does not have": ("CumProd",),
    "text": ("TfIdfVectorizer", "StringNormalizer", "StringConcat", "StringSplit", "RegexFullMatch"),
    "optional values": ("OptionalGetElement", "OptionalHasElement"),
    "key-value cache of a language model": ("TensorScatter", "FlexAttention"),
    "overlapping sums, which MIL does not have": ("Col2Im",),
}
"""Reason -> operators that image backbones do not have."""
OUT_OF_SCOPE = {op: reason for reason, ops in SCOPE.items() for op in ops}


@dataclass(frozen=True)
class Outcome:
    """The status of one case, ``passed``, ``failed`` or ``excluded``, and the reason."""

    name: str
    operator: str
    status: str
    note: str = ""


def all_cases() -> list[Any]:
    """Return every operator case of the onnx package, single operators and their expansions."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the generators overflow on purpose
        return sorted(collect_testcases(None), key=lambda case: case.name)


def _tensors(case: Any) -> Iterator[tuple[str, Any]]:
    graph = case.model.graph
    inputs, outputs = case.data_sets[0]
    yield from zip([info.name for info in graph.input], inputs, strict=False)
    yield from zip([info.name for info in graph.output], outputs, strict=False)


def reason_to_exclude(case: Any) -> str | None:
    """Return why a case is excluded, or None; the case does not run for it."""
    graph = case.model.graph
    domains = {node.domain for node in graph.node} - {"", "ai.onnx"}
    if domains:
        return f"operators of another domain ({', '.join(sorted(domains))})"
    values = [value for _, value in _tensors(case)]
    if not all(isinstance(value, (np.ndarray, np.generic)) for value in values):
        return "a sequence, an optional or a map, not tensors"
    kinds = {np.asarray(value).dtype.name for value in values}
    for kind in sorted(kinds - set(TYPES)):
        return f"tensors of type {kind}"
    if any(np.asarray(value).ndim > 5 for value in values):
        return "rank above 5"
    if any(np.asarray(value).size == 0 for value in values):
        return "an empty tensor, which Core ML does not have"
    for node in graph.node:
        if node.op_type in OUT_OF_SCOPE:
            return f"{OUT_OF_SCOPE[node.op_type]} ({node.op_type})"
    return _reason_in_values(case)


def _reason_in_values(case: Any) -> str | None:
    fixed = _fixed_names(case)
    int32 = np.iinfo(np.int32)
    for name, value in _tensors(case):
        array = np.asarray(value)
        if array.dtype == np.int64 and name not in fixed and (array.max() > int32.max or array.min() < int32.min):
            return "int64 values beyond 32 bits"
    if any(item.name == "training_mode" and item.i for node in case.model.graph.node for item in node.attribute):
        return "training mode"
    if len(case.data_sets[0][0]) == 0 or all(info.name in fixed for info in case.model.graph.input):
        return "all inputs are constants: nothing is left to translate"
    if _training_dropout(case):
        return "training mode"
    return None


def _training_dropout(case: Any) -> bool:
    values = dict(_tensors(case))
    nodes = [node for node in case.model.graph.node if node.op_type == "Dropout" and len(node.input) > 2]
    return any(bool(values.get(node.input[2], False)) for node in nodes)


def _fixed_names(case: Any) -> set[str]:
    """Return the graph inputs that become constants, by the nodes that read them, directly or indirectly."""
    fixed: set[str] = set()
    for node in reversed(case.model.graph.node):
        positions = FIXED.get(node.op_type, ())
        fixed.update(name for i, name in enumerate(node.input) if i in positions and name)
        # The inputs of a fixed value are fixed too, except where it is the shape of a tensor.
        if node.op_type not in ("Shape", "Size") and any(name in fixed for name in node.output):
            fixed.update(name for name in node.input if name)
    return fixed & {info.name for info in case.model.graph.input}


def as_graph(case: Any) -> Any:
    """Return a case's model with its fixed inputs as initializers and every open size filled in."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    values = dict(_tensors(case))
    fixed = _fixed_names(case)
    for name in sorted(fixed):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values[name]), name))
    for group in (model.graph.input, model.graph.output):
        infos = [
            helper.make_tensor_value_info(
                info.name, info.type.tensor_type.elem_type, np.asarray(values.get(info.name)).shape
            )
            for info in group
            if info.name not in fixed
        ]
        del group[:]
        group.extend(infos)
    return model


def run_case(case: Any, target: str | None = None, accumulate: str = "float32") -> str:
    """Translate, save, read and evaluate a case; return an empty string, or the failure."""
    from effbench.deploy.targets.coreml.convert import Options, convert
    from effbench.deploy.targets.coreml.session import MilSession
    from effbench.errors import EffbenchError

    model = as_graph(case)
    values = dict(_tensors(case))
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "case.mlpackage"
        try:
            convert(model, package, Options(target))
            session = MilSession(package, accumulate=accumulate)
            outputs = session({info.name: np.asarray(values[info.name]) for info in model.graph.input})
        except EffbenchError as error:
            return error.message
    for info in model.graph.output:
        expected, actual = np.asarray(values[info.name]), outputs[info.name]
        if expected.shape != actual.shape:
            return f"shape {actual.shape}, expected {expected.shape}"
        rtol = max(case.rtol, 2e-3 if expected.dtype == np.float16 else 0.0)
        a, b = actual.astype(np.float64), expected.astype(np.float64)
        if not np.allclose(a, b, rtol, max(case.atol, 1e-6), equal_nan=True):
            return f"differs by {np.nanmax(np.abs(a - b)):.3g}"
    return ""


def run(cases: Sequence[Any]) -> list[Outcome]:
    """Return the outcome of each case."""
    outcomes = []
    for case in cases:
        operator = case.model.graph.node[0].op_type if len(case.model.graph.node) == 1 else "(several)"
        if reason := reason_to_exclude(case):
            outcomes.append(Outcome(case.name, operator, "excluded", reason))
            continue
        problem = run_case(case)
        outcomes.append(Outcome(case.name, operator, "failed" if problem else "passed", problem))
    return outcomes


def report(outcomes: Sequence[Outcome], seconds: float) -> str:
    """Return the Markdown of a run."""
    count = Counter(outcome.status for outcome in outcomes)
    included = count["passed"] + count["failed"]
    lines = [
        "# Operator cases of the onnx package through the Core ML translator and evaluator",
        "",
        f"onnx {version('onnx')}, coremltools {version('coremltools')}, torch {version('torch')}; written by",
        f"`python benchmarks/operator_cases.py --write` in {seconds:.0f} s.",
        "",
        f"**{count['passed']} of {included} included cases pass ({100 * count['passed'] / max(included, 1):.1f} %)**;",
        f"{count['excluded']} of {len(outcomes)} are excluded.",
        "",
        "## Failures",
        "",
        *(f"- `{o.name}` ({o.operator}): {o.note}" for o in outcomes if o.status == "failed"),
        "",
        "## Passed, by operator",
        "",
    ]
    passed = Counter(o.operator for o in outcomes if o.status == "passed")
    lines += [
        ", ".join(f"{name} {number}" for name, number in sorted(passed.items())),
        "",
        "## Excluded, by reason",
        "",
    ]
    reasons: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.status == "excluded":
            reasons.setdefault(outcome.note, []).append(outcome.name.removeprefix("test_"))
    for reason, names in sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0])):
        lines += [f"### {reason}: {len(names)}", "", ", ".join(names), ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="save the table to benchmarks/RESULTS-operators.md")
    parser.add_argument("--only", default="", metavar="NAME", help="only cases with NAME in their name")
    options = parser.parse_args()
    start = time.perf_counter()
    outcomes = run([case for case in all_cases() if options.only in case.name])
    text = report(outcomes, time.perf_counter() - start)
    if options.write:
        Path(__file__).with_name("RESULTS-operators.md").write_text(text)
    print(text.split("## Passed")[0])


if __name__ == "__main__":
    main()
