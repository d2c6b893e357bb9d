"""Share of seeded wrong conversions that the check finds, over all kinds of outputs, in fp32, int8 and a16w8.

    python benchmarks/seeded_faults.py [--each 4] [--precision fp32 ...]       (some minutes on 2 cores)

Nine small networks of random weights at 64 px, one for each kind of output, are converted wrongly in six ways
(`deploy.graph.mutations`). ONNX Runtime runs the wrong graphs. The reference is effbench's interpreter. In int8 and
a16w8 the graph is also paired with the float graph, operator by operator. *runtime*: ONNX Runtime is given the wrong
copy of a right int8 or a16w8 graph, and paired with the right one, level by level. *equivalent*: no output changes by
more than the model's own rounding; in int8 and a16w8, no output changes at all. *false failed*: right conversions, run
by ONNX Runtime and OpenVINO, that the check calls wrong.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser
from tabulate import tabulate

from effbench.api.export.worker_mutate import Case, outcomes
from effbench.deploy import Array, Traced
from effbench.deploy.artifact import feeding, fidelity, kinds, synthetic
from effbench.deploy.artifact.judge import Terms, own_rounding, verdict
from effbench.deploy.graph import onnx_file, signature
from effbench.deploy.graph.run_ort import runner
from effbench.deploy.interpreter import Interpreter
from effbench.deploy.precision.a16w8 import to_a16w8
from effbench.deploy.precision.calibration import load_calibration
from effbench.deploy.precision.pairing import pair
from effbench.deploy.precision.pairing.runtime import inner_tensors, pair_runtime
from effbench.deploy.precision.quantize import to_int8
from effbench.deploy.targets.openvino import TARGET as OPENVINO
from effbench.schema import Preprocessing
from effbench.schema.mutation import EQUIVALENT, FOUND, MISSED, REFUSED
from effbench.threads import one_thread

SIZE = 64
BODY = """
    [stem] a = Conv <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (image, stem_w, stem_b)
    [relu] b = Relu (a)
    [down] c = Conv <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (b, down_w, down_b)
    [gelu] d = Gelu (c)
    [block] e = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (d, block_w, block_b)
    [skip] f = Add (d, e)
"""
WEIGHTS = {"stem_w": (16, 3, 3, 3), "stem_b": (16,), "down_w": (24, 16, 3, 3), "down_b": (24,)}
WEIGHTS |= {"block_w": (24, 24, 3, 3), "block_b": (24,)}
POOL = "[pool] g = GlobalAveragePool (f)\n [flat] h = Flatten (g)\n"
HEADS: dict[str, tuple[str, str, dict[str, tuple[int, ...]], str]] = {
    "logits": ("float[1, 10] y", "", {"w": (10, 24), "v": (10,)}, POOL + "[head] y = Gemm <transB = 1> (h, w, v)"),
    "features": (
        "float[1, 8, 16, 16] left, float[1, 8, 16, 16] right",
        "",
        {"w": (8, 24, 1, 1), "v": (8,), "u": (8, 24, 1, 1)},
        "[left] left = Conv (f, w, v)\n [right] right = Conv (f, u)",
    ),
    "probabilities": (
        "float[1, 10] p",
        "",
        {"w": (10, 24), "v": (10,)},
        POOL + "[head] y = Gemm <transB = 1> (h, w, v)\n [soft] p = Softmax (y)",
    ),
    "sparse map": (
        "float[1, 1, 16, 16] text",
        "float[1, 1, 1, 1] low = {-6}",
        {"w": (1, 24, 1, 1), "v": (1,)},
        "[head] y = Conv (f, w, v)\n [shift] z = Add (y, low)\n [squash] text = Sigmoid (z)",
    ),
    "boxes and scores": (
        "float[1, 20] scores, float[1, 20, 4] boxes",
        "int64[2] one = {1, 256}, int64[3] four = {1, 4, 256}, int64[1] k = {20}, int64[3] wide = {1, 20, 4}, "
        "int64[1] last = {2}",
        {"w": (1, 24, 1, 1), "v": (1,), "u": (4, 24, 1, 1), "t": (4,)},
        "[rank] y = Conv (f, w, v)\n [squash] z = Sigmoid (y)\n [row] r = Reshape (z, one)\n"
        "[best] scores, at = TopK <axis = 1> (r, k)\n [frame] x = Conv (f, u, t)\n [list] l = Reshape (x, four)\n"
        "[turn] m = Transpose <perm = [0, 2, 1]> (l)\n [rows] i = Unsqueeze (at, last)\n [four] j = Expand (i, wide)\n"
        "[pick] boxes = GatherElements <axis = 1> (m, j)",
    ),
    "mask": (
        "float[1, 5, 32, 32] mask",
        "float[4] twice = {1, 1, 2, 2}",
        {"w": (5, 24, 1, 1), "v": (5,)},
        '[head] y = Conv (f, w, v)\n [up] mask = Resize <mode = "linear"> (y, , twice)',
    ),
    "labels": (
        "int64[1, 16, 16] labels",
        "",
        {"w": (5, 24, 1, 1), "v": (5,)},
        "[head] y = Conv (f, w, v)\n [best] labels = ArgMax <axis = 1, keepdims = 0> (y)",
    ),
    "sequence": (
        "float[16, 1, 11] text",
        "int64[1] height = {2}",
        {"w": (24, 11)},
        "[mean] m = ReduceMean <keepdims = 0> (f, height)\n [turn] t = Transpose <perm = [2, 0, 1]> (m)\n"
        "[head] text = MatMul (t, w)",
    ),
    "integers": (
        "int64[1, 3] best",
        "int64[1] k = {3}",
        {"w": (40, 24), "v": (40,)},
        POOL + "[head] y = Gemm <transB = 1> (h, w, v)\n [top] scores, best = TopK (y, k)",
    ),
}


def network(kind: str) -> onnx.ModelProto:
    """Return the network of one kind of output, with seeded weights and biases."""
    outputs, constants, weights, head = HEADS[kind]
    header = f"g (float[1, 3, {SIZE}, {SIZE}] image) => ({outputs})"
    text = f'<ir_version: 10, opset_import: ["" : 20]> {header} <{constants}> {{ {BODY} {head} }}'
    model = parser.parse_model(text)
    rng = np.random.default_rng(sum(map(ord, kind)))
    for name, shape in (WEIGHTS | weights).items():
        fan_in = np.prod(shape[1:]) if len(shape) > 2 else max(shape)
        value = rng.normal(size=shape) * (np.sqrt(2 / fan_in) if len(shape) > 1 else 0.3)
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    return onnx_file.infer_shapes(model, kind)


def cases(kind: str, precisions: list[str]) -> Iterator[Case]:
    """Yield the case of one kind of output in each precision."""
    model = network(kind)
    spec, preprocessing = signature.guessed(model)[0], Preprocessing()
    images = synthetic.reference_images(fidelity.count_for(1), 3, (SIZE, SIZE))
    feeds = feeding.feeds({spec.name: images}, 1, (spec,), preprocessing)
    with one_thread():
        expected = fidelity.run_all(Interpreter(model).run, feeds)
    guessed = kinds.guess_all(expected, (SIZE, SIZE), onnx_file.writers(model))
    case = Case(model, expected, feeds, "fp32", Terms(guessed))
    terms = Terms(guessed, own_rounding(expected, case.exact_outputs(model)))
    calibration = load_calibration("synthetic", (SIZE, SIZE), preprocessing).feeds(1, (spec,), preprocessing)
    for precision in precisions:
        if precision == "fp32":
            yield Case(model, expected, feeds, "fp32", terms)
            continue
        quantized = (to_int8 if precision == "int8" else to_a16w8)(model, calibration)
        quantized = onnx_file.infer_shapes(quantized, kind)
        natural = {name: value[: fidelity.NATURAL] for name, value in expected.items()}
        yield Case(quantized, natural, feeds[: fidelity.NATURAL], precision, Terms(guessed), model)


class RuntimeCase(Case):
    """A right quantized graph, and a runtime that runs a wrong copy of it."""

    def reasons(self, wrong: onnx.ModelProto) -> tuple[str, ...]:
        """Return the faults of the runtime; empty if there are none."""
        traced = runner(wrong, inner_tensors(self.model))
        return tuple(str(fault) for fault in pair_runtime(self.model, traced, self.feeds).faults)


def by_openvino(model: onnx.ModelProto) -> fidelity.Run:
    """Return a function that runs a graph with OpenVINO in fp32."""
    import openvino as ov

    core = ov.Core()
    compiled = core.compile_model(
        core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    names = [output.name for output in model.graph.output]

    def run(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        return dict(zip(names, compiled(dict(feeds)).values(), strict=True))

    return run


def _openvino_traced(model: onnx.ModelProto, tensors: Sequence[str]) -> Traced:
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, path := Path(folder) / "model.onnx")
        traced = OPENVINO.traced_file(path, tensors)
    return traced


def false_failures(case: Case) -> list[str]:
    """Return why right conversions are called wrong: by two runtimes, and by the pairing of a quantized graph."""
    reasons: list[str] = []
    tensors = inner_tensors(case.model) if case.exact is not None else ()
    # OpenVINO removes 16-bit quantizers from a graph, which then is no longer a16w8.
    runs = [runner(case.model), *([by_openvino(case.model)] if case.precision != "a16w8" else [])]
    for run in runs:
        reasons += verdict(case.expected, fidelity.run_all(run, case.feeds), case.precision, case.terms).reasons
    if case.exact is not None:
        reasons += [str(fault) for fault in pair(case.exact, case.model, case.feeds).faults if not fault.poor]
        for traced in (runner(case.model, tensors), _openvino_traced(case.model, tensors)):
            reasons += [str(fault) for fault in pair_runtime(case.model, traced, case.feeds).faults]
    return reasons


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--each", type=int, default=4, help="wrong conversions of each kind and network")
    arguments.add_argument("--precision", action="append", choices=("fp32", "int8", "a16w8"))
    options = arguments.parse_args()
    precisions = options.precision or ["fp32", "int8", "a16w8"]
    counts: dict[tuple[str, str], Counter[str]] = {}
    for kind in HEADS:
        for case in cases(kind, precisions):
            total = counts.setdefault((case.precision, "right"), Counter())
            failures = false_failures(case)
            total.update(made=1, **{"false failed": int(bool(failures))})
            for text in failures:
                print(f"{case.precision} {kind}: FALSE: {text}", file=sys.stderr)
            tried = {case.precision: case}
            if case.exact is not None:
                tried[f"{case.precision}, runtime"] = RuntimeCase(**vars(case))
            for name, one in tried.items():
                for item in outcomes(one, options.each, kind):
                    counts.setdefault((name, item.kind), Counter()).update({"made": 1, item.outcome: 1})
                    if item.outcome in (MISSED, EQUIVALENT):
                        text = f"{name} {kind}: {item.outcome}: {item.kind}, {item.place}"
                        print(f"{text}: changes {item.change:.1e}", file=sys.stderr)
        print(kind, file=sys.stderr, flush=True)
    for precision in dict.fromkeys(name for name, _ in tuple(counts)):
        every: Counter[str] = Counter()
        for (name, fault), group in counts.items():
            every.update(group if name == precision and fault != "right" else {})
        counts[precision, "all"] = every
    columns = ("made", FOUND, MISSED, EQUIVALENT, REFUSED, "false failed")
    rows = []
    for (precision, fault), group in sorted(counts.items()):
        changing = group[FOUND] + group[MISSED]
        share = f"{100 * group[FOUND] / changing:.1f} %" if changing else ""
        rows.append([precision, fault, *(group[column] for column in columns), share])
    print(tabulate(rows, headers=["precision", "wrong conversion", *columns, "share found"], tablefmt="pipe"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
