"""Detection rate of `effbench numerics`: defects of half precision are injected by mechanism into real graphs.

    python benchmarks/numerics.py       (about 15 minutes on 2 cores)

Clean graphs come first, then each defect of numerics_defects.py in each family of its half. The floor of a case is the
error with exactly the injected nodes in fp32, or the clean graph's error if that is larger. A defect that does not
double the error over its floor is harmless in that graph and not counted; nor is one that breaks the graph around it. A
defect is detected if a finding names an injected node and its mechanism, and the fp32 islands bring the error within
the bound or within 1.5 times the floor.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from tabulate import tabulate

from effbench.deploy import Array
from effbench.deploy.artifact import feeding, synthetic
from effbench.deploy.graph import from_torch, onnx_file, signature
from effbench.deploy.precision import diagnose
from effbench.deploy.precision.fp32_islands import HalfPrecisionJudge
from effbench.deploy.precision.half import node_names
from effbench.deploy.precision.mechanisms import TensorRange
from effbench.models.torchvision_operators import import_timm
from effbench.schema import Preprocessing, Weights
from numerics_defects import DEFECTS, Defect, Patch

FAMILIES = {
    "tuning": ("regla_t", "convnext_atto", "vit_tiny_patch16_224"),
    "held out": ("iformer_t", "poolformer_s12", "mobilevitv2_050"),
}
CLEAN = ("regla_m", "iformer_m", "resnet18", "convnext_atto", "vit_tiny_patch16_224", "poolformer_s12")
RESOLUTION = 64
IMAGES = 3


@dataclass(frozen=True)
class Base:
    """A clean graph, its feeds, and the report on it with tensor ranges and errors in half precision."""

    model: onnx.ModelProto
    feeds: list[dict[str, Array]]
    report: diagnose.NumericsReport

    @property
    def error(self) -> float:
        """The larger error of the two modes, in multiples of the limit."""
        return max(e.without_islands or np.inf for e in self.report.errors)


def export(name: str, resolution: int = RESOLUTION) -> onnx.ModelProto:
    from effbench import models

    if name in models.models():
        from effbench.models.build import build

        module = build(models.get(name), Weights())
    else:
        timm = import_timm()

        torch.manual_seed(0)
        size = {"img_size": resolution} if name.startswith("vit") else {}
        module = timm.create_model(name, pretrained=False, **size).eval()
    return from_torch.from_module(module, from_torch.image_inputs(3, (resolution, resolution), 1), 1)


def prepare(name: str) -> Base:
    model = export(name)
    spec = signature.guessed(model)[0]
    images = synthetic.reference_images(IMAGES, 3, (RESOLUTION, RESOLUTION))
    feeds = feeding.feeds({spec.name: images}, 1, (spec,), Preprocessing())
    return Base(model, feeds, diagnose.examine(model, feeds))


def residual_tensors(base: Base) -> list[TensorRange]:
    """Return the residual stream: sums of two computed tensors, images or tokens."""
    shapes = onnx_file.shapes(base.model)
    constants = {t.name for t in base.model.graph.initializer}
    sums = {
        node.output[0]
        for node in base.model.graph.node
        if node.op_type == "Add" and not constants & set(node.input) and len(shapes[node.output[0]]) in (3, 4)
    }
    return [r for r in base.report.ranges if r.tensor in sums]


def injected(base: Base, defect: Defect, share: float) -> tuple[onnx.ModelProto, set[str]]:
    """Return the graph with a defect at a share of its depth, and the names of the defect's nodes."""
    tensors = residual_tensors(base)
    tensor = tensors[int(share * (len(tensors) - 1))]
    shape = tuple(size or 1 for size in onnx_file.shapes(base.model)[tensor.tensor])
    model = onnx.ModelProto()
    model.CopyFrom(base.model)
    patch = Patch(model, tensor.tensor, shape, tensor.largest, tensor.rms)
    model = patch.apply(defect.inject(patch))
    return model, {node.name for node in patch.nodes}


def judge(half: str, family: str, base: Base, defect: Defect, share: float) -> dict[str, object]:
    model, nodes = injected(base, defect, share)
    row: dict[str, object] = {"half": half, "family": family, "defect": defect.name, "at": f"{share:.0%}"}
    judge = HalfPrecisionJudge(model, base.feeds)
    before = judge.worst(frozenset())
    floor = max(1.0, base.error, judge.worst(node_names(model, nodes)))
    row |= {"without islands": before, "floor": floor}
    if before <= 2 * floor:
        # The floor is infinite if the graph around the defect overflows even with the defect in fp32.
        return row | {"detected": "harmless here" if np.isfinite(floor) else "breaks the rest too"}
    report = diagnose.examine(model, base.feeds)
    after = max(e.with_islands or np.inf for e in report.errors)
    named = [f for f in report.findings if nodes & set(f.nodes)]
    right = any(f.mechanism in defect.mechanisms for f in named)
    within = after <= 1.5 * floor
    verdict = "yes" if right and within else "wrong mechanism" if named and within else "not fixed" if named else "NO"
    return row | {
        "with islands": after,
        "named": "; ".join(sorted({f.mechanism for f in named})),
        "elsewhere": len(report.findings) - len(named),
        "fp32 operators": len(report.islands),
        "share %": report.island_share_pct,
        "detected": verdict,
    }


def run() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    bases: dict[str, Base] = {}
    clean = []
    for name in dict.fromkeys((*CLEAN, *FAMILIES["tuning"], *FAMILIES["held out"])):
        bases[name] = prepare(name)
        report, error = bases[name].report, bases[name].error
        clean.append({"clean graph": name, "nodes": report.nodes, "error": error, "findings": len(report.findings)})
    print(tabulate(clean, headers="keys", floatfmt=".3g"), "\n", flush=True)
    rows = []
    for half, defects in DEFECTS.items():
        for family in FAMILIES[half]:
            for i, defect in enumerate(defects):
                rows.append(judge(half, family, bases[family], defect, (0.2 + 0.3 * i) % 0.9))
                print(rows[-1], file=sys.stderr, flush=True)
    print(tabulate(rows, headers="keys", floatfmt=".3g"), "\n")
    for half in DEFECTS:
        counted = [row for row in rows if row["half"] == half and "share %" in row]
        detected = [row for row in counted if row["detected"] == "yes"]
        shares = [float(str(row["share %"])) for row in counted]
        print(
            f"{half}: {len(detected)} of {len(counted)} defects detected ({100 * len(detected) / len(counted):.0f} %); "
            f"operators kept in fp32: median {np.median(shares):.1f} %, largest {max(shares):.1f} %"
        )
    alarms = sum(int(str(row["findings"])) for row in clean)
    print(f"clean graphs: {len(clean)}, false alarms {alarms}")
    return 0


if __name__ == "__main__":
    sys.exit(run())
