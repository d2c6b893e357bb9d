"""Seeded partial fallbacks: is every one found, and is none invented?

``python benchmarks/fallbacks.py [--graphs 20] [--python INTERPRETER_WITH_ONNX2TF]``

Chains of operators that a delegate or provider takes, with operators among them that its documentation does not list.
The seeds are counted before conversion; what the placement of the target tells is held against them.

- ``litert`` on XNNPACK, where ``--python`` names an interpreter that can convert;
- ``qnn``: context binaries for the HTP of a Snapdragon, compiled offline by onnxruntime-qnn;
- ``ort`` and ``ov`` on the CPU of this machine, which take everything: nothing may be invented;
- a cliff: the same model at 224 and at 512 px, whose graph holds a seed at 512 alone.
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

TAKEN = ("Relu", "Tanh", "Sigmoid", "Add", "Mul", "Neg")
SEEDS = {"CumSum": "CUMSUM", "Sign": "SIGN"}
"""Operators that the documentation of the XNNPACK delegate does not list -> their names in LiteRT."""
QNN_SEEDS = {name: name for name in ("Sinh", "Cosh", "Asinh", "Acosh", "Atanh")}
"""Operators that ONNX Runtime's list for the QNN provider does not hold."""
HTP = "v73"


def graph(
    dice: random.Random, seeds_of: dict[str, str], side: int = 16, number: int | None = None
) -> tuple[onnx.ModelProto, Counter[str]]:
    """Return a chain of 12 operators, up to 3 of them (or ``number``) seeds at random places, and the seeds."""
    places = set(dice.sample(range(1, 11), dice.randint(0, 3) if number is None else number))
    nodes, seeds, last = [], Counter[str](), "image"
    for index in range(12):
        output = "output" if index == 11 else f"t{index}"
        name = dice.choice(tuple(seeds_of)) if index in places else dice.choice(TAKEN)
        more = {"Add": ["one"], "Mul": ["one"], "CumSum": ["axis"]}.get(name, [])
        nodes.append(helper.make_node(name, [last, *more], [output], f"n{index}"))
        seeds.update([seeds_of[name]] if name in seeds_of else [])
        last = output
    constants = {"one": np.full((1, 8, side, side), 1.1, np.float32), "axis": np.array(1, np.int64)}
    shape = [1, 8, side, side]
    made = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), seeds


def on_litert(model: onnx.ModelProto, folder: Path, python: str) -> Counter[str]:
    """Convert and load a model; return the operators that XNNPACK left, by type."""
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
    (folder / "made").mkdir()
    told = qnn.compile_context(folder / "graph.onnx", folder / "made", HTP)
    left = Counter(told["operators"].get("CPU", {}))
    assert left.total() == told.get("fallback", {}).get("CPU", 0), "two words for one fallback"
    return left


def on_cpu(model: onnx.ModelProto, folder: Path, target: Any) -> Counter[str]:
    """Load a model on this machine; return how many operators are told to be elsewhere."""
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


def score(title: str, run: Any, seeds_of: dict[str, str], graphs: int, counts: bool = True) -> bool:
    """Print what was found and invented over random graphs; with ``counts`` off, seeds are no fallbacks."""
    dice = random.Random(0)
    seeded = found = invented = free = 0
    for index in range(graphs):
        model, seeds = graph(dice, seeds_of)
        wanted = seeds if counts else Counter()
        with tempfile.TemporaryDirectory() as folder:
            left = run(model, Path(folder))
        seeded, free = seeded + wanted.total(), free + (not seeds)
        found, invented = found + (left & wanted).total(), invented + (left - wanted).total()
        if left != wanted:
            print(f"{title}, graph {index}: seeded {dict(wanted)}, told {dict(left)}")
    print(f"| {title} | {graphs} ({free} without a seed) | {found}/{seeded} | {invented} |", flush=True)
    return found == seeded and not invented


def cliff(graphs: int) -> bool:
    """Print whether a fallback that a model has at 512 px alone is told there, and not at 224 px."""
    dice, seen, invented = random.Random(1), 0, 0
    for _ in range(graphs):
        for side, number in ((224, 0), (512, 1)):
            model, seeds = graph(dice, QNN_SEEDS, side // 8, number)
            with tempfile.TemporaryDirectory() as folder:
                left = on_qnn(model, Path(folder))
            seen, invented = seen + (number == 1 and left == seeds), invented + (left - seeds).total()
    print(f"| cliff at 512 px, absent at 224 px (qnn) | {graphs} pairs | {seen}/{graphs} | {invented} |", flush=True)
    return seen == graphs and not invented


def main() -> None:
    """Count found and invented fallbacks; ends with 1 where one was missed or invented."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", help="An interpreter with onnx2tf; without it litert is left out.")
    parser.add_argument("--graphs", type=int, default=20)
    asked = parser.parse_args()
    print("| where | graphs | seeded fallbacks found | invented |\n|---|---|---|---|")
    good = []
    if asked.python:
        good.append(score("litert on XNNPACK", partial(on_litert, python=asked.python), SEEDS, asked.graphs))
    if snapdragon.missing() is None:
        good += [score("qnn, HTP " + HTP, on_qnn, QNN_SEEDS, asked.graphs), cliff(max(1, asked.graphs // 4))]
    for target in (ort.TARGET, openvino.TARGET):
        if target.available() is None:
            where = f"{target.name} on the CPU, which takes all"
            good.append(score(where, partial(on_cpu, target=target), QNN_SEEDS, asked.graphs, counts=False))
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
