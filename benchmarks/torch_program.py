"""Time the program of a torch artifact against the module that it was exported from, in pairs of inferences.

python benchmarks/torch_program.py [MODEL ...]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

MODELS = ("regla_t", "iformer_t", "deit_t", "aft_conv_t_h32", "lambda_resnet26", "regla_m", "iformer_m")
SIZE, WARMUP, PAIRS = (224, 224), 5, 25


def row(name: str) -> list[str]:
    """Return a model's line: operators, largest difference, both latencies, and the median of their ratios."""
    import torch

    from effbench import models
    from effbench.deploy.graph import from_torch, torch_program
    from effbench.models.build import build
    from effbench.schema import Weights

    torch.set_num_threads(1)
    backbone = models.get(name)
    module = build(backbone, Weights())
    exported = from_torch.export(module, from_torch.image_inputs(backbone.in_channels, SIZE, 1), 1)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        torch_program.save(exported.program, Path(folder))
        program = torch_program.Program(Path(folder))
        image = torch.randn(1, backbone.in_channels, *SIZE)
        difference = float((module(image) - program(image)[0]).abs().max())
        times = []
        for _ in range(WARMUP + PAIRS):
            start = time.perf_counter()
            module(image)
            middle = time.perf_counter()
            program(image)
            times.append((middle - start, time.perf_counter() - middle))
    pairs = np.array(times[WARMUP:])
    medians = [f"{value * 1e3:.2f}" for value in np.median(pairs, axis=0)]
    ratio = float(np.median(pairs[:, 1] / pairs[:, 0]))
    return [name, str(program.operators), f"{difference:.0e}", *medians, f"{ratio:.3f}"]


def main() -> None:
    """Print the table."""
    from tabulate import tabulate

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    rows = [row(name) for name in parser.parse_args().models]
    header = ["model", "operators", "difference", "module ms", "program ms", "program/module"]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
