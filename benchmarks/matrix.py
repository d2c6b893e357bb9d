"""Write docs/matrix.md from what a sweep of examples/matrix.toml left: ``python benchmarks/matrix.py FOLDER``.

The folder is what ``effbench sweep examples/matrix.toml --no-profile --out FOLDER`` wrote; cells that did not run yet
with this code and these libraries say so. The page holds how many cells are ok, the signal to quantization noise, and
every cell with its reason.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from itertools import product
from pathlib import Path

import tomllib

from effbench.api import jobs
from effbench.api.sweep import split
from effbench.reports.matrix import Matrix, place, render
from effbench.schema import Cell

ROOT = Path(__file__).resolve().parent.parent
PAGE, SUITE = ROOT / "docs" / "matrix.md", ROOT / "examples" / "matrix.toml"
LIBRARIES = ("torch", "timm", "onnx", "onnxruntime", "openvino", "coremltools", "onnxruntime-qnn", "nncf")
HEAD = """# Export matrix

What `effbench sweep examples/matrix.toml --no-profile` left on {day} on Linux x86-64 without a GPU ({versions}).
Weights are untrained and seeded; ReGLA is a reconstruction from the abstract. int8 and a16w8 are calibrated with
synthetic pictures. Nothing here is a latency. `coreml` is judged by effbench's evaluator and `qnn` on the simulator of
onnxruntime-qnn (four pictures, two at 512 px), both *simulated*; `trt` is a checked bundle, `trt-rtx` an engine that
was built and, for want of a GPU, not run. {remark}

## How many are ok

Of the project's {ours} backbones and timm's {theirs} models at 224 and 512 px. A cell counts as soon as it is there,
whatever kept it from being ok.

{summary}

## Signal to quantization noise of int8

In dB, on six scenes that calibration has not seen; a dash where no artifact could be run here.

{noise}

## Every cell

{cells}"""


def counted(cells: Sequence[Cell], ours: bool, precision: str, target: str) -> str:
    """Return how many of the cells of a target and a precision are ok."""
    some = [c for c in cells if (c.precision, c.target, not c.model.startswith("timm/")) == (precision, target, ours)]
    return f"{sum(c.status == 'ok' for c in some)} of {len(some)}" if some else "-"


def noise(cells: Sequence[Cell], targets: Sequence[str]) -> list[list[str]]:
    """Return a line per model and resolution with the noise that int8 leaves on each target."""
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for cell in cells:
        if cell.precision == "int8" and cell.fidelity and cell.fidelity.snr_db is not None:
            lines.setdefault(place(cell)[:2], {})[cell.target] = f"{cell.fidelity.snr_db:.1f}"
    return [[*key, *(found.get(target, "-") for target in targets)] for key, found in lines.items()]


def page(folder: Path, remark: str) -> str:
    """Return the page as Markdown."""
    from tabulate import tabulate

    suite = tomllib.loads(SUITE.read_text())["suite"]
    names = ("models", "resolutions", "precisions", "targets")
    wanted = [(m, str(r), p, t) for m, r, p, t in product(*(suite[name] for name in names))]
    planned = jobs.plan(
        *(suite[name] for name in ("models", "targets", "resolutions", "precisions")),
        calibration=suite["calibration"],
        allow_fallback=False,
        out=str(folder.resolve()),
    )
    recorded, _ = split(planned, jobs.Journal(folder).read())
    found = {place(cell): cell for cell in recorded.values()}
    cells = [found[key] for key in wanted if key in found]
    kinds = [(precision, ours) for precision in suite["precisions"] for ours in (True, False)]
    summary = [
        [target, *(counted(cells, ours, precision, target) for precision, ours in kinds)] for target in suite["targets"]
    ]
    heads = ["target", *(f"{precision} {'ours' if ours else 'timm'}" for precision, ours in kinds)]
    shown = [
        target
        for target in suite["targets"]
        if any(c.target == target and c.precision == "int8" and c.fidelity for c in cells)
    ]
    theirs = sum(name.startswith("timm/") for name in suite["models"])
    return HEAD.format(
        day=date.today().isoformat(),
        remark=remark,
        versions=", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        ours=len(suite["models"]) - theirs,
        theirs=theirs,
        summary=tabulate(summary, heads, tablefmt="pipe", disable_numparse=True),
        noise=tabulate(noise(cells, shown), ["model", "px", *shown], tablefmt="pipe", disable_numparse=True),
        cells=render(Matrix(cells, [key for key in wanted if key not in found]), "markdown"),
    )


def main() -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what the sweep wrote")
    parser.add_argument("--remark", default="", help="a sentence on how the sweep was run")
    args = parser.parse_args()
    PAGE.write_text(page(args.folder, args.remark))
    print(f"{PAGE.relative_to(ROOT)}: {PAGE.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
