"""The two trees of a gate: a git worktree of the base, and the working tree; each exported in its own process."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effbench import process
from effbench.api.export.run import Notify
from effbench.codec import from_json
from effbench.errors import EffbenchError, UsageError
from effbench.schema import Cell

TREE_WORKER = "effbench.api.compare.tree_worker"
LIMIT_S = 1800.0


@dataclass(frozen=True)
class Exported:
    """One artifact of one side: how its export ended, the ONNX graph it was made from, and the proof of its source."""

    cell: Cell
    graph: Path | None
    files: tuple[str, ...]


def git(*arguments: str, cwd: Path) -> str:
    """Run git and return what it prints.

    Raises:
        UsageError: git is missing, or says no.
    """
    try:
        done = subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UsageError("git is not installed.", hint="--baseline PATH needs no git.") from None
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UsageError(f"git {' '.join(arguments[:2])}: {words[-1]}")
    return done.stdout.strip()


def top_of(folder: Path) -> Path:
    """Return the root of the repository that a folder lies in.

    Raises:
        UsageError: It lies in none.
    """
    try:
        return Path(git("rev-parse", "--show-toplevel", cwd=folder))
    except UsageError as error:
        raise UsageError(
            f"{folder} is in no git repository ({error.message}).", hint="Run there, or give --baseline PATH."
        ) from None


def commit_of(ref: str, top: Path) -> str:
    """Return the commit that a ref means.

    Raises:
        UsageError: There is none; a shallow clone is told how to fetch it.
    """
    with contextlib.suppress(UsageError):
        return git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}", cwd=top)
    if git("rev-parse", "--is-shallow-repository", cwd=top) == "true":
        branch = ref.removeprefix("origin/")
        raise UsageError(
            f"The base '{ref}' is not in this shallow clone.",
            hint=f"Fetch it: git fetch --depth=1 origin {branch}:refs/remotes/origin/{branch} "
            "(in GitHub Actions: actions/checkout with fetch-depth: 0).",
        )
    raise UsageError(f"git knows no '{ref}'.", hint="A branch, a tag or a commit is meant: git branch -a lists some.")


@contextlib.contextmanager
def worktree(ref: str, top: Path) -> Iterator[Path]:
    """Check a ref out into a folder of its own, and take it away again at the end."""
    commit = commit_of(ref, top)
    with tempfile.TemporaryDirectory(prefix="effbench-base-") as folder:
        path = Path(folder).resolve() / top.name
        git("worktree", "add", "--detach", "--force", str(path), commit, cwd=top)
        try:
            yield path
        finally:
            git("worktree", "remove", "--force", str(path), cwd=top)


def module_path(root: Path, extra: Sequence[str] = ()) -> str:
    """Return PYTHONPATH with a tree first: the folders asked for, ``src`` where there is one, the tree itself."""
    folders = [root / name for name in extra]
    if (root / "src").is_dir():
        folders.append(root / "src")
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([*map(str, [*folders, root]), *([inherited] if inherited else [])])


def export_tree(
    root: Path,
    job: Mapping[str, Any],
    home: Path,
    notify: Notify,
    *,
    subfolder: Path = Path(),
    extra: Sequence[str] = (),
    python: Sequence[str] = (sys.executable,),
) -> list[Exported]:
    """Export the models of a job from one tree, in a process whose module path begins there.

    Args:
        root: The tree.
        job: ``models``, ``targets``, ``resolutions``, ``batch``, ``seed``, ``weights``, ``verify``.
        home: Where artifacts are written.
        notify: Called with one line per step.
        subfolder: Where below the tree the user stands; .onnx paths are read from there.
        extra: Further folders of the tree that hold modules.
        python: The interpreter.

    Raises:
        EffbenchError: A factory's file lies outside the tree, or a model could not be exported at all.
    """
    env = {"PYTHONPATH": module_path(root, extra)}
    request = {**job, "op": "export", "root": str(root), "out": str(home.resolve())}
    found: list[Exported] = []
    files: tuple[str, ...] = ()
    cwd = root / subfolder
    if not cwd.is_dir():
        raise EffbenchError(
            f"The tree {root} has no folder '{subfolder}'.", hint="Run the gate from a folder that both have."
        )
    for event in process.run(TREE_WORKER, request, time_limit_s=LIMIT_S, python=python, env=env, cwd=cwd):
        if event["event"] == "proof":
            files = tuple(event["files"])
        elif event["event"] == "progress":
            notify(event["text"])
        elif event["event"] == "cell":
            graph = Path(event["graph"]) if event["graph"] else None
            found.append(Exported(from_json(Cell, event["cell"], "the child's answer"), graph, files))
    return found
