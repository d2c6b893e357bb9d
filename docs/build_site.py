"""Build the documentation as a site: ``python docs/build_site.py [FOLDER]`` (or ``make docs``) writes it to site/.

1. The pages of docs/ are copied to build/docs, with what the site has besides them: the command line's options, pages
   from the rest of the repository, and the files that pages link to.
2. MkDocs builds the site from there (mkdocs.yml); a warning is an error.
3. Every page is checked: nothing that a reader's browser loads may come from the network.

The first step is apart from MkDocs, so that another generator can take its place.
"""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from effbench import __version__
from effbench.cli import cli

ROOT = Path(__file__).resolve().parent.parent
STAGED = ROOT / "build" / "docs"
SITE = ROOT / "site"
CLI_PAGE = "generated/cli.md"
PAGES_OUTSIDE = {
    "ARCHITECTURE.md": "explanation/architecture.md",
    "CONTRIBUTING.md": "how-to/contributing.md",
    "CHANGELOG.md": "reference/changelog.md",
    "benchmarks/RESULTS.md": "generated/results.md",
    "benchmarks/RESULTS-operators.md": "generated/results-operators.md",
}
"""Pages outside docs/, and where the site has them."""

MATRIX = "docs/generated/matrix.md"
WIDE = "---\nhide: [toc]\nsearch: {exclude: true}\n---\n\n"
"""What stands above a page of wide tables whose cells are nothing to search for."""

HOME = {"README.md": "index.md"}
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:)([^)\s#]+)")
LOADED = re.compile(
    r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>"
    r"|(?:@import|url\()\s*[\"']?(?:https?:)?//[^;)]*"
)
"""What a browser would fetch from elsewhere: elements of a page, and imports and images of a style sheet."""


def main(site: Path = SITE) -> int:
    """Stage, build and check; return the exit code."""
    shutil.rmtree(STAGED, ignore_errors=True)
    stage(STAGED)
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--config-file", str(ROOT / "mkdocs.yml")]
    build += ["--site-dir", str(site)]
    settings = {"NO_MKDOCS_2_WARNING": "1", "SITE_NAME": f"effbench {__version__}"}
    code = subprocess.run(build, check=False, env={**os.environ, **settings}).returncode
    remote = remote_resources(site) if code == 0 else {}
    for path, element in remote.items():
        print(f"{path}: loaded from the network: {element}", file=sys.stderr)
    print(f"{site / 'index.html'}" if code == 0 and not remote else "the site was not built", file=sys.stderr)
    return code or bool(remote)


def stage(folder: Path) -> None:
    """Write everything that the site is built from to a folder."""
    written = {f"docs/{path.relative_to(ROOT / 'docs').as_posix()}": path for path in (ROOT / "docs").rglob("*")}
    for source, path in written.items():
        if path.is_file() and path.suffix not in (".md", ".py", ".pyc"):
            _put(folder, site_path(source), path.read_bytes())
    pages = {source: path.read_text() for source, path in written.items() if path.suffix == ".md"}
    pages |= {source: (ROOT / source).read_text() for source in PAGES_OUTSIDE}
    for source, text in pages.items():
        _put(folder, site_path(source), site_text(text, source).encode())
    for source in linked_files(pages):
        _put(folder, site_path(source), (ROOT / source).read_bytes())
    _put(folder, CLI_PAGE, "\n".join(command_line_page()).encode())


def site_path(source: str) -> str:
    """Return where the site has a file of the repository."""
    if source.startswith("docs/"):
        return source.removeprefix("docs/")
    return (PAGES_OUTSIDE | HOME).get(source, f"files/{source}")


def site_text(text: str, source: str) -> str:
    """Return a page with links as the site needs them, and without the comments that are for the tests.

    Args:
        text: Markdown whose links are relative to `source`.
        source: The page's path in the repository.
    """
    here = posixpath.dirname(site_path(source)) or "."
    text = re.sub(r"(?m)^<!-- (?:test|file): .*-->\n", "", text)
    if source == MATRIX:
        text = WIDE + re.sub(r"\[(\d+)\]", r"\\[\1\\]", text)  # numbered notes, not links
    return LINK.sub(lambda link: posixpath.relpath(site_path(_target(source, link[1])), here), text)


def linked_files(pages: Mapping[str, str]) -> list[str]:
    """Return the files of the repository that pages link to and that are no pages of the site."""
    targets = {_target(source, link) for source, text in pages.items() for link in LINK.findall(text)}
    return sorted(path for path in targets if site_path(path).startswith("files/") and (ROOT / path).is_file())


def remote_resources(site: Path) -> dict[str, str]:
    """Return the pages and style sheets that load something from the network, with the first such element."""
    paths = (path for path in sorted(site.rglob("*")) if path.suffix in (".html", ".css"))
    hits = {path.relative_to(site).as_posix(): LOADED.search(path.read_text()) for path in paths}
    return {path: hit[0] for path, hit in hits.items() if hit is not None}


def command_line_page() -> Iterator[str]:
    """Yield the lines of the page of all commands and their options, taken from the command line itself.

    mkdocs-click 0.9 would do the same, but prints ``Sentinel.UNSET`` for most defaults under click 8.5.
    """
    yield "# Command line"
    yield "\nEvery command with its options. `effbench COMMAND --help` prints the same."
    yield "\n```console\n$ effbench --help\nUsage: effbench [OPTIONS] COMMAND [ARGS]...\n```\n"
    yield "Taken from the program while the site is built (`docs/build_site.py`)."
    with cli.make_context("effbench", [], resilient_parsing=True) as parent:
        for name in cli.list_commands(parent):
            command = cli.get_command(parent, name)
            assert command is not None
            with command.make_context(name, [], parent=parent, resilient_parsing=True) as context:
                yield from command_section(command, context)


def command_section(command: click.Command, context: click.Context) -> Iterator[str]:
    r"""Yield one command: its description, usage and options; a paragraph after ``\b`` keeps its lines."""
    yield f"\n## {command.name}"
    for paragraph in (command.help or "").split("\n\n"):
        body = paragraph.removeprefix("\b\n")
        yield f"\n```text\n{body}\n```" if body != paragraph else "\n" + " ".join(body.split())
    yield f"\n```text\n{command.get_usage(context).removeprefix('Usage: ')}\n```\n"
    yield "| option | meaning | default |\n|---|---|---|"
    for option in command.get_params(context):
        if isinstance(option, click.Option) and "--help" not in option.opts:
            value = "" if option.is_flag or option.count else f" {option.make_metavar(context)}"
            names = ", ".join(f"`{name}{value}`" for name in (*option.opts, *option.secondary_opts))
            default = option.get_help_extra(context).get("default", "")
            yield "| " + " | ".join(_cell(text) for text in (names, option.help or "", default)) + " |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _target(source: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def _put(folder: Path, uri: str, data: bytes) -> None:
    path = folder / uri
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else SITE))
