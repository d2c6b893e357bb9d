"""Seeded partial fallbacks: does the placement report every fallback, and no false one?

    python benchmarks/fallbacks.py [--graphs 20] [--python INTERPRETER_WITH_ONNX2TF]

The graphs are chains of operators that a delegate or provider supports, with seeds among them: operators that its
documentation does not list. The seeds are counted before conversion and compared with the target's placement.

- ``litert`` on XNNPACK, if ``--python`` names an interpreter that can convert;
- ``qnn``: context binaries for the HTP of a Snapdragon, compiled offline by onnxruntime-qnn;
- ``ort`` and ``ov`` on the CPU of this machine, which support every operator: any reported fallback is false;
- a cliff: the same model at 224 and at 512 px, with a seed at 512 px only.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from effbench.deploy.targets import litert, openvino, ort
from effbench.deploy.targets.qnn import snapdragon
from effbench.deploy.targets.qnn import target as qnn

SUPPORTED = ("Relu", "Tanh", "Sigmoid", "Add", "Mul", "Neg")
SEEDS = {"CumSum": "CUMSUM", "Sign": "SIGN"}
"""Operators that the documentation of the XNNPACK delegate does not list -> their names in LiteRT."""
QNN_SEEDS = {name: name for name in ("Sinh", "Cosh", "Asinh", "Acosh", "Atanh")}
"""Operators that ONNX Runtime's documentation does not list for the QNN provider."""
HTP = "v73"


def graph(
    rng: random.Random, seed_names: dict[str, str], height: int = 16, count: int | None = None
) -> tuple[onnx.ModelProto, Counter[str]]:
    """Return a chain of 12 operators, up to 3 (or ``count``) of them seeds at random indices, and the seeds."""
    indices = set(rng.sample(range(1, 11), rng.randint(0, 3) if count is None else count))
    nodes, seeds, last = [], Counter[str](), "image"
    for index in range(12):
        output = "output" if index == 11 else f"t{index}"
        name = rng.choice(tuple(seed_names)) if index in indices else rng.choice(SUPPORTED)
        more = {"Add": ["one"], "Mul": ["one"], "CumSum": ["axis"]}.get(name, [])
        nodes.append(helper.make_node(name, [last, *more], [output], f"n{index}"))
        seeds.update([seed_names[name]] if name in seed_names else [])
        last = output
    shape = [1, 8, height, height]
    constants: dict[str, np.ndarray] = {"one": np.full(shape, 1.1, np.float32), "axis": np.array(1, np.int64)}
    chain = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    return helper.make_model(chain, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), seeds


def on_litert(model: onnx.ModelProto, folder: Path, python: str) -> Counter[str]:
    """Convert and load a model; return the operators outside XNNPACK, by type."""
    onnx.save(model, folder / "model.onnx")
    inputs = (SimpleNamespace(name="image", shape=(1, 8, 16, 16)),)
    subject = SimpleNamespace(storage_precision="fp32")
    source: Any = SimpleNamespace(path=folder / "model.onnx", inputs=inputs, subject=subject)
    litert.TARGET.convert(source, folder, {"python": python})
    outputs = (SimpleNamespace(name="output"),)
    artifact: Any = SimpleNamespace(path=folder / litert.ENTRY, outputs=outputs, subject=subject)
    with contextlib.closing(litert.TARGET.open(artifact, 1, {})) as session:
        return Counter(name.partition(" ")[0] for name in session.placement()["cpu_operators"])


def on_qnn(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """Compile a model for the HTP; return the operators left to the CPU, by type."""
    onnx.save(model, folder / "graph.onnx")
    (folder / "out").mkdir()
    placement = qnn.compile_context(folder / "graph.onnx", folder / "out", HTP)
    on_cpu = Counter(placement["operators"].get("CPU", {}))
    assert on_cpu.total() == placement.get("fallback", {}).get("CPU", 0), "the placement contradicts itself"
    return on_cpu


def on_cpu(model: onnx.ModelProto, folder: Path, target: Any) -> Counter[str]:
    """Load a model on this machine; return the fallbacks that its placement reports."""
    onnx.save(model, folder / "model.onnx")
    spec = SimpleNamespace(name="image", shape=(1, 8, 16, 16), dtype="float32")
    subject = SimpleNamespace(storage_precision="fp32", compute_precision="fp32", target=target.name)
    session = target.open(
        SimpleNamespace(
            path=folder / "model.onnx",
            inputs=(spec,),
            outputs=(SimpleNamespace(name="output"),),
            subject=subject,
            options={},
            placement={},
            name="chain",
        ),
        1,
        {},
    )
    with contextlib.closing(session):
        return Counter(session.placement().get("fallback", {}))


def score(title: str, run: Any, seed_names: dict[str, str], graphs: int, supported: bool = False) -> bool:
    """Print the detected and the false fallbacks over random graphs; with ``supported``, no seed is a fallback."""
    rng = random.Random(0)
    total = detected = false = unseeded = 0
    for index in range(graphs):
        model, seeds = graph(rng, seed_names)
        expected = Counter[str]() if supported else seeds
        with tempfile.TemporaryDirectory() as folder:
            reported = run(model, Path(folder))
        total, unseeded = total + expected.total(), unseeded + (not seeds)
        detected, false = detected + (reported & expected).total(), false + (reported - expected).total()
        if reported != expected:
            print(f"{title}, graph {index}: seeded {dict(expected)}, reported {dict(reported)}")
    print(f"| {title} | {graphs} ({unseeded} without a seed) | {detected}/{total} | {false} |", flush=True)
    return detected == total and not false


def cliff(graphs: int) -> bool:
    """Print whether a fallback that a model has at 512 px alone is reported there, and not at 224 px."""
    rng, detected, false = random.Random(1), 0, 0
    for _ in range(graphs):
        for size, count in ((224, 0), (512, 1)):
            model, seeds = graph(rng, QNN_SEEDS, size // 8, count)
            with tempfile.TemporaryDirectory() as folder:
                reported = on_qnn(model, Path(folder))
            detected, false = detected + (count == 1 and reported == seeds), false + (reported - seeds).total()
    print(f"| cliff at 512 px, absent at 224 px (qnn) | {graphs} pairs | {detected}/{graphs} | {false} |", flush=True)
    return detected == graphs and not false


def main() -> None:
    """Count detected and false fallbacks; exit with 1 if one was missed or false."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", help="an interpreter with onnx2tf; without it, litert is skipped")
    parser.add_argument("--graphs", type=int, default=20)
    options = parser.parse_args()
    print("| runtime | graphs | seeded fallbacks detected | false |\n|---|---|---|---|")
    passed = []
    if options.python:
        passed.append(score("litert on XNNPACK", partial(on_litert, python=options.python), SEEDS, options.graphs))
    if snapdragon.missing() is None:
        passed.append(score(f"qnn, HTP {HTP}", on_qnn, QNN_SEEDS, options.graphs))
        passed.append(cliff(max(1, options.graphs // 4)))
    for target in (ort.TARGET, openvino.TARGET):
        if target.available() is None:
            title = f"{target.name} on the CPU, which supports all"
            passed.append(score(title, partial(on_cpu, target=target), QNN_SEEDS, options.graphs, supported=True))
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
