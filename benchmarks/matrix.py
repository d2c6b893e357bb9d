"""Write docs/generated/matrix.md from a sweep of examples/matrix.toml: ``python benchmarks/matrix.py FOLDER``.

The folder is what ``effbench sweep examples/matrix.toml --no-profile --out FOLDER`` wrote; cells that did not run yet
with this code and these libraries say so. The page holds how many cells are ok, the signal to quantization noise, and
every cell with its reason. ``--keep`` puts the cells of the folder into the page as it stands, and leaves the others;
the remark then has to say which ran when.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from datetime import date
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import tomllib

from effbench.api.sweep import jobs
from effbench.api.sweep.run import split
from effbench.reports.matrix import NOT_RUN, CellKey, Matrix, cell_key, render
from effbench.schema import CALIBRATED, Cell, Fidelity, InputShapes, Proof, Status

ROOT = Path(__file__).resolve().parent.parent
PAGE, SUITE = ROOT / "docs" / "generated" / "matrix.md", ROOT / "examples" / "matrix.toml"
LIBRARIES = ("torch", "timm", "onnx", "onnxruntime", "openvino", "coremltools", "onnxruntime-qnn", "nncf")
HEAD = """# Export matrix

What `effbench sweep examples/matrix.toml --no-profile` left by {day} on Linux x86-64 without a GPU ({versions}).
Weights are untrained and seeded; ReGLA is a reconstruction from the abstract. int8 and a16w8 are calibrated with
synthetic images. Nothing here is a latency. `coreml` is judged by effbench's evaluator and `qnn` on the simulator of
onnxruntime-qnn (four images, two at 512 px), both *simulated*; `trt` is a checked bundle, `trt-rtx` an engine that
was built and, for want of a GPU, not run. {remark}

## How many are ok

Of the project's {ours} backbones and timm's {theirs} models at 224 and 512 px. A cell counts as soon as it is there,
whatever kept it from being ok.

{summary}

## Signal to quantization noise

In dB, on scenes that calibration has not seen: six, on `qnn` as above; a dash where no artifact could be run here.

{noise}

## Every cell

{cells}"""


def counted(cells: Sequence[Cell], ours: bool, precision: str, target: str) -> str:
    """Return how many of the cells of a target and a precision are ok."""
    some = [c for c in cells if (c.precision, c.target, not c.model.startswith("timm/")) == (precision, target, ours)]
    return f"{sum(c.status == 'ok' for c in some)} of {len(some)}" if some else "-"


def noise(cells: Sequence[Cell]) -> str:
    """Return a table with a line per model and resolution: the noise of quantized graphs on the targets that ran."""
    from tabulate import tabulate

    lines: dict[tuple[str, str], dict[str, str]] = {}
    for cell in cells:
        if cell.precision in CALIBRATED and cell.fidelity and cell.fidelity.snr_db is not None:
            key = f"{cell.precision} {cell.target}"
            lines.setdefault(cell_key(cell)[:2], {})[key] = f"{cell.fidelity.snr_db:.1f}"
    ran = {key for found in lines.values() for key in found}
    asked = suite()
    heads = [key for key in map(" ".join, product(asked["precisions"], asked["targets"])) if key in ran]
    rows = [[*key, *(found.get(head, "-") for head in heads)] for key, found in lines.items()]
    return tabulate(rows, ["model", "px", *heads], tablefmt="pipe", disable_numparse=True)


def read(text: str) -> dict[CellKey, Cell]:
    """Read the cells of a page back: status, reason or notes, and the noise; other figures are not on it."""
    noises, cells = text[text.index("## Signal") :].split("## Every cell")
    notes = {int(number): _plain(note) for number, note in re.findall(r"^(\d+)\. (.*)$", cells, re.MULTILINE)}
    head, *lines = _lines(noises)
    levels = {
        (*line[:2], *which.split()): float(level)
        for line in lines
        for which, level in zip(head[2:], line[2:], strict=True)
        if level != "-"
    }
    head, *lines = _lines(cells)
    found = {}
    for line in lines:
        for target, shown in zip(head[3:], line[3:], strict=True):
            if shown == NOT_RUN:
                continue
            key = (line[0], line[1], line[2], target)
            said = tuple(notes[int(mark)] for mark in re.findall(r"\[(\d+)\]", shown))
            status, _, cause = shown.split(" [")[0].partition(": ")
            how: dict[str, Any] = {"notes": said} if status == "ok" else {"reason": said[0]}
            how |= {"proved_by": Proof.RUNTIME} if status == "ok" else {}  # which one is not on the page
            if key in levels:
                how["fidelity"] = _only_noise(levels[key])
            found[key] = Cell(line[0], InputShapes.parse(line[1]), line[2], target, Status(status), cause=cause, **how)
    return found


def _lines(text: str) -> list[list[str]]:
    """Return the lines of the table in a text, the rule below its head left out."""
    lines = [line.strip("|") for line in text.splitlines() if line.startswith("|") and not line.startswith("|:")]
    return [[_plain(part.strip()) for part in re.split(r"(?<!\\)\|", line)] for line in lines]


def _plain(text: str) -> str:
    return re.sub(r"\\([\\*_|<>`])", r"\1", text)


def _only_noise(level: float) -> Fidelity:
    nothing = {item.name: None for item in fields(Fidelity) if item.default is MISSING}
    return Fidelity(**{**nothing, "snr_db": level})  # type: ignore[arg-type]


def page(folder: Path, remark: str, kept: Mapping[CellKey, Cell] | None = None) -> str:
    """Return the page as Markdown, with what is kept of another where the folder has no cell."""
    wanted = suite()
    planned = jobs.plan(
        *(wanted[name] for name in ("models", "targets", "resolutions", "precisions")),
        images=wanted["images"],
        allow_fallback=False,
        out=str(folder.resolve()),
    )
    recorded, _ = split(planned, jobs.Journal(folder).read())
    return write({**(kept or {}), **{cell_key(cell): cell for cell in recorded.values()}}, remark)


def suite() -> dict[str, Any]:
    """Return what the matrix is asked for."""
    asked: dict[str, Any] = tomllib.loads(SUITE.read_text())["suite"]
    return asked


def write(found: Mapping[CellKey, Cell], remark: str) -> str:
    """Return the page of some cells as Markdown."""
    from tabulate import tabulate

    asked = suite()
    names = ("models", "resolutions", "precisions", "targets")
    wanted = [(m, str(r), p, t) for m, r, p, t in product(*(asked[name] for name in names))]
    cells = [found[key] for key in wanted if key in found]
    kinds = [(precision, ours) for precision in asked["precisions"] for ours in (True, False)]
    summary = [
        [target, *(counted(cells, ours, precision, target) for precision, ours in kinds)] for target in asked["targets"]
    ]
    heads = ["target", *(f"{precision} {'ours' if ours else 'timm'}" for precision, ours in kinds)]
    theirs = sum(name.startswith("timm/") for name in asked["models"])
    return HEAD.format(
        day=date.today().isoformat(),
        remark=remark,
        versions=", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        ours=len(asked["models"]) - theirs,
        theirs=theirs,
        summary=tabulate(summary, heads, tablefmt="pipe", disable_numparse=True),
        noise=noise(cells),
        cells=render(Matrix(cells, [key for key in wanted if key not in found]), "markdown"),
    )


def main() -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what the sweep wrote")
    parser.add_argument("--remark", default="", help="a sentence on how the sweep was run")
    parser.add_argument("--keep", action="store_true", help="leave cells that the folder has not as the page has them")
    args = parser.parse_args()
    PAGE.write_text(page(args.folder, args.remark, read(PAGE.read_text()) if args.keep else None))
    print(f"{PAGE.relative_to(ROOT)}: {PAGE.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
