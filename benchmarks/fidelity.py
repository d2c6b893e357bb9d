"""Is every model still the same model on every target? Export all models in one precision and print a table.

    python benchmarks/fidelity.py [MODEL ...] [--precision fp16] [--target ort ...] [--res 224] [--out DIR]

No latency is measured, so the machine may be busy. Existing artifacts are reused. A figure with an asterisk misses its
limit (`deploy.artifact.limits.LIMITS`); for Core ML it is the worse of the evaluator's two ways of accumulation.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from tabulate import tabulate

from effbench import models
from effbench.api.export.run import export
from effbench.schema import CALIBRATED, PRECISIONS, Cell, Fidelity

TARGETS = ("ort", "ov", "coreml")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="default: all")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--target", action="append", dest="targets", help=f"repeatable; default: {', '.join(TARGETS)}")
    parser.add_argument("--res", type=int, default=224)
    parser.add_argument("--out", type=Path, default=Path("runs/fidelity"))
    options = parser.parse_args()
    targets = options.targets or list(TARGETS)
    cells: list[Cell] = []
    for name in options.models or models.models():
        exported = export(
            name,
            targets,
            [options.res],
            precision=options.precision,
            images="synthetic" if options.precision in CALIBRATED else None,
            out=options.out,
        )
        cells += exported
        print(*(_line(cell) for cell in exported), sep="\n", file=sys.stderr, flush=True)
    print(table(cells, targets, options.precision))
    return 0 if all(cell.has_artifact for cell in cells) else 1


def table(cells: list[Cell], targets: list[str], precision: str) -> str:
    by_model: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        by_model.setdefault(cell.model, {})[cell.target] = cell
    rows = [[name, *(_figure(by_target.get(target)) for target in targets)] for name, by_target in by_model.items()]
    compared = [cell for cell in cells if cell.has_artifact and cell.fidelity]
    passed = Counter(cell.target for cell in compared if cell.fidelity and cell.fidelity.passed)
    rows.append(["passed", *(f"{passed[target]} of {len(by_model)}" for target in targets)])
    header = ("model", *(f"{target}: {FIGURES[precision]}" for target in targets))
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


FIGURES = {
    "fp32": "max error, of the spread",
    "fp16": "p99 error, of the spread (1 - cosine)",
    "int8": "signal to noise, dB",
    "a16w8": "signal to noise, dB",
}


def _figure(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    if cell.fidelity is None:
        return cell.status
    islands = f", {len(nodes)} islands" if (nodes := cell.placement.get("fp32_islands")) else ""
    return f"{_value(cell.precision, cell.fidelity)}{'' if cell.fidelity.passed else ' *'}{islands}"


def _value(precision: str, fidelity: Fidelity) -> str:
    if precision == "fp32":
        return f"{fidelity.max_error:.1e}"
    return f"{fidelity.p99_error:.4f} ({1 - fidelity.cosine:.1e})" if precision == "fp16" else f"{fidelity.snr_db}"


def _line(cell: Cell) -> str:
    return f"{cell.model} {cell.target} {cell.status} {_figure(cell)} {cell.seconds:.0f} s {cell.reason}"


if __name__ == "__main__":
    sys.exit(main())
