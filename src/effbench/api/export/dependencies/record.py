"""The dependencies of a factory's graph as they were when it was built, and what has changed since."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from effbench.codec import file_sha256, fingerprint, from_json
from effbench.schema import FORMAT_VERSION

ABSENT = "absent"
"""In place of a hash: there was no such file, variable or package."""
_RECENT_NS = 2_000_000_000
"""A file may change again within one tick of its file system's clock, so a young one is hashed each time."""
CURRENT, PROJECT = "cwd:", "project:"
"""How the names of files begin that are relative to the current folder, or to the factory's project."""


@dataclass(frozen=True)
class Places:
    """The folders that names of files are relative to, so that a record holds in another checkout of the project.

    ``project`` is the repository of the factory, ``current`` the folder that effbench was started in.
    """

    project: Path
    current: Path

    def name(self, path: str) -> str:
        """Return the name of a file: as it was opened if that was relative, else by the project, else absolute."""
        if not os.path.isabs(path):
            return f"{CURRENT}{os.path.normpath(path)}"
        file, root = os.path.abspath(path), f"{self.project}{os.sep}"
        if file.startswith(root):
            return f"{PROJECT}{file.removeprefix(root)}"
        return file

    def path(self, name: str) -> Path:
        """Return where a name lies now."""
        for prefix, folder in ((CURRENT, self.current), (PROJECT, self.project)):
            if name.startswith(prefix):
                return folder / name.removeprefix(prefix)
        return Path(name)


def project_of(folder: Path) -> Path:
    """Return the root of the repository that contains a folder, else the folder."""
    return next((parent for parent in (folder, *folder.parents) if (parent / ".git").exists()), folder)


@dataclass(frozen=True)
class Dependencies:
    """Names and hashes of what took part in a build.

    Attributes:
        files: By the names of `Places`, the SHA-256 of each file that was read or imported.
        folders: By the same names, a hash of the names inside each folder that was listed.
        variables: A hash of the value of each environment variable that was read; the value itself is not kept.
        packages: By distribution, its version and a hash of its list of installed files.
    """

    files: dict[str, str] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)

    def changes(self, places: Places, environment: Mapping[str, str]) -> Iterator[str]:
        """Yield a sentence part for each dependency that is not what it was."""
        for name, old in self.packages.items():
            if (new := package_state(name)) != old:
                before, now = (state.split(" ")[0] for state in (old, new))
                yield f"{name} {before} is {now} now" if before != now else f"{name} was installed anew"
        for name, old in self.variables.items():
            if variable_state(environment, name) != old:
                yield f"the variable {name} changed"
        for name, old in self.folders.items():
            if folder_state(places.path(name)) != old:
                yield f"the folder {places.path(name)} has other entries"
        for name, old in self.files.items():
            if (state := file_state(places.path(name))) != old:
                what = "is missing" if state == ABSENT else "is new" if old == ABSENT else "changed"
                yield f"{places.path(name)} {what}"


def observed(traced: Mapping[str, Any], environment: Mapping[str, str]) -> Dependencies:
    """Return the dependencies that a child recorded, with the variables as they are in this environment."""
    variables = {name: variable_state(environment, name) for name in traced["variables"]}
    return from_json(Dependencies, {"format": FORMAT_VERSION, **traced, "variables": variables}, "the child's answer")


def file_state(path: Path) -> str:
    """Return the SHA-256 of a file's content, or `ABSENT`."""
    try:
        status = path.stat()
        if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < _RECENT_NS:
            return file_sha256(path)
        return _sha256(str(path.absolute()), status.st_mtime_ns, status.st_ctime_ns, status.st_size)
    except (OSError, ValueError):
        return ABSENT


@lru_cache(maxsize=4096)
def _sha256(path: str, modified_ns: int, changed_ns: int, size: int) -> str:
    """Hash a file once per process, as long as its size and times stay."""
    return file_sha256(Path(path))


def folder_state(path: Path) -> str:
    """Return a hash of the names in a folder, or `ABSENT`; caches of Python's compiler do not count."""
    try:
        return fingerprint(sorted(name for name in os.listdir(path) if name != "__pycache__"))
    except (OSError, ValueError):
        return ABSENT


def variable_state(environment: Mapping[str, str], name: str) -> str:
    """Return a hash of a variable's value, or `ABSENT`."""
    return fingerprint([name, environment[name]]) if name in environment else ABSENT


def package_state(name: str) -> str:
    """Return a distribution's version with a hash of its list of installed files, or `ABSENT`."""
    try:
        package = distribution(name)
    except PackageNotFoundError:
        return ABSENT
    files = package.read_text("RECORD") or package.read_text("installed-files.txt") or ""
    listed = sorted(line for line in files.splitlines() if "__pycache__" not in line and "direct_url" not in line)
    return f"{package.version} {fingerprint(listed)[:16]}"
