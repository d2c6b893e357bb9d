"""Seeded partial fallbacks: is every one found, and is none invented?

``python benchmarks/fallbacks.py --python INTERPRETER_WITH_ONNX2TF [--graphs 20]``

Chains of operators that XNNPACK takes, with operators among them that are not in its documented list. The seeds are
counted before conversion; what the placement of target ``litert`` tells is held against them.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from effbench.deploy.targets import litert

TAKEN = ("Relu", "Tanh", "Sigmoid", "Add", "Mul", "Neg")
SEEDS = {"CumSum": "CUMSUM", "Sign": "SIGN"}
"""Operators that the documentation of the XNNPACK delegate does not list -> their names in LiteRT."""


def graph(dice: random.Random) -> tuple[onnx.ModelProto, Counter[str]]:
    """Return a chain of 12 operators, up to 3 of them seeds at random places, and the seeds."""
    places = set(dice.sample(range(1, 11), dice.randint(0, 3)))
    nodes, seeds, last = [], Counter[str](), "image"
    for index in range(12):
        output = "output" if index == 11 else f"t{index}"
        name = dice.choice(tuple(SEEDS)) if index in places else dice.choice(TAKEN)
        more = {"Add": ["one"], "Mul": ["one"], "CumSum": ["axis"]}.get(name, [])
        nodes.append(helper.make_node(name, [last, *more], [output], f"n{index}"))
        seeds.update([SEEDS[name]] if name in SEEDS else [])
        last = output
    constants = {"one": np.full((1, 8, 16, 16), 1.1, np.float32), "axis": np.array(1, np.int64)}
    shape = [1, 8, 16, 16]
    made = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), seeds


def told(model: onnx.ModelProto, python: str, folder: Path) -> dict[str, Any]:
    """Convert a model, load it, and return its placement."""
    onnx.save(model, folder / "model.onnx")
    inputs = (SimpleNamespace(name="image", shape=(1, 8, 16, 16)),)
    subject = SimpleNamespace(storage_precision="fp32")
    source: Any = SimpleNamespace(path=folder / "model.onnx", inputs=inputs, subject=subject)
    litert.TARGET.convert(source, folder, {"python": python})
    outputs = (SimpleNamespace(name="output"),)
    artifact: Any = SimpleNamespace(path=folder / litert.ENTRY, outputs=outputs, subject=subject)
    session = litert.TARGET.open(artifact, 1, {})
    try:
        return session.placement()
    finally:
        session.close()


def main() -> None:
    """Count found and invented fallbacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", required=True)
    parser.add_argument("--graphs", type=int, default=20)
    asked = parser.parse_args()
    dice = random.Random(0)
    seeded = found = invented = free = 0
    for index in range(asked.graphs):
        model, seeds = graph(dice)
        with tempfile.TemporaryDirectory() as folder:
            placement = told(model, asked.python, Path(folder))
        left = Counter(name.partition(" ")[0] for name in placement["cpu_operators"])
        seeded, free = seeded + seeds.total(), free + (not seeds)
        found += (left & seeds).total()
        invented += (left - seeds).total()
        print(f"graph {index}: {placement['partitions']} partitions", flush=True)
        if left != seeds:
            print(f"graph {index}: seeded {dict(seeds)}, told {dict(left)}")
    print(f"litert on XNNPACK: {asked.graphs} graphs ({free} without a seed)")
    print(f"seeded fallbacks found {found}/{seeded}, invented {invented}")


if __name__ == "__main__":
    main()
