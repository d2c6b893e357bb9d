"""The two trees of a gate, a git worktree of the base and the working tree, each exported in its own process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from effbench import drafts, process
from effbench.api.export.stage import Notify
from effbench.boundary import isolation
from effbench.codec import from_json
from effbench.errors import EffbenchError, UsageError
from effbench.schema import Cell

TREE_WORKER = "effbench.api.compare.tree_worker"
LIMIT_S = 1800.0
IDENTITY = ("-c", "user.name=effbench", "-c", "user.email=effbench@localhost")
"""For git's log of worktrees: where the user has set none, git looks the name of this machine up in the network."""


GIT_LIMIT_S = 600.0
"""Of one command; a checkout of a large repository takes a minute."""


def git(*arguments: str, cwd: Path) -> str:
    """Run git and return its output.

    Raises:
        UsageError: git is missing, or ends with an error.
    """
    try:
        result = process.output(["git", *IDENTITY, *arguments], time_limit_s=GIT_LIMIT_S, cwd=cwd)
    except FileNotFoundError:
        raise UsageError("git is not installed.", hint="--baseline PATH needs no git.") from None
    if result.returncode:
        lines = result.errors.strip().splitlines() or [f"exit code {result.returncode}"]
        raise UsageError(f"git {' '.join(arguments[:2])}: {lines[-1]}")
    return result.text.strip()


def top_of(folder: Path) -> Path:
    """Return the root of the git repository that contains a folder.

    Raises:
        UsageError: No repository contains it.
    """
    try:
        return Path(git("rev-parse", "--show-toplevel", cwd=folder))
    except UsageError as error:
        raise UsageError(
            f"{folder} is in no git repository ({error.message}).", hint="Run there, or give --baseline PATH."
        ) from None


def commit_of(ref: str, top: Path) -> str:
    """Return the commit that a ref names.

    Raises:
        UsageError: There is none; in a shallow clone the message has the command that fetches it.
    """
    with contextlib.suppress(UsageError):
        return git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}", cwd=top)
    if git("rev-parse", "--is-shallow-repository", cwd=top) == "true":
        branch = ref.removeprefix("origin/")
        raise UsageError(
            f"The base '{ref}' is not in this shallow clone.",
            hint=f"Fetch it: git fetch --depth=1 origin {branch}:refs/remotes/origin/{branch} "
            "(in GitHub Actions: actions/checkout with fetch-depth: 0).",
        )
    raise UsageError(f"git knows no '{ref}'.", hint="Give a branch, a tag or a commit; git branch -a lists branches.")


def refuse_tracked(home: Path, top: Path) -> None:
    """Refuse an output folder with files of the repository: a change could bring its own artifacts, which look cached.

    Raises:
        UsageError: It names one.
    """
    folder = home.resolve()
    if folder.is_relative_to(top.resolve()) and folder != top.resolve():
        tracked = git("ls-files", "--", str(folder), cwd=top).splitlines()
        if tracked:
            hint = "Choose another folder with --out, or take these files out of the repository."
            raise UsageError(f"{home} holds files of the repository ({tracked[0]}).", hint=hint)


@contextlib.contextmanager
def worktree(ref: str, top: Path) -> Iterator[Path]:
    """Check a ref out into a temporary worktree, and remove it at the end."""
    commit = commit_of(ref, top)
    with drafts.scratch() as folder:
        path = Path(folder).resolve() / top.name
        git("worktree", "prune", cwd=top)  # of a gate that was killed, whose folder `scratch` removes
        git("worktree", "add", "--detach", "--force", str(path), commit, cwd=top)
        try:
            yield path
        finally:
            git("worktree", "remove", "--force", str(path), cwd=top)


def module_folders_of(root: Path, module_folders: Sequence[str] = ()) -> list[str]:
    """Return the folders of a tree that hold modules: those that are named, ``src`` if there is one, the tree itself.

    Raises:
        UsageError: A folder lies outside the tree.
    """
    folders = [root / name for name in module_folders]
    for folder in folders:
        if not folder.resolve().is_relative_to(root.resolve()):
            raise UsageError(f"--path {folder}: outside the tree {root}.", hint="Name a folder of the repository.")
    if (root / "src").is_dir():
        folders.append(root / "src")
    names = [str(folder) for folder in (*folders, root)]
    # It separates the folders on their way to the child, which would look for modules in both parts.
    if split := next((name for name in names if os.pathsep in name), None):
        raise UsageError(f"{split}: '{os.pathsep}' cannot be in the name of a folder of modules.")
    return names


def python_of(root: Path, module_folders: Sequence[str], cwd: Path) -> process.Python:
    """Return the interpreter for the code of a tree: isolated, its packages from there, without this one's secrets."""
    folders = module_folders_of(root, module_folders)
    # A gate of effbench itself: each tree is exported by its own code.
    own = next((folder for folder in folders if (Path(folder) / "effbench" / "__init__.py").is_file()), isolation.ROOT)
    return process.Python(env={isolation.TREE: os.pathsep.join(folders)}, cwd=cwd, root=own, trusted=False)


def export_tree(
    root: Path,
    job: Mapping[str, Any],
    home: Path,
    notify: Notify,
    *,
    subfolder: Path = Path(),
    module_folders: Sequence[str] = (),
    other: Path | None = None,
) -> list[Cell]:
    """Export the models of a job from one tree, in a process whose module path begins there.

    Args:
        root: The tree.
        job: The fields of `gate_plan.TreeExport`, and ``models``.
        home: Where artifacts are written.
        notify: Called with one line per step.
        subfolder: The user's folder below the tree; paths of .onnx files are relative to it.
        module_folders: Further folders of the tree that hold modules.
        other: The tree that must take no part in the export.

    Raises:
        EffbenchError: A factory's file lies outside the tree, a file of the other tree took part, or a model could not
            be exported at all.
    """
    request = {**job, "op": "export", "root": str(root), "out": str(home.resolve())}
    request["other"] = str(other) if other else ""
    cwd = root / subfolder
    if not cwd.is_dir():
        raise EffbenchError(
            f"The tree {root} has no folder '{subfolder}'.", hint="Run the gate from a folder that both trees have."
        )
    python = python_of(root, module_folders, cwd)
    cells: list[Cell] = []
    for event in process.run(TREE_WORKER, request, time_limit_s=LIMIT_S, python=python):
        if event["event"] == "progress":
            notify(event["text"])
        elif event["event"] == "cell":
            cells.append(from_json(Cell, event["cell"], "the child's answer"))
    return cells
