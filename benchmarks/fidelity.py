"""Is every model still the same model on every target? Exports all in one precision and prints a table.

    python benchmarks/fidelity.py [MODEL ...] [--precision fp16] [--target ort ...] [--res 224] [--out DIR]

Nothing is measured, so it may run on a busy machine. What is exported already is not made again. A figure with an
asterisk misses its limit (`deploy.artifact.fidelity.LIMITS`); of Core ML it is the worse of both ways to add up.
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
    parser.add_argument("models", nargs="*", help="all where none is named")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--target", action="append", dest="targets")
    parser.add_argument("--res", type=int, default=224)
    parser.add_argument("--out", default="runs/fidelity")
    chosen = parser.parse_args()
    targets = chosen.targets or list(TARGETS)
    cells: list[Cell] = []
    for name in chosen.models or models.models():
        made = export(
            name,
            targets,
            [chosen.res],
            precision=chosen.precision,
            images="synthetic" if chosen.precision in CALIBRATED else None,
            out=Path(chosen.out),
        )
        cells += made
        print(*(_line(cell) for cell in made), sep="\n", file=sys.stderr, flush=True)
    print(table(cells, targets, chosen.precision))
    return 0 if all(cell.status == "ok" for cell in cells) else 1


def table(cells: list[Cell], targets: list[str], precision: str) -> str:
    by_model: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        by_model.setdefault(cell.model, {})[cell.target] = cell
    rows = [[name, *(_figure(found.get(target)) for target in targets)] for name, found in by_model.items()]
    passed = Counter(cell.target for cell in cells if cell.status == "ok" and cell.fidelity and cell.fidelity.passed)
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
    islands = f", {len(found)} islands" if (found := cell.placement.get("fp32_islands")) else ""
    return f"{_value(cell.precision, cell.fidelity)}{'' if cell.fidelity.passed else ' *'}{islands}"


def _value(precision: str, found: Fidelity) -> str:
    if precision == "fp32":
        return f"{found.max_error:.1e}"
    return f"{found.p99_error:.4f} ({1 - found.cosine:.1e})" if precision == "fp16" else f"{found.snr_db}"


def _line(cell: Cell) -> str:
    return f"{cell.model} {cell.target} {cell.status} {_figure(cell)} {cell.seconds:.0f} s {cell.reason}"


if __name__ == "__main__":
    sys.exit(main())
