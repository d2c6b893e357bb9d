"""How fast can a model get here without becoming another one? Every candidate over ONNX Runtime in fp32, paired.

A candidate is MODEL@TARGET:PRECISION, with options behind it (MODEL@TARGET:PRECISION,key=value). What does not export,
or is not the same model any more, is listed with its reason and never measured. Both sides of a pair run in one fresh
process per round, inferences alternating in random order; the figure is the ratio of medians with a t-interval.

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
        what, *options = rest.split(",")
        target, _, precision = what.partition(":")
        pairs = tuple((key, value) for key, _, value in (option.partition("=") for option in options))
        return cls(model, target, precision or "fp32", pairs)

    def __str__(self) -> str:
        options = "".join(f",{key}={value}" for key, value in self.options)
        return f"{self.model}@{self.target}:{self.precision}{options}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("candidates", nargs="*", help="all targets and precisions of regla_m where none is named")
    parser.add_argument("--model", default="regla_m")
    parser.add_argument("--res", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each round; at least 5 pairs")
    parser.add_argument("--images", default="synthetic")
    parser.add_argument("--out", default="runs/fastest")
    chosen = parser.parse_args()
    default = [Candidate(chosen.model, target, precision) for target in TARGETS for precision in PRECISIONS]
    base = Candidate(chosen.model, "ort", "fp32")
    wanted = [Candidate.of(text) for text in chosen.candidates] or [one for one in default if one != base]
    made = {one: _made(one, chosen.res, chosen.calibration, Path(chosen.out)) for one in [base, *wanted]}
    against = made[base]
    if isinstance(against, str):
        print(f"The base {base} cannot be had: {against}", file=sys.stderr)
        return 5
    print(f"| over {base}, {chosen.res} px, 1 thread | ratio [95 %] | rounds | what is left of the signal |")
    print("|---|---|---|---|", flush=True)
    reached: dict[Candidate, float] = {}
    for one in wanted:
        found = made[one]
        line = found if isinstance(found, str) else _measured(against, found, one, chosen, reached)
        print(f"| {one} | {line} |", flush=True)
    best = min(reached, key=lambda one: reached[one], default=None)
    if best is not None:
        print(f"\nfastest: {best}, {reached[best]:.3f} of {base} (to reach: {TO_REACH:.2f})")
    return 0 if best is not None and reached[best] <= TO_REACH else 1


def _made(one: Candidate, size: int, calibration: str, out: Path) -> Artifact | str:
    """Export and verify a candidate; return it, or why there is none."""
    try:
        (cell,) = export(
            one.model,
            [one.target],
            [size],
            precision=one.precision,
            images=calibration if one.precision == "int8" else None,
            options=dict(one.options),
            out=out,
        )
    except EffbenchError as error:
        return f"{error.message} | - | -"
    print(f"{one}: {cell.status} {cell.reason}", file=sys.stderr, flush=True)
    if cell.status != "ok" or not cell.artifact:
        return f"{cell.status}: {cell.reason} | - | -"
    return bundle.load(Path(cell.artifact))


def _measured(
    base: Artifact, made: Artifact, one: Candidate, chosen: argparse.Namespace, reached: dict[Candidate, float]
) -> str:
    setting = RoundSettings(round_seconds=chosen.seconds, min_pairs=5)
    try:
        low, middle, high = paired(base, made, setting, chosen.rounds, str(one))
    except EffbenchError as error:
        return f"{error.message} | - | -"
    reached[one] = middle
    fidelity = made.fidelity
    kept = "-" if fidelity is None else f"{fidelity.snr_db} dB, cosine {fidelity.cosine:.4f}"
    computed = made.subject.compute_precision or "?"
    return f"{middle:.3f} [{low:.3f}, {high:.3f}] | {chosen.rounds} | {kept}; computed {computed} |".removesuffix(" |")


if __name__ == "__main__":
    sys.exit(main())
