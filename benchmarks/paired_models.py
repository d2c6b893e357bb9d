"""False alarms of the operator-by-operator comparison: right int8 and a16w8 graphs of untrained models.

    python benchmarks/paired_models.py [--only regla_t ...] [--precision int8]       (some minutes on 2 cores)

Each model is exported at a small size, quantized as an export does it, and paired with its float graph over the images
that an export pairs on. Every fault that is named is a false alarm, as these graphs are right.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tabulate import tabulate

from effbench.api.export.run import fp32_graph
from effbench.api.export.source import resolve
from effbench.api.export.stage import STAGE_LIMIT_S, Limits
from effbench.api.export.worker_precision import PAIRED_IMAGES
from effbench.deploy.artifact import bundle
from effbench.deploy.graph import onnx_file
from effbench.deploy.precision.a16w8 import to_a16w8
from effbench.deploy.precision.calibration import SYNTHETIC, load_calibration
from effbench.deploy.precision.int8_noise import to_mixed_int8
from effbench.deploy.precision.pairing import Pairing, pair
from effbench.errors import EffbenchError
from effbench.schema import InputShapes

MODELS = {
    "regla_t": 64,
    "regla_s": 96,
    "iformer_t": 64,
    "iformer_m_faster": 128,
    "deit_t": 64,
    "aft_conv_t_h32": 64,
    "aft_full_t": 64,
    "lambda_resnet26": 64,
    "timm/test_efficientnet": 64,
    "timm/test_convnext": 64,
    "timm/test_nfnet": 64,
    "timm/test_byobnet": 64,
    "timm/test_mambaout": 64,
    "timm/test_resnet": 64,
    "timm/mobilenetv2_050": 96,
    "timm/mobilenetv3_small_050": 96,
    "timm/efficientvit_b0": 64,
    "timm/mobilevitv2_050": 64,
    "timm/repvgg_a0": 64,
    "timm/regnetx_002": 64,
}
"""Height and width by model; all widths are those that the model takes."""


def paired(graph: Path, precision: str) -> Pairing:
    """Quantize a graph artifact as an export does it, and pair it with its float graph."""
    source = bundle.load(graph)
    spec = source.inputs[0]
    calibration = load_calibration(SYNTHETIC, source.subject.resolution, source.preprocessing, spec.shape[1] or 3)
    batches = calibration.feeds(1, spec, source.preprocessing)
    model = onnx_file.load(source.path)
    quantized = to_a16w8(model, batches) if precision == "a16w8" else to_mixed_int8(model, batches).model
    return pair(model, quantized, batches[:PAIRED_IMAGES])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="MODEL")
    parser.add_argument("--precision", action="append", choices=("int8", "a16w8"))
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as home:
        for name in options.only or MODELS:
            for precision in options.precision or ("int8", "a16w8"):
                start = time.perf_counter()
                shapes = InputShapes((MODELS[name], MODELS[name]))
                try:
                    graph = fp32_graph(resolve(name, None, 0), shapes, Path(home), Limits.of(STAGE_LIMIT_S))
                    result = paired(graph.folder, precision)
                except EffbenchError as error:
                    rows.append([name, shapes, precision, f"failed: {error.message}"[:120], "", "", ""])
                    print(*rows[-1], sep="\t", file=sys.stderr, flush=True)
                    continue
                seconds = time.perf_counter() - start
                counts = (result.compared, len(result.unpaired), len(result.faults))
                row = [name, shapes, precision, *counts, f"{seconds:.0f}"]
                rows.append(row)
                print(*row, *result.faults[:4], sep="\n   " if result.faults else "\t", file=sys.stderr, flush=True)
    head = ("model", "px", "precision", "operators", "without a pair", "false alarms", "s")
    print(tabulate(rows, head, tablefmt="pipe"))
    return int(any(row[5] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
