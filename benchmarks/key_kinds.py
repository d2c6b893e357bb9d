"""Which changes of what a model is made of are seen by `export` and by `gate`, and which unrelated ones are not.

    python benchmarks/key_kinds.py [--no-gate]       (20 minutes on 2 cores)

One factory depends on everything that a factory can depend on (tests/support/dependency_kinds.py). For each kind of
change the project is put back, exported (cached), changed and exported again. *Seen* by `export`: the graph is built
again and, if the network changed, its artifact has another key. *Seen* by `gate`: the changed working tree is not
identical to its base. An unrelated change must build nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from PIL import Image
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from dependency_kinds import Project, kinds, unrelated, write_project
from small_graphs import SIDE, chain

from effbench import deploy

FACTORY, SIZE = "tiny.net:net", "32"
WHO = {f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


@dataclass
class Bench:
    """A project, its pristine copy, and the home that all exports share."""

    project: Project
    pristine: Path
    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def restore(self) -> None:
        """Put the project and the folders beside it back as they were."""
        shutil.rmtree(self.project.root.parent)
        shutil.copytree(self.pristine, self.project.root.parent, symlinks=True)
        self.project.environment = dict(self.environment)

    def call(self, *arguments: str) -> tuple[Any, str]:
        """Run effbench in the project; returns its JSON and its progress."""
        command = [sys.executable, "-m", "effbench.cli", *arguments, "--out", str(self.home), "--json"]
        environment = self.project.variables(os.environ) | {"EFFBENCH_PROGRESS": "1"}
        result = subprocess.run(
            command, cwd=self.project.root, env=environment, capture_output=True, text=True, check=False
        )
        if not result.stdout:
            raise SystemExit(f"{' '.join(command)}\n{result.stderr}")
        return json.loads(result.stdout)["data"], result.stderr

    def export(self, *arguments: str) -> tuple[bool, str]:
        """Export; returns whether a graph was built, and the artifact's folder."""
        data, progress = self.call("export", *arguments, "--no-verify")
        (cell,) = data if isinstance(data, list) else data["cells"]
        if not cell["artifact"]:
            raise SystemExit(f"{arguments}: {cell['reason']}")
        return "to ONNX" in progress, cell["artifact"]


def export_rows(bench: Bench) -> list[tuple[str, bool]]:
    """Return each kind of change with whether `export` sees it."""
    arguments = (FACTORY, "--target", "ort", "--res", SIZE)
    rows = []
    for kind in kinds():
        bench.restore()
        bench.export(*arguments)
        built, before = bench.export(*arguments)
        if built:
            raise SystemExit(f"{kind.name}: an unchanged project was built again")
        kind.change(bench.project)
        built, after = bench.export(*arguments)
        rows.append((kind.name, built and (before != after) == kind.network))
        print(rows[-1], file=sys.stderr)
    return rows


def unrelated_rows(bench: Bench) -> list[tuple[str, bool]]:
    """Return each unrelated change with whether the next export builds nothing."""
    arguments = (FACTORY, "--target", "ort", "--res", SIZE)
    rows = []
    for name, change in unrelated().items():
        bench.restore()
        _, before = bench.export(*arguments)
        change(bench.project)
        built, after = bench.export(*arguments)
        rows.append((name, not built and before == after))
        print(rows[-1], file=sys.stderr)
    return rows


def option_rows(bench: Bench) -> list[tuple[str, bool]]:
    """Return changes of options and .onnx files with whether `export` makes another artifact."""
    bench.restore()
    root = bench.project.root
    model = root / "net.onnx"
    options: dict[str, Any] = {"save_as_external_data": True, "size_threshold": 0}

    def weights(scale: float) -> None:
        from safetensors.numpy import save_file

        shapes = {"body.0": (8, 3, 3, 3), "extra": (8, 8, 3, 3), "head.2": (10, 8)}
        tensors = {f"{name}.weight": np.full(shape, scale, np.float32) for name, shape in shapes.items()}
        biases = {f"{name}.bias": np.zeros(shape[0], np.float32) for name, shape in shapes.items()}
        save_file({**tensors, **biases}, root / "w.safetensors")

    def image(value: int) -> None:
        (root / "images").mkdir(exist_ok=True)
        Image.fromarray(np.full((40, 40, 3), value, np.uint8)).save(root / "images" / "a.png")

    def text(scale: float) -> None:
        (root / "labels.txt").write_text("".join(f"{index} {scale}\n" for index in range(10)))

    def data(location: str) -> Callable[[float], None]:
        def write(scale: float) -> None:
            (scale * np.fromfile(root / location, np.float32)).tofile(root / location)

        return write

    def inside(scale: float) -> None:
        graph = chain(2)
        for tensor in graph.graph.initializer:
            tensor.CopyFrom(numpy_helper.from_array(scale * numpy_helper.to_array(tensor), tensor.name))
        onnx.save(graph, model)

    onnx.save(chain(2), root / "outside.onnx", location="any name", **options)
    constant = chain(2)
    weight = constant.graph.initializer.pop()
    constant.graph.node.insert(0, helper.make_node("Constant", [], [weight.name], value=weight))
    onnx.save(constant, root / "constant.onnx", location="blob", convert_attribute=True, **options)
    inside(1)
    factory = (FACTORY, "--target", "ort", "--res", SIZE)
    of_file = ("--target", "ort", "--res", str(SIDE))
    cases: list[tuple[str, Sequence[str], Callable[[float], None]]] = [
        ("the content of --weights", (*factory, "--weights", "w.safetensors"), weights),
        ("an .onnx file", (str(model), *of_file), inside),
        ("external data of any name", (str(root / "outside.onnx"), *of_file), data("any name")),
        ("external data of a Constant node", (str(root / "constant.onnx"), *of_file), data("blob")),
        (
            "an image of --images",
            (*factory, "--precision", "int8", "--images", "images"),
            lambda scale: image(int(100 * scale)),
        ),
    ]
    if deploy.get("coreml").available() is None:
        labels = (FACTORY, "--target", "coreml", "--res", SIZE, "--set", "labels=labels.txt")
        cases.append(("the content of --set labels=FILE", labels, text))
    rows = []
    for name, arguments, change in cases:
        change(1)
        _, before = bench.export(*arguments)
        change(2)
        _, after = bench.export(*arguments)
        rows.append((name, before != after))
        print(rows[-1], file=sys.stderr)
    for name, option in {"--seed": ("--seed", "1"), "--batch": ("--batch", "2")}.items():
        rows.append((name, bench.export(*factory)[1] != bench.export(*factory, *option)[1]))
    rows.append(("--res", bench.export(*factory)[1] != bench.export(*factory[:-1], "40")[1]))
    torch = (FACTORY, "--target", "torch", "--res", SIZE)
    rows.append(("--set of a target", bench.export(*torch)[1] != bench.export(*torch, "--set", "mode=compile")[1]))
    return rows


def gate_rows(bench: Bench) -> list[tuple[str, bool]]:
    """Return each kind of change of a tree with whether `gate` sees it."""
    root = bench.project.root
    bench.restore()
    shutil.rmtree(root / ".git")
    (root / ".gitignore").write_text("__pycache__/\n")
    for command in (("init", "--quiet"), ("add", "."), ("commit", "--quiet", "--message", "base")):
        subprocess.run(["git", *command], cwd=root, env={**os.environ, **WHO}, check=True)
    shutil.rmtree(bench.pristine)
    shutil.copytree(root.parent, bench.pristine, symlinks=True)
    rows = [("nothing", _gated(bench))]
    for kind in kinds():
        if kind.in_tree and kind.network:
            bench.restore()
            kind.change(bench.project)
            rows.append((kind.name, not _gated(bench)))
            print(rows[-1], file=sys.stderr)
    return rows


def _gated(bench: Bench) -> bool:
    """Return whether the gate calls the working tree identical to its base."""
    data, _ = bench.call("gate", FACTORY, "--base", "HEAD", "--target", "ort", "--res", SIZE, "--budget", "0.1")
    (verdict,) = data["verdicts"]
    if verdict["outcome"] == "failed":
        raise SystemExit(verdict["reason"])
    return bool(verdict["identical"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-gate", action="store_true", help="only export")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        project = write_project(place / "work" / "project", torch=True)
        pristine = Path(shutil.copytree(place / "work", place / "pristine", symlinks=True))
        bench = Bench(project, pristine, place / "home", dict(project.environment))
        parts = {"export": export_rows}
        parts |= {} if options.no_gate else {"gate": gate_rows}
        parts |= {"unrelated, nothing built": unrelated_rows, "options and .onnx": option_rows}
        for title, rows_of in parts.items():
            rows = rows_of(bench)
            print(f"\n{title}: {sum(right for _, right in rows)} of {len(rows)}")
            print(tabulate([(name, "yes" if right else "NO") for name, right in rows], ("change", "right")), flush=True)


if __name__ == "__main__":
    main()
