"""The smallest model of every timm family, untrained: `fuse` against the unfused model, and a verified export.

    python benchmarks/timm_families.py --choose > benchmarks/timm_families.csv    (after an update of timm)
    python benchmarks/timm_families.py                     fusion of all families
    python benchmarks/timm_families.py --export --px 64    verified exports for ONNX Runtime
    python benchmarks/timm_families.py --only levit --only tiny_vit

Images are of 224 px or ``--px``, else of 224 px, else of the model's own size: the first that the model runs at.
*error* is the largest one, over three scenes, of the spread between images. *rounding* is that of the unfused model in
fp32 against float64; a fusion within the limit (0.001) is *ok* without it.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

from effbench.api.export.source import resolve
from effbench.api.export.worker_graph import _eager
from effbench.deploy.artifact import feeding, fidelity, synthetic
from effbench.errors import EffbenchError
from effbench.models.build import build_unfused, fit_resolution
from effbench.models.layers import fuse
from effbench.models.torchvision_operators import import_timm
from effbench.schema import InputSpec, Preprocessing

FAMILIES = Path(__file__).with_suffix(".csv")
PX, SCENES = 224, 3
MOST_PARAMS = 200_000_000
LIMIT_S = 600.0
HEAD = ("family", "model", "px", "result", "error", "rounding", "s")


def choose() -> Iterator[tuple[str, str, int]]:
    """Yield the smallest model of each family, with its parameters; models are built without memory for weights."""
    timm: Any = import_timm()
    from timm.models import list_modules

    for family in sorted(list_modules()):
        sizes = {}
        for name in timm.list_models(module=family):
            try:
                with torch.device("meta"):
                    sizes[name] = sum(value.numel() for value in timm.create_model(name).parameters())
            except (RuntimeError, NotImplementedError, ValueError) as error:  # it reads values while it is built
                print(f"{name}: {error}", file=sys.stderr)
        if sizes:
            name = min(sizes, key=lambda model: (sizes[model], model))
            yield family, name, sizes[name]


def own_size(name: str) -> int:
    """Return the height and width in pixels that timm declares for a model."""
    import_timm()
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    return int(config.input_size[-1]) if config is not None else PX


def fused(name: str, px: int) -> tuple[str, float, float]:
    """Return how the fused model compares with the unfused one: the result, the error and the model's own rounding."""
    module = unfused(name, px)
    spec = InputSpec("image", "float32", (1, 3, px, px))
    images = synthetic.reference_images(fidelity.NATURAL, 3, (px, px))
    batches = feeding.feeds({spec.name: images}, 1, (spec,), Preprocessing())
    expected = fidelity.run_all(_eager(module, (spec,)), batches)
    reference = fidelity.Reference({"image": images}, expected, "eager")
    setup = fidelity.Setup(reference, 1, (spec,), Preprocessing(), "fp32", limit=SCENES)
    run = _eager(fuse(module), (spec,))
    proof = fidelity.check(run, setup)
    if proof.passed:
        return "ok", proof.max_error, float("nan")
    exact = fidelity.run_all(_eager(unfused(name, px).double(), (spec,)), batches[:SCENES], dtype=np.float64)
    rounding = fidelity.rounding_of({key: value[:SCENES] for key, value in expected.items()}, exact, expected)
    proof = fidelity.check(run, replace(setup, reference=reference._replace(rounding=rounding)))
    result = "unverifiable" if proof.unverifiable else f"failed: {'; '.join(proof.reasons)}"
    return result, proof.max_error, max(rounding.values())


def unfused(name: str, px: int) -> torch.nn.Module:
    """Build a model untrained, for an image size."""
    source = resolve(f"timm/{name}")
    module = build_unfused(source.backbone, source.weights)
    fit_resolution(module, (px, px))
    return module


def exported(name: str, px: int) -> tuple[str, float, float]:
    """Return how a verified export for ONNX Runtime ended."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "effbench.cli", "export", f"timm/{name}", "-t", "ort", "--res", str(px)]
        command += ["--out", folder, "--json", "--time-limit", str(LIMIT_S)]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    (cell,) = json.loads(answer.stdout)["data"]
    proof = cell["fidelity"] or cell["graph_fidelity"]
    if proof is None:
        return f"{cell['status']}: {cell['reason'][:200]}", float("nan"), float("nan")
    reason = "" if cell["status"] == "ok" else f": {cell['reason'][:200]}"
    own = max(proof["rounding"].values(), default=float("nan"))
    return f"{cell['status']}{reason}", proof["max_error"], own


def measured(name: str, export: bool, first_px: int) -> tuple[int, str, float, float]:
    """Return the size and the result of a model, at the first size that it runs at."""
    run = exported if export else fused
    for px in dict.fromkeys((first_px, PX, own_size(name))):
        try:
            result = run(name, px)
        except (EffbenchError, AssertionError, RuntimeError, ValueError, TypeError, IndexError) as error:
            result = f"failed: {type(error).__name__}: {error}", float("nan"), float("nan")
        if not any(text in result[0] for text in ("forward pass", "px or more", "multiples of", "px only")):
            break
    return px, *result


def table(families: Sequence[tuple[str, str, int]], export: bool, first_px: int) -> list[tuple[Any, ...]]:
    """Return a row per family; each is printed to standard error when it is done."""
    rows = []
    for family, name, params in sorted(families, key=lambda row: row[2]):  # the quick ones first
        start = time.perf_counter()
        if params > MOST_PARAMS:
            row: tuple[Any, ...] = (PX, f"not run: {params / 1e6:.0f} M parameters", float("nan"), float("nan"))
        else:
            row = measured(name, export, first_px)
        px, result, error, own = row
        seconds = time.perf_counter() - start
        rows.append((family, name, px, result, f"{error:.1e}", f"{own:.1e}", f"{seconds:.0f}"))
        print(*rows[-1], sep="\t", file=sys.stderr, flush=True)
        gc.collect()
    return rows


def main() -> int:
    """Print the table, and how many families have each result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choose", action="store_true", help="print the smallest model of each family")
    parser.add_argument("--export", action="store_true", help="export and verify instead of only fusing")
    parser.add_argument("--px", type=int, default=PX, help="the height and width to try first")
    parser.add_argument("--only", action="append", default=[], metavar="FAMILY")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.choose:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(("family", "model", "params"))
        writer.writerows(choose())
        return 0
    with FAMILIES.open() as stream:
        families = [(row["family"], row["model"], int(row["params"])) for row in csv.DictReader(stream)]
    chosen = [row for row in families if not args.only or row[0] in args.only]
    rows = table(chosen, args.export, args.px)
    print(tabulate(rows, HEAD, tablefmt="pipe", disable_numparse=True))
    counts = Counter(str(row[3]).partition(":")[0] for row in rows)
    print(f"\n{len(rows)} families: {', '.join(f'{number} {name}' for name, number in counts.most_common())}")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
