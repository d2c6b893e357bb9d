"""Put a report's table and plot into the README.

    effbench report --plot --format json
    python benchmarks/update_readme.py runs/report-top1 --date 2026-11-30

The table replaces the text between two marks; the first plot of measured rows becomes ``docs/img/pareto.svg``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PLOT = ROOT / "docs" / "img" / "pareto.svg"
BEGIN, END = "<!-- table:begin -->", "<!-- table:end -->"
LARGEST_PLOT_BYTES = 200_000

Row = dict[str, Any]


def measured(folder: Path) -> list[Row]:
    """Return the measured rows of a report, ordered by size, model and target."""
    path = folder / "report.json"
    if not path.is_file():
        sys.exit(f"{path}: no such file; write it with: effbench report --plot --format json")
    rows = [row for row in json.loads(path.read_text())["data"]["rows"] if row["source"] == "measured"]
    if not rows:
        sys.exit(f"{path}: has no measured row")
    return sorted(rows, key=lambda row: (row["height_px"], row["width_px"], row["model"], row["target"]))


def line(row: Row) -> str:
    """Return one row of the table; a borrowed accuracy and a reconstruction are marked.

    An accuracy that was measured shows its 95 % interval: on a few images it is wide.
    """
    size = str(row["height_px"]) + (f"x{row['width_px']}" if row["width_px"] != row["height_px"] else "")
    precision = " / ".join(dict.fromkeys((row["storage_precision"], row["compute_precision"] or "unknown")))
    accuracy = "-" if row["accuracy"] is None else f"{row['accuracy']:g}" + r" \*" * row["borrowed"]
    if row["accuracy_low"] is not None:
        accuracy += f" [{row['accuracy_low']:.0f}, {row['accuracy_high']:.0f}]"
    p50 = "-" if row["p50_ms"] is None else f"{row['p50_ms']:.2f}"
    if row["p50_low_ms"] is not None:
        p50 += f" [{row['p50_low_ms']:.2f}, {row['p50_high_ms']:.2f}]"
    model = row["model"] + (" †" if row["reconstruction"] else "")
    counts = (f"{row['params'] / 1e6:.2f}", f"{row['macs'] / 1e9:.2f}")
    weights = row["weights"].partition(":")[0]
    return f"| {' | '.join((model, size, row['target'], precision, weights, accuracy, p50, *counts, row['trust']))} |"


def _data(source: str) -> str:
    return source.rpartition(", ")[0]


def conditions(row: Row) -> str:
    """Return the conditions of a row's measurement, which all rows of the table have to share."""
    plural = "s" if row["threads"] != 1 else ""
    return (
        f"{row['machine']}; batch {row['batch']}, {row['threads']} thread{plural}, {row['scope']}, {row['protocol']}; "
        f"{row['rounds']} rounds in fresh processes."
    )


def table(rows: Sequence[Row], measured_on: str = "") -> str:
    """Return the Markdown between the marks: a table, and notes on its signs."""
    shared = {conditions(row): None for row in rows}
    if len(shared) > 1:
        sys.exit(f"the rows were measured under different conditions: {'; '.join(shared)}")
    prefix = f"Measured {measured_on} on " if measured_on else ""
    notes = [
        *(prefix + one for one in shared),
        f"Runtimes: {', '.join(dict.fromkeys(row['runtime'] for row in rows))}.",
    ]
    # A source ends in the runtime that was evaluated, which the row names already.
    sources = [row["accuracy_source"] for row in rows if row["accuracy_status"] == "measured"]
    notes += [f"Accuracy with a 95 % interval: measured {one}." for one in dict.fromkeys(map(_data, sources))]
    if any(row["borrowed"] for row in rows):
        notes.append(r"\* *borrowed*: published for other weights, not measured on these files.")
    if any(row["reconstruction"] for row in rows):
        notes.append("† a reconstruction from an abstract, not the authors' network.")
    if any(row["trust"] != "A" for row in rows):
        grades = "[what the grades mean](docs/explanation/trust.md)"
        notes.append(f"Trust runs from A to D ({grades}); a D is no latency of the model.")
    header = ("model", "px", "target", "precision", "weights", "top-1 %", "p50 ms [95 %]", "params M", "GMACs", "trust")
    return "\n".join(
        [
            f"| {' | '.join(header)} |",
            f"|{'---|' * len(header)}",
            *map(line, rows),
            "",
            *(f"- {note}" for note in notes),
        ]
    )


def replace(text: str, block: str) -> str:
    """Return the text with a new block between the marks."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit(f"{README.name}: needs {BEGIN} and {END} once each")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{block}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Update the README and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the report")
    parser.add_argument("--plot", help="file name of the plot in that folder (default: the first)")
    parser.add_argument("--date", default="", help="on which the rows were measured")
    options = parser.parse_args()
    rows = measured(options.folder)
    plots = sorted(options.folder.glob(options.plot or "*local*.svg"))
    if not plots:
        sys.exit(f"{options.folder}: has no plot; write it with: effbench report --plot")
    if plots[0].stat().st_size > LARGEST_PLOT_BYTES:
        sys.exit(f"{plots[0]}: {plots[0].stat().st_size:,} bytes, more than {LARGEST_PLOT_BYTES:,}")
    README.write_text(replace(README.read_text(), table(rows, options.date)))
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(plots[0], PLOT)
    print(f"{README.name}: {len(rows)} rows; {PLOT.relative_to(ROOT)}: from {plots[0].name}")


if __name__ == "__main__":
    main()
