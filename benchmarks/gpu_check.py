"""Every target of an NVIDIA GPU, on the local one: does it load, is it the same model, how fast is it?

For each model and size: torch on CUDA (eager, torch.compile, CUDA graph), ONNX Runtime's CUDA execution provider,
TensorRT for RTX and TensorRT. Each cell is exported, verified and measured end to end in fresh processes, as in
`effbench profile`; for the two TensorRTs the device-only times are beside it. If a library refuses a cell, its message
is in the notes. Without a GPU the script ends with one sentence and exit code 4.

    python benchmarks/gpu_check.py [--models regla_m iformer_m] [--res 224 512] [--budget 20] [--out runs/gpu]
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effbench.deploy.artifact import feeding
from effbench.deploy.targets.tensorrt import cuda
from effbench.schema import Cell
from effbench.statistics import percentiles

TABLE = Path(__file__).with_name("RESULTS-gpu.md")
HEADER = (
    "model",
    "px",
    "target",
    "options",
    "precision",
    "status",
    "cosine",
    "p50 ms (end to end)",
    "to device / compute / to host ms",
    "first run ms",
    "CUDA graph",
)


@dataclass(frozen=True)
class Case:
    """One way to run a model on the GPU."""

    target: str
    precision: str
    options: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        """The options as one types them."""
        return " ".join(f"{key}={value}" for key, value in self.options) or "-"


CASES = (
    *(Case("torch", "fp32", (("device", "cuda"), ("mode", mode))) for mode in ("eager", "compile", "cuda-graph")),
    *(Case("ort", precision, (("provider", "CUDAExecutionProvider"),)) for precision in ("fp32", "fp16")),
    *(Case(target, precision) for target in ("trt-rtx", "trt") for precision in ("fp32", "fp16")),
)


def check(model: str, size: int, case: Case, out: Path, budget_s: float) -> tuple[list[str], list[str]]:
    """Export, verify and measure one case; return a row of the table, and its notes."""
    from effbench.api.export.run import export

    (cell,) = export(
        model, [case.target], [size], precision=case.precision, options=dict(case.options), out=out, notify=_notify
    )
    row = [model, str(size), case.target, case.text, cell.precision]
    notes = [cell.reason, *cell.notes]
    if not cell.has_artifact or cell.fidelity is None:
        return [*row, _status(cell), *[""] * 5], notes
    p50, problems = _measure(Path(cell.artifact), out, budget_s)
    return [*row, "ok", f"{cell.fidelity.cosine:.6f}", p50, *_device_only(Path(cell.artifact))], notes + problems


def _status(cell: Cell) -> str:
    """Return a cell's status; an artifact that does not load is unsupported on this GPU, or its library is missing."""
    from effbench import deploy

    if not cell.has_artifact:
        return cell.status
    return "unsupported" if deploy.get(cell.target).measurable() is None else "unavailable"


def _measure(artifact: Path, out: Path, budget_s: float) -> tuple[str, list[str]]:
    from effbench.api.profile.run import profile

    result = profile([str(artifact)], out=out, budget_s=budget_s, notify=_notify)
    if not result.measurements:
        return "", [cell.reason for cell in result.cells]
    rounds = [item.samples_ns for item in result.measurements[0].samples.rounds]
    estimate = percentiles.estimate(rounds, 0.5)
    if estimate is None:
        return "", ["too few samples for a median"]
    text = f"{estimate.value / 1e6:.3f}"
    if estimate.interval is not None:
        text += f" [{estimate.interval[0] / 1e6:.3f}, {estimate.interval[1] / 1e6:.3f}]"
    return text, []


def _device_only(folder: Path) -> list[str]:
    """Return phases, first run and CUDA graph of a TensorRT artifact; blanks for other targets."""
    from effbench import deploy
    from effbench.deploy.artifact import bundle

    artifact = bundle.load(folder)
    if artifact.subject.target not in ("trt", "trt-rtx"):
        return ["", "", ""]
    session: Any = deploy.get(artifact.subject.target).open(artifact, 1, artifact.options)
    (feeds,) = feeding.feeds(feeding.synthetic(artifact.inputs, 1), 1, artifact.inputs, artifact.preprocessing)
    for _ in range(20):
        session(feeds)
    runs = [session.phases(feeds) for _ in range(51)]
    middle = [sorted(run[name] for run in runs)[25] for name in runs[0]]
    placement = session.placement()
    session.close()
    graph, first = placement["cuda_graph"], placement["start"]["first_run_ms"]
    return [" / ".join(f"{value:.3f}" for value in middle), f"{first:.1f}", graph]


def render(rows: Sequence[Sequence[str]], notes: Sequence[str], gpu: cuda.Gpu, command: str) -> str:
    """Return the page: machine and date, the table, and the notes."""
    from tabulate import tabulate

    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    versions = json.dumps(_versions(), sort_keys=True)
    machine = f"{gpu.name}, compute capability {gpu.sm}, CUDA driver {gpu.driver}; {today}; `{command}`; {versions}"
    table = tabulate(rows, HEADER, tablefmt="github", disable_numparse=True)
    lines = ["# On an NVIDIA GPU", "", machine, "", table, "", *(f"- {note}" for note in notes)]
    return "\n".join(lines).rstrip() + "\n"


def _versions() -> dict[str, str]:
    from effbench.api.export.source import versions

    names = ("torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13", "cuda-bindings", "effbench")
    return {name: text for name, text in versions(*names).items() if text != "absent"}


def _notify(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["regla_m", "iformer_m"])
    parser.add_argument("--res", nargs="+", type=int, default=[224, 512])
    parser.add_argument("--budget", type=float, default=20.0, help="seconds per measured cell")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--table", type=Path, default=TABLE, help="the page to write")
    options = parser.parse_args(arguments)
    reason = cuda.missing()
    if reason is not None:
        print(f"Nothing was checked: {reason}.")
        return 4
    gpu = cuda.gpu()
    rows, notes = [], []
    for model in options.models:
        for size in options.res:
            for case in CASES:
                row, messages = check(model, size, case, options.out, options.budget)
                rows.append(row)
                notes += [f"{model} {size} {case.target} {case.text} {row[4]}: {text}" for text in messages if text]
                # Written after each cell, so that a lost machine loses only the cell in flight.
                options.table.write_text(render(rows, notes, gpu, "benchmarks/gpu_check.py"))
    print(options.table.read_text())
    return 0 if all(row[5] != "failed" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
