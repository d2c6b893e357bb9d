"""The record of a failed stage: its job, its log, a script that runs it again, and a reduced graph if one was found.

A record is a folder below ``failures``. It is written whole or not at all, and writing it never raises: the failure
itself is already an error on its way to the user.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from effbench import drafts, reading
from effbench.boundary import isolation
from effbench.boundary.names import printable
from effbench.errors import ConversionError, DataError, EffbenchError, UnavailableError, UsageError
from effbench.process import MEMORY_LIMIT, TIME_LIMIT, ChildFailure, exit_text
from effbench.store import write_atomically

RECORD, LOG, SCRIPT, MODEL, REDUCED = "failure.json", "log.txt", "reproduce.py", "model.onnx", "reduced.onnx"
MODULES = ("effbench.api.export.worker", "effbench.device.agent")
"""What a record may run again."""
PATHS = ("graph", "folder", "artifact", "reference", "path", "state")
"""The keys of a job that name files."""
REDUCE_S = 120.0
"""How long a reduction may search; the smallest graph found by then is kept."""

REPRODUCE = '''"""Run the failed stage again; failure.json beside this file says which, and how it failed.

    python reproduce.py              the stage as it was
    python reproduce.py --reduced    on reduced.onnx, if it exists
"""

import sys
from pathlib import Path

from effbench.api.export.failures import again

sys.exit(again(Path(__file__).resolve().parent, reduced="--reduced" in sys.argv))
'''


def keep(home: Path, name: str, module: str, job: Mapping[str, Any], error: EffbenchError) -> None:
    """Write the record of a failure and note its folder in the error.

    A failure that every run would repeat has no record: a wrong argument, a missing package, a damaged file.
    """
    if isinstance(error, (UsageError, UnavailableError, DataError)):
        return
    folder = home / "failures" / name
    try:
        with drafts.draft(folder.parent) as draft:
            draft.mkdir()
            _write(draft, home.resolve(), name, module, job, error)
            drafts.replace_folder(draft, folder)
        error.record = str(folder)
    except OSError as failure:
        hint = f"Its log could not be written to {folder}: {failure.strerror}."
        error.hint = hint if error.hint is None else f"{error.hint} {hint}"


def _write(draft: Path, home: Path, name: str, module: str, job: Mapping[str, Any], error: EffbenchError) -> None:
    (draft / LOG).write_text(error.log or f"{error.message}\n")
    graph = Path(str(job.get("graph", ""))) / MODEL
    if graph.is_file():
        _link(graph, draft / MODEL)
    record = {
        "name": name,
        "module": module,
        # Relative to the home, so that both folders can be sent to someone else.
        "job": {key: _relative(value, home) if key in PATHS else value for key, value in job.items()},
        "kind": type(error).__name__,
        "cause": error.cause if isinstance(error, ChildFailure) else "",
        "message": error.message,
        "hint": error.hint,
        "signature": signature(error),
        "reduced": None,
    }
    (draft / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    (draft / SCRIPT).write_text(REPRODUCE)  # the same for all failures: no data stands in a script


def _relative(value: Any, home: Path) -> Any:
    if value is None:
        return None
    path = Path(value).resolve()
    return f"HOME/{path.relative_to(home).as_posix()}" if path.is_relative_to(home) else str(path)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def signature(error: EffbenchError) -> str:
    """Return what two failures of one cause share: class, stage and text, without names and numbers."""
    if isinstance(error, ChildFailure):
        return f"{error.cause}: {exit_text(error.exit_status)}" if error.exit_status is not None else error.cause
    unquoted = re.sub(r"'[^']*'|\"[^\"]*\"|\(node [^)]{0,300}\)", "*", error.message)
    text = re.sub(r"\S+", lambda word: "*" if re.search(r"[\d/]", word[0]) else word[0], unquoted)
    operator = error.op if isinstance(error, ConversionError) and error.op else ""
    return f"{type(error).__name__} {operator}: {text}"


def read(folder: Path) -> dict[str, Any]:
    """Read a record, with the paths of its job made absolute.

    Raises:
        DataError: The folder holds no record.
    """
    try:
        record: dict[str, Any] = reading.json_file(folder / RECORD)
        home = folder.resolve().parent.parent
        job = record["job"].items()
    except (DataError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / RECORD}: not the record of a failure ({error}).") from error
    if record.get("module") not in MODULES:
        raise DataError(f"{folder / RECORD}: names {record.get('module')!r}, which is no stage of effbench.")
    record["job"] = {
        key: str(home / value[5:]) if isinstance(value, str) and value.startswith("HOME/") else value
        for key, value in job
    }
    return record


def again(folder: Path, *, reduced: bool = False) -> int:
    """Run a failed stage again in a scratch folder, print how it ends, and return 1 if it fails again."""
    from effbench import process

    record = read(folder)
    with drafts.scratch() as scratch:
        job = {**record["job"], **({"folder": str(Path(scratch) / "made")} if "folder" in record["job"] else {})}
        module = record["module"]
        if reduced:
            module, job = "effbench.api.export.worker", _attempt(record, folder / REDUCED)
        try:
            for event in process.run(module, job, time_limit_s=float(job.pop("time_limit_s", 600))):
                print(event)
        except EffbenchError as error:
            print(printable(error.log), file=sys.stderr)
            print(printable(f"fails again: {error}"))
            return 1
    print("does not fail now")
    return 0


def _attempt(record: Mapping[str, Any], model: Path) -> dict[str, Any]:
    job = record["job"]
    return {"op": "attempt", **{key: job[key] for key in ("graph", "target", "options")}, "model": str(model)}


def reduce(folder: Path, limit_s: float = REDUCE_S) -> str:
    """Look for the smallest graph that still fails in the same way, with Polygraphy; return how the search ended.

    Only a conversion that fails by itself is reduced: every step would run into a time limit again.
    """
    record = read(folder)
    outcome = _unreducible(record) or _reduce(folder, record, limit_s)
    record = reading.json_file(folder / RECORD)
    write_atomically(folder / RECORD, json.dumps({**record, "reduced": outcome}, indent=1, sort_keys=True) + "\n")
    return outcome


def _unreducible(record: Mapping[str, Any]) -> str | None:
    if record["job"]["op"] != "convert":
        return f"not tried: '{record['job']['op']}' translates no graph"
    if record["cause"] in (TIME_LIMIT, MEMORY_LIMIT):
        return f"not tried: every step would run into the {record['cause']}"
    missing = next((name for name in ("polygraphy", "onnx_graphsurgeon") if find_spec(name) is None), None)
    return None if missing is None else f"not tried: '{missing}' is missing; pip install 'effbench[debug]'"


def _reduce(folder: Path, record: Mapping[str, Any], limit_s: float) -> str:
    check = isolation.command("effbench.api.export.failures", str(folder.resolve()))
    with drafts.scratch() as scratch:
        best = Path(scratch) / "best.onnx"
        command = [sys.executable, "-I", "-c", "from polygraphy.tools import main; main()", "debug", "reduce"]
        command += [str((folder / MODEL).resolve()), "-o", REDUCED, "--mode", "bisect", "--check", *check, str(best)]
        last_line = _search(command, Path(scratch), limit_s)
        result = Path(scratch) / REDUCED
        outcome = "reduced" if last_line is not None else f"reduced as far as {limit_s:g} s allowed"
        if not (result.is_file() or best.is_file()):
            return f"not reduced: Polygraphy found no smaller graph that fails in the same way ({last_line or outcome})"
        shutil.copyfile(result if result.is_file() else best, folder / REDUCED)
    return f"{outcome}: {_nodes(folder / MODEL)} nodes to {_nodes(folder / REDUCED)}"


def _search(command: Sequence[str], folder: Path, limit_s: float) -> str | None:
    """Run Polygraphy and return the last line it printed, or None at the time limit; nothing is left running."""
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as child:
        try:
            lines = child.communicate(timeout=limit_s)[0].strip().splitlines()
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
    return lines[-1][:200] if lines else ""


def _nodes(path: Path) -> int:
    import onnx

    return len(onnx.load(path, load_external_data=False).graph.node)


def _check(folder: Path, best: Path) -> int:
    """Tell Polygraphy whether the candidate in this folder fails as the record does: 1 if so, else 0."""
    from effbench import process

    record = read(folder)
    candidate = Path("polygraphy_debug.onnx").resolve()
    try:
        for _ in process.run("effbench.api.export.worker", _attempt(record, candidate), time_limit_s=REDUCE_S):
            pass
    except EffbenchError as error:
        if signature(error) != record["signature"]:
            return 0
        if not best.is_file() or candidate.stat().st_size <= best.stat().st_size:
            shutil.copyfile(candidate, best)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_check(Path(sys.argv[1]), Path(sys.argv[2])))
