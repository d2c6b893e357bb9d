"""Make a release on this machine: version, changelog, wheel and sdist, docs, commit and tag.

    make release VERSION=0.2.0
    make release VERSION=0.2.0 DRY_RUN=1

A dry run does everything but the commit and the tag, and puts the edited files back. Nothing is uploaded; the last
lines say how to publish. The version is stated in one place, `effbench.__version__`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parent.parent
VERSION_FILE, CHANGELOG = Path("src/effbench/__init__.py"), Path("CHANGELOG.md")
BRANCH = "main"

VERSION_LINE = re.compile(r'^__version__ = "(?P<version>[^"]+)"$', re.MULTILINE)
HEADING = re.compile(r"^## \[(?P<name>[^\]]+)\].*$", re.MULTILINE)
REMOVAL = re.compile(r"deprecated since (?P<since>\d[\w.]*\d)[^\n]*?removed in (?P<removal>\d[\w.]*\d)")
"""What a deprecation's message says, see CONTRIBUTING.md."""


class ReleaseError(Exception):
    """Say why there is no release, in one sentence."""


def parse_version(text: str) -> Version:
    """Return a version of three numbers, with `rcN` behind them or not.

    Raises:
        ReleaseError: The text is not such a version.
    """
    try:
        version = Version(text)
    except InvalidVersion:
        raise ReleaseError(f"'{text}' is not a version; write it as 0.2.0 or 0.2.0rc1.") from None
    allowed = {".".join(map(str, version.release)) + ("" if version.pre is None else f"rc{version.pre[1]}")}
    if len(version.release) != 3 or text not in allowed:
        raise ReleaseError(f"'{text}' is not a version of three numbers; write it as 0.2.0 or 0.2.0rc1.")
    return version


def current_version(source: str) -> Version:
    """Return the version that the package's `__init__.py` states."""
    if (line := VERSION_LINE.search(source)) is None:
        raise ReleaseError(f"{VERSION_FILE} has no line '__version__ = \"...\"'.")
    return Version(line["version"])


def with_version(source: str, version: Version) -> str:
    """Return the text of `__init__.py` with another version."""
    return VERSION_LINE.sub(f'__version__ = "{version}"', source, count=1)


def with_release(changelog: str, version: Version, day: date) -> str:
    """Return the changelog with its Unreleased section under a version and a date; an empty one stays above it.

    Raises:
        ReleaseError: There is no Unreleased section, it is empty, or the version has a section already.
    """
    headings = {heading["name"]: heading for heading in HEADING.finditer(changelog)}
    if (unreleased := headings.get("Unreleased")) is None:
        raise ReleaseError(f"{CHANGELOG} has no section '## [Unreleased]'.")
    if str(version) in headings:
        raise ReleaseError(f"{CHANGELOG} has a section for {version} already.")
    if not section(changelog, "Unreleased"):
        raise ReleaseError(f"The Unreleased section of {CHANGELOG} is empty: there is nothing to release.")
    end = unreleased.end()
    return f"{changelog[:end]}\n\n## [{version}] - {day.isoformat()}{changelog[end:]}"


def section(changelog: str, name: str) -> str:
    """Return the text below a heading of the changelog, without the heading."""
    headings = list(HEADING.finditer(changelog))
    ends = [heading.start() for heading in headings[1:]] + [len(changelog)]
    sections = {head["name"]: changelog[head.end() : end] for head, end in zip(headings, ends, strict=True)}
    return sections.get(name, "").strip()


def overdue(source: str, version: Version) -> list[str]:
    """Return the deprecation messages in some source text whose version of removal is here."""
    return [match[0] for match in REMOVAL.finditer(source) if Version(match["removal"]) <= version]


def run(*command: str, root: Path) -> None:
    """Run a step; what it prints is shown where it fails.

    Raises:
        ReleaseError: The step fails.
    """
    text = " ".join(command)
    print(f"$ {text}", flush=True)
    result = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if result.returncode != 0:
        print(result.stdout, flush=True)
        raise ReleaseError(f"'{text}' ended with {result.returncode}.")


def git(root: Path, *arguments: str) -> str:
    """Return what git prints."""
    result = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise ReleaseError(f"'git {' '.join(arguments)}' failed: {result.stderr.strip()}")
    return result.stdout.strip()


def check_tree(root: Path, version: Version) -> None:
    """Hold the checkout to what a release is made from.

    Raises:
        ReleaseError: It is on another branch, has changes, or the version is not new; also, a deprecated name was to
            be removed by now.
    """
    if (branch := git(root, "branch", "--show-current")) != BRANCH:
        raise ReleaseError(f"A release is made from '{BRANCH}'; this is '{branch or 'no branch'}'.")
    if changes := git(root, "status", "--porcelain"):
        raise ReleaseError(f"The checkout has changes; commit or remove them first:\n{changes}")
    current = current_version((root / VERSION_FILE).read_text())
    if version <= current:
        raise ReleaseError(f"{version} is not greater than the present version, {current}.")
    if git(root, "tag", "--list", f"v{version}"):
        raise ReleaseError(f"The tag v{version} exists already.")
    for path in sorted((root / "src").rglob("*.py")):
        if messages := overdue(path.read_text(), version):
            raise ReleaseError(f"{path.relative_to(root)}: remove what is overdue in {version}: {messages[0]}")


@contextmanager
def restored_unless_cleared(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Put files back as they were at the end, also after an error, unless the caller clears the list that it gets."""
    before = {path: path.read_text() for path in paths}
    pending = list(paths)
    try:
        yield pending
    finally:
        for path in pending:
            path.write_text(before[path])


def build(root: Path, scratch: Path) -> list[Path]:
    """Build the sdist from a copy of the tracked files and the wheel from that sdist, and check both."""
    source, out = scratch / "source", scratch / "dist"
    for name in git(root, "ls-files", "-z").strip("\0").split("\0"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, source / name)
    python = (sys.executable, "-m")
    run(*python, "build", "--no-isolation", "--outdir", str(out), str(source), root=scratch)
    files = sorted(out.iterdir())
    run(*python, "twine", "check", "--strict", *map(str, files), root=scratch)
    run(*python, "check_wheel_contents", *(str(path) for path in files if path.suffix == ".whl"), root=scratch)
    return files


def build_docs(root: Path, version: Version) -> bool:
    """Build the docs of a version into site/VERSION with `make docs`; return whether there is such a target."""
    makefile = root / "Makefile"
    if not makefile.exists() or re.search(r"^docs:", makefile.read_text(), re.MULTILINE) is None:
        return False
    run("make", "docs", f"SITE=site/{version}", root=root)
    return True


def release(root: Path, version: Version, day: date, dry_run: bool) -> str:
    """Make a release, or try it; return what to do next.

    Raises:
        ReleaseError: A check or a step fails; the checkout is as it was before.
    """
    check_tree(root, version)
    changelog = with_release((root / CHANGELOG).read_text(), version, day)
    edited = [root / VERSION_FILE, root / CHANGELOG]
    with restored_unless_cleared(edited) as pending, tempfile.TemporaryDirectory() as scratch:
        (root / VERSION_FILE).write_text(with_version((root / VERSION_FILE).read_text(), version))
        (root / CHANGELOG).write_text(changelog)
        files = build(root, Path(scratch))
        names = [path.name for path in files]
        documented = build_docs(root, version)
        if dry_run:
            notes = section(changelog, str(version))
            return f"{notes}\n\nDry run: {version} can be released ({', '.join(names)}). Nothing was committed."
        (root / "dist").mkdir(exist_ok=True)
        for path in files:
            shutil.copy(path, root / "dist")
        git(root, "commit", "--quiet", "--message", f"Release {version}", "--", str(VERSION_FILE), str(CHANGELOG))
        pending.clear()
        git(root, "tag", "--annotate", f"v{version}", "--message", f"effbench {version}")
    return next_steps(version, names, documented)


def next_steps(version: Version, files: Sequence[str], documented: bool) -> str:
    """Return the lines that a release ends with."""
    lines = [
        f"effbench {version} is committed and tagged v{version}. Nothing was uploaded. To publish it:",
        f"  git push origin {BRANCH} v{version}",
        f"  python -m twine upload {' '.join(f'dist/{name}' for name in files)}",
        *([f"  copy site/{version} to where the documentation is served"] if documented else []),
        "To take it back before that:",
        f"  git tag --delete v{version} && git reset --keep HEAD~1",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Run the command; return 0, or 2 with a sentence where there is no release."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", help="the new version, such as 0.2.0 or 0.2.0rc1")
    parser.add_argument("--dry-run", action="store_true", help="check and build everything, commit nothing")
    options = parser.parse_args(arguments)
    try:
        print(release(root, parse_version(options.version), date.today(), options.dry_run))
    except ReleaseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
