"""Relative errors of single operators of Snapdragon's HTP, on Qualcomm's simulator, in half precision and in a16w8.

    python benchmarks/htp.py [--htp v68]       (a minute; needs the extra qnn)

The error is that of the whole tensor against float64; inputs are drawn from a normal distribution (positive for Div and
Sqrt). There are three forms: the native operator, the operator as `effbench.deploy.targets.qnn.htp` writes it out, and
the same graph with every operator's result rounded correctly.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper, parser
from tabulate import tabulate

from effbench.deploy import Array
from effbench.deploy.graph import onnx_file
from effbench.deploy.interpreter import Interpreter
from effbench.deploy.precision.a16w8 import to_a16w8
from effbench.deploy.precision.half import to_fp16
from effbench.deploy.targets.qnn import snapdragon
from effbench.deploy.targets.qnn.htp import prepare
from effbench.deploy.targets.qnn.target import DEFAULT_HTP, compile_context

SHAPE = (1, 64, 32, 32)
OPERATORS = {
    "Gelu": "y = Gelu (x)",
    "Gelu after Conv": "c = Conv (x, w) y = Gelu (c)",
    "Sigmoid": "y = Sigmoid (x)",
    "Sigmoid after Conv": "c = Conv (x, w) y = Sigmoid (c)",
    "Silu": "s = Sigmoid (x) y = Mul (x, s)",
    "Silu after Conv": "c = Conv (x, w) s = Sigmoid (c) y = Mul (c, s)",
    "HardSwish": "y = HardSwish (x)",
    "Div": "y = Div (one, x)",
    "Sqrt": "y = Sqrt (x)",
    "Exp": "y = Exp (x)",
    "Tanh": "y = Tanh (x)",
    "Tanh after Conv": "c = Conv (x, w) y = Tanh (c)",
    "Softmax": "y = Softmax <axis = 3> (x)",
    "Elu": "y = Elu (x)",
    "Conv": "y = Conv (x, w)",
    "ReduceMean": "m = ReduceMean (x, over) y = Expand (m, size)",
    "Add": "y = Add (x, one)",
    "Mul": "y = Mul (x, x)",
    "MatMul of activations": "t = Transpose <perm = [0, 1, 3, 2]> (x) y = MatMul (x, t)",
}
POSITIVE = ("Div", "Sqrt")


def on_the_htp(model: onnx.ModelProto, x: Array, htp: str) -> Array:
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "model.onnx", Path(folder) / "out"
        out.mkdir()
        onnx.save(model, source)
        compile_context(source, out, htp)
        session = ort.InferenceSession(str(out / "model.onnx"), snapdragon.session_options(htp, {}))
        return np.asarray(session.run(None, {"x": x})[0], np.float64)


def on_both(model: onnx.ModelProto, x: Array, precision: str, htp: str) -> dict[str, Array | None]:
    """Return the HTP's outputs for a graph as it is, and for its written-out form where the two differ."""
    written = prepare(model)
    changed = len(written.graph.node) > len(model.graph.node)
    return {
        f"{precision}, native": on_the_htp(model, x, htp),
        f"{precision}, written out": on_the_htp(written, x, htp) if changed else None,
    }


def run() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--htp", default=DEFAULT_HTP, help="an architecture or chip with half precision")
    htp = options.parse_args().htp
    normal = np.random.default_rng(0).normal(size=SHAPE).astype(np.float16).astype(np.float32)
    weights = np.random.default_rng(1).normal(0, SHAPE[1] ** -0.5, (SHAPE[1], SHAPE[1], 1, 1)).astype(np.float16)
    rows = []
    for name, body in OPERATORS.items():
        x = np.abs(normal) + np.float32(0.1) if name in POSITIVE else normal
        x = x.astype(np.float16).astype(np.float32)
        size = ", ".join(map(str, SHAPE))
        head = (
            f'<ir_version: 9, opset_import: ["" : 20]> g (float[{size}] x) => (float[{size}] y) '
            "<float one = {1.0}, int64[2] over = {2, 3}, int64[4] size = {1, 64, 32, 32}>"
        )
        model = parser.parse_model(f"{head} {{ {body} }}")
        if any("w" in node.input for node in model.graph.node):
            model.graph.initializer.append(numpy_helper.from_array(weights.astype(np.float32), "w"))
        model = onnx_file.infer_shapes(model, name)
        exact = Interpreter(model).run({"x": x}, "float64")["y"]
        half, quantized = to_fp16(model), to_a16w8(model, [{"x": x}])
        outputs = {
            **on_both(half, x, "fp16", htp),
            "fp16, rounded": Interpreter(half).run({"x": x}, "half-acc32")["y"],
            **on_both(quantized, x, "a16w8", htp),
            "a16w8, rounded": Interpreter(quantized).run({"x": x})["y"],
        }
        errors = {
            label: "" if value is None else f"{np.linalg.norm(value - exact) / np.linalg.norm(exact):.1e}"
            for label, value in outputs.items()
        }
        rows.append({"operator": name, **errors})
        print(rows[-1], file=sys.stderr, flush=True)
    print(tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True))
    return 0


if __name__ == "__main__":
    sys.exit(run())
