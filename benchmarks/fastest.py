"""The fastest verified form of a model on this machine: every candidate over ONNX Runtime in fp32, paired.

A candidate is MODEL@TARGET:PRECISION, with options behind it (MODEL@TARGET:PRECISION,key=value). If its export or its
verification fails, it is listed with the reason and not measured. Both sides of a pair run in one fresh process per
round, inferences alternating in random order; the figure is the ratio of medians with a t-interval.

    python benchmarks/fastest.py --res 512 --rounds 12
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from effbench.api.compare.rounds import RoundSettings
from effbench.api.export.run import export
from effbench.deploy.artifact import bundle
from effbench.errors import EffbenchError
from effbench.schema import Artifact
from ratio import paired

TO_REACH = 0.40
TARGETS = ("ort", "ov", "litert", "torch")
PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Candidate:
    """One way to deploy a model."""

    model: str
    target: str
    precision: str
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, text: str) -> Candidate:
        """Read ``MODEL@TARGET:PRECISION,key=value``."""
        model, _, rest = text.partition("@")
        form, *options = rest.split(",")
        target, _, precision = form.partition(":")
        pairs = tuple((key, value) for key, _, value in (option.partition("=") for option in options))
        return cls(model, target, precision or "fp32", pairs)

    def __str__(self) -> str:
        options = "".join(f",{key}={value}" for key, value in self.options)
        return f"{self.model}@{self.target}:{self.precision}{options}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("candidates", nargs="*", help="default: --model on all targets in all precisions")
    parser.add_argument("--model", default="regla_m")
    parser.add_argument("--res", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each round; at least 5 pairs")
    parser.add_argument("--images", default="synthetic", help="of the calibration, for int8")
    parser.add_argument("--out", type=Path, default=Path("runs/fastest"))
    options = parser.parse_args()
    base = Candidate(options.model, "ort", "fp32")
    matrix = [Candidate(options.model, target, precision) for target in TARGETS for precision in PRECISIONS]
    candidates = [Candidate.of(text) for text in options.candidates] or [item for item in matrix if item != base]
    artifacts = {item: _export(item, options.res, options.images, options.out) for item in [base, *candidates]}
    base_artifact = artifacts[base]
    if isinstance(base_artifact, str):
        print(f"There is no base {base}: {base_artifact}", file=sys.stderr)
        return 5
    print(f"| over {base}, {options.res} px, 1 thread | ratio [95 %] | rounds | signal to noise, cosine |")
    print("|---|---|---|---|", flush=True)
    ratios: dict[Candidate, float] = {}
    setting = RoundSettings(round_seconds=options.seconds, min_pairs=5)
    for candidate in candidates:
        artifact = artifacts[candidate]
        if isinstance(artifact, str):
            print(f"| {candidate} | {artifact} | - | - |", flush=True)
            continue
        try:
            low, ratio, high = paired(base_artifact, artifact, setting, options.rounds, str(candidate))
        except EffbenchError as error:
            print(f"| {candidate} | {error.message} | - | - |", flush=True)
            continue
        ratios[candidate] = ratio
        print(f"| {candidate} | {ratio:.3f} [{low:.3f}, {high:.3f}] | {options.rounds} | {_fidelity(artifact)} |")
    best = min(ratios, key=lambda item: ratios[item], default=None)
    if best is not None:
        print(f"\nfastest: {best}, {ratios[best]:.3f} of {base} (to reach: {TO_REACH:.2f})")
    return 0 if best is not None and ratios[best] <= TO_REACH else 1


def _export(candidate: Candidate, size: int, images: str, out: Path) -> Artifact | str:
    """Export and verify a candidate; return its artifact, or the reason why there is none."""
    try:
        (cell,) = export(
            candidate.model,
            [candidate.target],
            [size],
            precision=candidate.precision,
            images=images if candidate.precision == "int8" else None,
            options=dict(candidate.options),
            out=out,
        )
    except EffbenchError as error:
        return error.message
    print(f"{candidate}: {cell.status} {cell.reason}", file=sys.stderr, flush=True)
    if not cell.has_artifact or not cell.artifact:
        return f"{cell.status}: {cell.reason}"
    return bundle.load(Path(cell.artifact))


def _fidelity(artifact: Artifact) -> str:
    fidelity = artifact.fidelity
    text = "-" if fidelity is None else f"{fidelity.snr_db} dB, {fidelity.cosine:.4f}"
    return f"{text}; computed in {artifact.subject.compute_precision or '?'}"


if __name__ == "__main__":
    sys.exit(main())
