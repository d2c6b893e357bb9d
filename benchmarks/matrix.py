"""Write docs/generated/matrix.md from a sweep of examples/matrix.toml.

    effbench sweep examples/matrix.toml --no-profile --out FOLDER
    python benchmarks/matrix.py FOLDER

The page has the number of cells that are ok, the signal to quantization noise, and every cell with its reason. It marks
cells that did not run with this code and these libraries. With ``--keep``, the cells of the folder replace those of the
present page and the others stay; the remark then has to say which ran when.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from datetime import date
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

from effbench.api.sweep import jobs
from effbench.api.sweep.run import split
from effbench.reports.matrix import NOT_RUN, CellKey, Matrix, cell_key, render
from effbench.schema import CALIBRATED, Cell, Fidelity, InputShapes, Proof, Status

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PAGE, SUITE = ROOT / "docs" / "generated" / "matrix.md", ROOT / "examples" / "matrix.toml"
LIBRARIES = ("torch", "timm", "onnx", "onnxruntime", "openvino", "coremltools", "onnxruntime-qnn", "nncf")
HEAD = """# Export matrix

Results of `effbench sweep examples/matrix.toml --no-profile` until {day} on Linux x86-64 without a GPU ({versions}).
Weights are untrained and seeded; ReGLA is a reconstruction from the abstract. int8 and a16w8 are calibrated with
synthetic images. Nothing here is a latency.

*ok* takes two proofs: the graph is the model (a second engine ran it), and the artifact is the graph (its outputs were
compared). `coreml` is run by effbench's evaluator and `qnn` by the simulator of onnxruntime-qnn (four images, two at
512 px). `trt` is a bundle and `trt-rtx` an engine; TensorRT needs an NVIDIA GPU, and there was none, so nothing ran
them: they are *built*, not *ok*. {remark}

## How many are ok

Of {own} backbones of effbench and {timm} models of timm at 224 and 512 px. Every cell that was made counts, with any
result.

{summary}

## Signal to quantization noise

In dB, on six scenes that are not in the calibration (on `qnn` as above). A dash: no artifact could be run here.

{noise}

## Every cell

{cells}"""


OWNERS = ("effbench", "timm")
NEVER_RUN = ("trt", "trt-rtx")
"""Targets that earlier pages called ok where no GPU could run them."""
NEVER_RUN_REASON = "not verified here: this needs an NVIDIA GPU."


def owner_of(model: str) -> str:
    return "timm" if model.startswith("timm/") else "effbench"


def count_ok(cells: Sequence[Cell], owner: str, precision: str, target: str) -> str:
    """Return how many of the cells of a target and a precision are ok, and how many are only built."""
    key = (precision, target, owner)
    group = [cell for cell in cells if (cell.precision, cell.target, owner_of(cell.model)) == key]
    if not group:
        return "-"
    ok, built = (sum(cell.status is status for cell in group) for status in (Status.OK, Status.BUILT))
    return f"{ok} of {len(group)}" + (f", {built} built" if built else "")


def noise(cells: Sequence[Cell]) -> str:
    """Return a table with a row per model and resolution: the noise of quantized graphs on the targets that ran."""
    from tabulate import tabulate

    levels: dict[tuple[str, str], dict[str, str]] = {}
    for cell in cells:
        if cell.precision in CALIBRATED and cell.fidelity and cell.fidelity.snr_db is not None:
            key = f"{cell.precision} {cell.target}"
            levels.setdefault(cell_key(cell)[:2], {})[key] = f"{cell.fidelity.snr_db:.1f}"
    present = {key for by_column in levels.values() for key in by_column}
    plan = suite()
    columns = [key for key in map(" ".join, product(plan["precisions"], plan["targets"])) if key in present]
    rows = [[*key, *(by_column.get(column, "-") for column in columns)] for key, by_column in levels.items()]
    return tabulate(rows, ["model", "px", *columns], tablefmt="pipe", disable_numparse=True)


def read(text: str) -> dict[CellKey, Cell]:
    """Read the cells of a page back: status, reason or notes, and the noise; the page has no other figures."""
    noise_text, cell_text = text[text.index("## Signal") :].split("## Every cell")
    notes = {int(number): _plain(note) for number, note in re.findall(r"^(\d+)\. (.*)$", cell_text, re.MULTILINE)}
    head, *rows = _table_rows(noise_text)
    levels = {
        (*row[:2], *column.split()): float(level)
        for row in rows
        for column, level in zip(head[2:], row[2:], strict=True)
        if level != "-"
    }
    head, *rows = _table_rows(cell_text)
    cells = {}
    for row in rows:
        for target, entry in zip(head[3:], row[3:], strict=True):
            if entry == NOT_RUN:
                continue
            key = (row[0], row[1], row[2], target)
            cell_notes = tuple(notes[int(mark)] for mark in re.findall(r"\[(\d+)\]", entry))
            status, _, cause = entry.split(" [")[0].partition(": ")
            if status == "ok" and target in NEVER_RUN:
                status, cell_notes = "built", (NEVER_RUN_REASON, *cell_notes)
            ok = status == "ok"
            details: dict[str, Any] = {"notes": cell_notes if ok else cell_notes[1:]}
            # The page does not have which proof.
            details |= {"proved_by": Proof.RUNTIME} if ok else {"reason": cell_notes[0]}
            if key in levels:
                details["fidelity"] = _only_noise(levels[key])
            shapes = InputShapes.parse(row[1])
            cells[key] = Cell(row[0], shapes, row[2], target, Status(status), cause=cause, **details)
    return cells


def _table_rows(text: str) -> list[list[str]]:
    """Return the rows of the table in a text, without the rule below its head."""
    lines = [line.strip("|") for line in text.splitlines() if line.startswith("|") and not line.startswith("|:")]
    return [[_plain(part.strip()) for part in re.split(r"(?<!\\)\|", line)] for line in lines]


def _plain(text: str) -> str:
    return re.sub(r"\\([\\*_|<>`])", r"\1", text)


def _only_noise(level: float) -> Fidelity:
    missing = {item.name: None for item in fields(Fidelity) if item.default is MISSING}
    return Fidelity(**{**missing, "snr_db": level})  # type: ignore[arg-type]


def page(folder: Path, remark: str, previous: Mapping[CellKey, Cell] | None = None) -> str:
    """Return the page as Markdown; cells that the folder does not have come from the previous page."""
    plan = suite()
    planned = jobs.plan(
        *(plan[name] for name in ("models", "targets", "resolutions", "precisions")),
        images=plan["images"],
        allow_fallback=False,
        out=str(folder.resolve()),
    )
    recorded, _ = split(planned, jobs.Journal(folder).read())
    return write({**(previous or {}), **{cell_key(cell): cell for cell in recorded.values()}}, remark)


def suite() -> dict[str, Any]:
    """Return the suite of the matrix: models, targets, resolutions, precisions."""
    table: dict[str, Any] = tomllib.loads(SUITE.read_text())["suite"]
    return table


def write(by_key: Mapping[CellKey, Cell], remark: str) -> str:
    """Return the page of some cells as Markdown."""
    from tabulate import tabulate

    plan = suite()
    names = ("models", "resolutions", "precisions", "targets")
    keys = [(m, str(r), p, t) for m, r, p, t in product(*(plan[name] for name in names))]
    cells = [by_key[key] for key in keys if key in by_key]
    groups = [(precision, owner) for precision in plan["precisions"] for owner in OWNERS]
    summary = [
        [target, *(count_ok(cells, owner, precision, target) for precision, owner in groups)]
        for target in plan["targets"]
    ]
    models = Counter(owner_of(name) for name in plan["models"])
    return HEAD.format(
        day=date.today().isoformat(),
        remark=remark,
        versions=", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        own=models["effbench"],
        timm=models["timm"],
        summary=tabulate(summary, ["target", *map(" ".join, groups)], tablefmt="pipe", disable_numparse=True),
        noise=noise(cells),
        cells=render(Matrix(cells, [key for key in keys if key not in by_key]), "markdown"),
    )


def main() -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the sweep's results")
    parser.add_argument("--remark", default="", help="a sentence on how the sweep was run")
    parser.add_argument("--keep", action="store_true", help="keep the page's cells that are not in the folder")
    args = parser.parse_args()
    PAGE.write_text(page(args.folder, args.remark, read(PAGE.read_text()) if args.keep else None))
    print(f"{PAGE.relative_to(ROOT)}: {PAGE.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
