"""How many times the model's own rounding do runtimes differ by in fp32? Sets `deploy.artifact.limits.ROUNDING_FACTOR`.

    python benchmarks/rounding_factor.py HOME [--images 9]       (a minute per model on 2 cores)

HOME holds exported artifacts (`effbench export MODEL -t ort -t ov -t coreml --precision fp32 --out HOME`). The model's
own rounding is that of effbench's interpreter, fp32 against float64, by channel; the error of a runtime is the largest
of a channel, against the reference in torch.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from tabulate import tabulate

from effbench import deploy
from effbench.deploy.artifact import bundle, feeding, fidelity
from effbench.deploy.artifact.judge import own_rounding
from effbench.deploy.artifact.output_errors import OutputErrors
from effbench.deploy.graph import onnx_file
from effbench.deploy.interpreter import Interpreter
from effbench.schema import Artifact
from effbench.threads import one_thread


def rows(graph: Artifact, artifacts: list[Artifact], count: int) -> list[list[str]]:
    """Return a row per artifact of a graph: its largest error, and that error over the model's own rounding."""
    samples, expected = fidelity.load_reference(graph.folder / bundle.REFERENCE)[:2]
    batch = graph.fixed_batch or 1
    feeds = feeding.feeds(feeding.take(samples, slice(count)), batch, graph.inputs, graph.preprocessing)
    expected = {name: value[:count] for name, value in expected.items()}
    interpreter = Interpreter(onnx_file.load(graph.path))
    with one_thread():
        single = fidelity.run_all(interpreter.run, feeds, batch)
        collected = [interpreter.run(feed, "float64") for feed in feeds]
    double = {name: np.concatenate([one[name] for one in collected]) for name in collected[0]}
    own = own_rounding(single, double)
    table = []
    for artifact in artifacts:
        target = deploy.get(artifact.subject.target)
        for options in target.checks:
            session = target.open(artifact, 1, {**artifact.options, **options})
            outputs = fidelity.run_all(session, feeds, batch)
            session.close()
            for (name, want), have in zip(expected.items(), outputs.values(), strict=True):
                errors = OutputErrors(name, "features", want, (want, fidelity.NATURAL), "fp32").errors(have)
                rounding = np.maximum(own[name], np.sqrt(np.mean(own[name] ** 2)))
                by_channel = errors.max(axis=(0, 2))
                ratio = float((by_channel / rounding).max())
                kind = " ".join([artifact.subject.target, *options.values()])
                table.append(
                    [
                        graph.subject.model,
                        kind,
                        name,
                        f"{by_channel.max():.1e}",
                        f"{rounding.max():.1e}",
                        f"{ratio:.1f}",
                    ]
                )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("--images", type=int, default=9)
    options = parser.parse_args()
    artifacts = [item for item in bundle.artifacts(options.home) if item.subject.storage_precision == "fp32"]
    table = []
    for graph in (item for item in artifacts if item.subject.target == "onnx"):
        translations = [
            item
            for item in artifacts
            if item.graph_digest == graph.digest and item.subject.target not in ("onnx", "torch")
        ]
        table += rows(graph, translations, options.images)
        print(graph.subject.model, file=sys.stderr, flush=True)
    header = ("model", "target", "output", "largest error, of the spread", "own rounding", "error / own rounding")
    print(tabulate(table, header, tablefmt="pipe", disable_numparse=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
