"""Is every registered model still the same model on every target? Exports all in fp32 and prints a table.

``python benchmarks/fidelity.py [MODEL ...] [--target ort ...] [--res 224] [--out DIR]``; nothing is measured, so it may
run on a busy machine. What is exported already is not made again.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from tabulate import tabulate

from effbench import models
from effbench.api.export import export
from effbench.schema import Cell

TARGETS = ("ort", "ov", "coreml")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="all where none is named")
    parser.add_argument("--target", action="append", dest="targets")
    parser.add_argument("--res", type=int, default=224)
    parser.add_argument("--out", default="runs/fidelity")
    chosen = parser.parse_args()
    targets = chosen.targets or list(TARGETS)
    cells: list[Cell] = []
    for name in chosen.models or models.models():
        made = export(name, targets, [chosen.res], precision="fp32", out=Path(chosen.out))
        cells += made
        print(*(_line(cell) for cell in made), sep="\n", file=sys.stderr, flush=True)
    print(table(cells, targets))
    return 0 if all(cell.status == "ok" for cell in cells) else 1


def table(cells: list[Cell], targets: list[str]) -> str:
    by_model: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        by_model.setdefault(cell.model, {})[cell.target] = cell
    rows = [[name, *(_error(found.get(target)) for target in targets)] for name, found in by_model.items()]
    passed = Counter(cell.target for cell in cells if cell.status == "ok" and cell.fidelity and cell.fidelity.passed)
    rows.append(["passed", *(f"{passed[target]} of {len(by_model)}" for target in targets)])
    header = ("model", *(f"{target}: max error, of the spread" for target in targets))
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def _error(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    return cell.status if cell.fidelity is None else f"{cell.fidelity.max_error:.1e}"


def _line(cell: Cell) -> str:
    return f"{cell.model} {cell.target} {cell.status} {_error(cell)} {cell.seconds:.0f} s {cell.reason}"


if __name__ == "__main__":
    sys.exit(main())
