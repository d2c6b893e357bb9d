"""What the documentation site is built from: every page, every link, every command, every public name."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest
from places import ROOT

import effbench
from effbench.cli import cli

DIRECTIVE = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)


@pytest.fixture
def build_site(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("build_site")


@pytest.fixture
def staged(build_site: ModuleType, tmp_path: Path) -> Path:
    build_site.stage(tmp_path)
    return tmp_path


def directives() -> list[str]:
    """Return what the pages of the Python reference show."""
    pages = (ROOT / "docs" / "reference" / "api").glob("*.md")
    return [name for page in pages for name in DIRECTIVE.findall(page.read_text())]


def load(name: str) -> object:
    """Return the object behind a dotted name; its longest prefix that is a module is imported."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        try:
            item: object = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            item = getattr(item, part)
        return item
    raise ModuleNotFoundError(name)


def test_every_link_of_the_site_leads_to_a_file(build_site: ModuleType, staged: Path):
    links = [
        (page, link)
        for page in staged.rglob("*.md")
        for link in build_site.LINK.findall(re.sub(r"(?ms)^```.*?^```$|`[^`\n]*`", "", page.read_text()))
    ]
    assert [] == [f"{page}: {link}" for page, link in links if not (page.parent / link).exists()]
    assert len(links) > 50


def test_a_link_out_of_docs_becomes_one_of_the_site(build_site: ModuleType):
    text = "[a](../../ARCHITECTURE.md#rules) [b](../../examples/lite0.py) [c](verify.md) [d](https://e.org)"
    links = ["../explanation/architecture.md#rules", "../files/examples/lite0.py", "verify.md", "https://e.org"]
    assert links == re.findall(r"\((.*?)\)", build_site.site_text(text, "docs/how-to/export.md"))


def test_what_is_for_the_tests_is_not_on_the_site(build_site: ModuleType):
    assert "```sh\n" == build_site.site_text("<!-- test: skip takes minutes -->\n```sh\n", "docs/how-to/export.md")


def test_every_page_has_one_place_in_the_navigation(staged: Path):
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    pages = [page.relative_to(staged).as_posix() for page in staged.rglob("*.md")]
    single = [page for page in pages if not re.match(r"decisions/\d", page)]
    assert sorted(single) == sorted(re.findall(r": (\S+\.md)$", navigation, re.MULTILINE))


def test_every_command_and_option_is_on_the_command_line_page(staged: Path):
    text = (staged / "generated" / "cli.md").read_text()
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert sorted(cli.commands) == sorted(sections)
    for name, command in cli.commands.items():
        options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        assert options == set(re.findall(r"(?<=`)--[\w-]+", sections[name])) & options, name


def test_every_generated_page_says_what_writes_it(staged: Path):
    index = (ROOT / "docs" / "generated" / "index.md").read_text()
    names = {"results.md": "RESULTS.md", "results-operators.md": "RESULTS-operators.md"}
    pages = {path.name for path in (staged / "generated").glob("*.md")} - {"index.md"}
    assert [] == [name for name in pages if names.get(name, name) not in index]


def test_every_decision_has_the_same_parts_and_a_line_in_the_index():
    pages = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    assert [f"{number:04d}" for number in range(1, len(pages) + 1)] == [page.name[:4] for page in pages]
    rows = []
    for page in pages:
        title, date, *parts = page.read_text().split("\n\n")
        assert ["Context", "Decision", "Figures", "Rejected"] == [part[2:].partition(".**")[0] for part in parts], page
        rows.append(f"| {int(page.name[:4])} | {date} | [{title.removeprefix('# ')}]({page.name}) |")
    index = (page.parent / "index.md").read_text()
    assert rows == re.findall(r"^\| \d.*$", index, re.MULTILINE)


def test_every_public_name_is_in_the_python_reference():
    assert set() == {f"effbench.{name}" for name in effbench.__all__ if name != "__version__"} - set(directives())


def test_every_record_that_gives_a_function_its_arguments_is_in_the_python_reference():
    decorated = re.compile(r"^@from_fields\((\w+)\)$", re.MULTILINE)
    records = {name for path in (ROOT / "src").rglob("*.py") for name in decorated.findall(path.read_text())}
    assert "ExportRequest" in records
    assert set() == records - {name.rpartition(".")[2] for name in directives()}


@pytest.mark.parametrize("name", directives())
def test_what_the_python_reference_shows_exists(name: str):
    assert load(name) is not None


@pytest.mark.parametrize(
    ("page", "remote"),
    [
        ('<script src="https://e.org/a.js"></script>', True),
        ('<link rel="stylesheet" href="//e.org/a.css">', True),
        ("@import url(https://e.org/a.css);", True),
        ("a { background: url('http://e.org/a.png') }", True),
        ('<img src="../img/pareto.svg"> <a href="https://e.org">e</a>', False),
        ('<link rel="stylesheet" href="assets/a.css">', False),
    ],
)
def test_what_would_be_loaded_from_the_network_is_seen(build_site: ModuleType, tmp_path: Path, page: str, remote: bool):
    (tmp_path / "a.html").write_text(page)
    assert remote == bool(build_site.remote_resources(tmp_path))
