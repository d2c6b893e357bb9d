"""What the documents tell a reader to type works: commands, Python, examples, links, and the tables taken from code."""

from __future__ import annotations

import math
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import torch
from places import ROOT

from effbench import deploy
from effbench.api.compare import budgets
from effbench.cli import cli
from effbench.deploy.artifact.limits import LIMITS
from effbench.deploy.targets.qnn import snapdragon
from effbench.errors import UsageError
from effbench.profiles import devices, disturbances, trust

EXAMPLES = ROOT / "examples"
FIRST = ("install", "models", "first-model", "export", "verify", "profile", "state")
FIRST += ("report", "trust", "own-model", "python-api")
"""The order of reading, in which a later page may use what an earlier one made; other pages follow by name."""

BEING_WRITTEN: set[str] = set()
"""Pages that are linked before they are there."""

SKIPPED = {
    ("distill", "effbench distill mynet:small --data labelled"): "trains for minutes on a data set of the user",
    ("distill", "effbench distill regla_m --data imagenet"): "trains for minutes on a data set of the user",
    (
        "distill",
        "python -m torch.distributed.run --nproc-per-node 2",
    ): "needs several processes and a data set of the user",
    (
        "distill",
        "python -m torch.distributed.run --nproc-per-node 8",
    ): "needs eight GPUs, ImageNet and seven teachers; nobody ran it",
    (
        "half-precision",
        "effbench numerics regla_t",
    ): "takes minutes on a busy machine; tests/api/export/test_numerics_command.py runs it on a small model",
    ("verify", "effbench verify --mutate regla_m"): "takes minutes; tests/api/export/test_mutate.py runs a small graph",
    ("gate", "effbench gate --base HEAD"): "tests/docs/test_gate_docs.py runs it",
    ("gate-statistics", "effbench compare"): "its exit code depends on the machine",
    ("compare", "effbench compare"): "its exit code depends on the machine",
    ("evaluate", "effbench evaluate regla_m"): "its images are made below",
    ("project-file", "cat effbench.toml"): "the key is wrong on purpose",
    ("quantize", "import effbench"): "needs labelled images of the user",
    ("evaluate", "import effbench"): "needs labelled images of the user",
    ("compare", "import effbench"): "needs two files of the user, and a minute",
    ("distill", "import effbench"): "trains for minutes on a data set of the user",
    ("qnn", "pip install"): "needs Qualcomm's package, and minutes",
    ("snapdragon", "effbench export regla_t"): "needs Qualcomm's package, and minutes",
    ("numerics", "effbench sweep regla_m"): "takes minutes",
    ("README", "git clone"): "installs packages; the continuous check runs it",
    ("README", "effbench export yours.onnx"): "needs a model of the reader's",
    ("install", "python -m pip install"): "installs packages; the continuous check runs it",
    ("models", "effbench export iformer_m --weights"): "needs a file of weights",
    ("models", "effbench export timm/resnet50.a1_in1k"): "needs timm and minutes",
    ("litert", "python3.12 -m venv"): "needs Python 3.12 and installs packages",
    ("own-model", "effbench export detector.onnx"): "needs a file of the user",
    ("quantize", "effbench export mynet:small"): "needs labelled images of the user",
    ("trust", "python benchmarks/coverage.py"): "takes minutes",
    ("scaling", "effbench claims --scaling"): "takes minutes",
    ("kit", "sh run.sh"): "runs in the kit's folder, on the device",
    ("kit", "effbench import result.jsonl"): "needs the result that came back",
    ("import", "effbench import times.txt"): "needs a file of another tool",
    ("scaling", "effbench claims"): "takes half an hour",
    ("CONTRIBUTING", "python -m effbench.models.index"): "rewrites a file of the checkout",
    ("CONTRIBUTING", "make release"): "commits and tags",
}
"""Every block that is marked as not run: its page and how its first command begins, and the reason given there."""

STAND_INS = (
    (r"\bregla_m-224-", "toy.net-64-"),
    (r"(?<!models )\bregla_m\b", "toy:net"),
    (r"--res (224|512)\b", "--res 64"),
    (r"\[224\]", "[64]"),
    (r"(?m)^((?:\$ )?effbench profile.*?) --(?:budget|rounds) \d+", r"\1"),
    (r"(?m)^((?:\$ )?effbench profile.*?) --(?:budget|rounds) \d+", r"\1"),
    # In front of a comment; a sustained run has a time of its own.
    (r"(?m)^(?:\$ )?effbench profile(?:(?! --minutes)[^#\n])*(?= *#|$)(?<! )", r"\g<0> --budget 1 --rounds 1"),
    (r"budget_s=\d+, rounds=\d+", "budget_s=1, rounds=1"),
)
"""In the quick run a small model takes the place of regla_m; the slow run takes the pages at their word."""

EXECUTED = ("effbench ", "eval ")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, language, text, and what the comment before it says to the tests."""

    page: str
    language: str
    text: str
    note: str

    @property
    def commands(self) -> list[str]:
        """Return the lines of a shell block, continued ones joined, without prompts and comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        bare = (re.sub(r"\s+#\s.*$", "", line).strip() for line in lines)
        return [line for line in bare if line and not line.startswith("#")]

    @property
    def output(self) -> dict[str, list[str]]:
        """Return the lines that a console block shows after each command, without those that are shortened (...)."""
        shown = [part.partition("\n") for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]]
        return {
            command: [line for line in text.splitlines() if line.strip() and "..." not in line]
            for command, _, text in shown
        }

    @property
    def skipped(self) -> str | None:
        return self.note.removeprefix("skip ") if self.note.startswith("skip ") else None


def pages() -> dict[str, str]:
    """Return the text of every document by its path, in reading order."""
    written = sorted(path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "generated")
    written.sort(key=lambda path: FIRST.index(path.stem) if path.stem in FIRST else len(FIRST))
    names = [path.relative_to(ROOT).as_posix() for path in written]
    return {name: (ROOT / name).read_text() for name in (*names, "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")}


def blocks(page: str, text: str) -> Iterator[Block]:
    pattern = re.compile(r"(?:<!-- test: ([^\n]*?) -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for note, language, body in pattern.findall(text):
        yield Block(page, language, body, note)


PAGES = pages()
BLOCKS = [block for page, text in PAGES.items() for block in blocks(page, text)]
SHELL = [block for block in BLOCKS if block.language in ("sh", "console", "bash")]
COMMANDS = [(block.page, line) for block in SHELL for line in block.commands]


def test_blocks_are_read_as_written():
    skipped = "x\n<!-- test: skip needs a GPU -->\n```sh\neffbench a \\\n  -b  # why\n# no\n```\n"
    first, second = blocks("p", skipped + "```console\n$ make x\nout\n```\n")
    assert (["effbench a    -b"], "needs a GPU") == (first.commands, first.skipped)
    assert (["make x"], None) == (second.commands, second.skipped)


def test_every_shell_line_is_of_a_kind_that_is_tested():
    kinds = ("effbench ", "eval ", "make ", "python ")
    assert [] == [line for block in SHELL if not block.skipped for line in block.commands if not line.startswith(kinds)]
    assert len(COMMANDS) > 30


@pytest.mark.parametrize("page", [page for page in PAGES if page.count("/") > 1 and "decisions" not in page])
def test_a_page_begins_with_what_it_is_for_and_something_to_type(page: str):
    title, sentence, *_ = PAGES[page].split("\n\n")
    assert re.fullmatch(r"# .+", title)
    assert re.fullmatch(r"[^#|<-].*[.:]", sentence, re.DOTALL)
    beginning = PAGES[page].partition("\n## ")[0]
    shown = [block for block in blocks(page, beginning) if block.language in ("console", "python")]
    assert shown, "no command with its output, and no Python, before the first heading"


def test_nothing_is_skipped_in_silence():
    def key(block: Block) -> tuple[str, str]:
        page = Path(block.page).stem
        begins = [name for stem, name in SKIPPED if stem == page and block.commands[0].startswith(name)]
        return (page, begins[0] if begins else block.commands[0])

    assert SKIPPED == {key(block): block.skipped for block in BLOCKS if block.skipped}


def parse(line: str) -> str | None:
    """Parse a command as the command line would, without running it; returns what would run.

    An unknown option or argument raises.
    """
    arguments = shlex.split(line)[1:]
    with cli.make_context("effbench", arguments) as context:
        name, command, rest = cli.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None
        return command.make_context(name, rest, parent=context).info_name


def written() -> list[str]:
    """Return every effbench command in any block, of any language, run or not."""
    return sorted({line for block in BLOCKS for line in block.commands if line.startswith("effbench ")})


@pytest.mark.parametrize("line", written())
def test_a_command_parses(line: str):
    assert parse(line) == shlex.split(line)[1]


@pytest.mark.parametrize("line", ["effbench export --resolution 224 regla_m", "effbench exprot regla_m"])
def test_a_command_that_does_not_exist_is_seen(line: str):
    with pytest.raises((click.UsageError, UsageError), match=r"No such option|Unknown command"):
        parse(line)


def test_every_make_target_exists():
    # Not `make -n TARGET`: what calls make itself runs even then. The rules are listed beside the goal `help`.
    make = ["make", "--dry-run", "--print-data-base", "help"]
    listed = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = {shlex.split(line)[1] for _, line in COMMANDS if line.startswith("make ")}
    assert {"demo", "test", "test-slow", "check"} <= named
    assert named <= set(re.findall(r"^([\w-]+):", listed, re.MULTILINE))


@pytest.mark.parametrize("line", sorted({line for _, line in COMMANDS if line.startswith("python ")}))
def test_a_script_exists(line: str):
    first, *rest = shlex.split(line)[1:]
    if first != "-m":
        assert (ROOT / first).is_file()
    elif rest[0].startswith("effbench."):
        assert (ROOT / "src" / rest[0].replace(".", "/")).with_suffix(".py").is_file()
    else:
        assert rest[0] in ("pip", "torch.distributed.run")


PLACEHOLDERS = ("effbench.old", "effbench.new")
"""Of CONTRIBUTING's example of a deprecation."""


def named_objects() -> list[str]:
    """Return the dotted names below effbench that pages put between backticks, calls and files left out."""
    names = {name for text in PAGES.values() for name in re.findall(r"`(effbench(?:\.\w+)+)`", text)}
    return sorted(names - {"effbench.toml", *PLACEHOLDERS})


@pytest.mark.parametrize("name", named_objects())
def test_an_object_that_a_page_names_exists(name: str):
    assert pkgutil.resolve_name(name) is not None


def test_a_key_of_set_that_a_page_names_is_an_option_of_a_target():
    keys = {(page, key) for page, text in PAGES.items() for key in re.findall(r"--set ([\w-]+)=[^\s`]", text)}
    options = {option for target in deploy.registered().values() for option in target.options}
    conditions = {("docs/how-to/import.md", "power")}  # `import --set` notes a condition of the device
    assert {"cc", "size", "htp"} <= {key for _, key in keys}
    assert [] == sorted((page, key) for page, key in keys - conditions if key not in options | {"key"})


def environment(**more: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("EFFBENCH_")}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**inherited, "PATH": path, **more}


def perform(command: list[str], folder: Path, env: Mapping[str, str] | None = None) -> str:
    """Run one command in a folder; it has to end well."""
    done = subprocess.run(
        command, cwd=folder, env=env or environment(), capture_output=True, text=True, timeout=900, check=False
    )
    assert 0 == done.returncode, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr
    return done.stdout


def shape(line: str) -> str:
    """Return a line of output without what differs from run to run: numbers, keys, grades, widths, *cached*."""
    line = re.sub(r"\b[0-9a-f]{10,12}\b", "KEY", line.replace(" (cached)", ""))
    line = re.sub(r"\d+(\.\d+)?(e-\d+)?", "0", line)
    line = re.sub(r"\s[ABCD]$", " GRADE", line.rstrip())
    return " ".join(re.sub(r"[-=]{3,}", "-", line).split())


def not_printed(shown: Sequence[str], output: str) -> list[str]:
    """Return the shown lines that the output does not contain, apart from what differs from run to run."""
    printed = {shape(line) for line in output.splitlines()}
    return [line for line in shown if shape(line) not in printed]


def test_a_line_that_is_not_printed_is_seen():
    output = "model  px   p50 ms  trust\nnet-224-0a1b2c3d4e  224  36.62  B\nnet  224  ok (cached)  1.3e-05\n"
    assert [] == not_printed(["model   px   p50 ms   trust", "net-224-ffffffffff  224  1.2  C"], output)
    assert [] == not_printed(["net  512  ok  2e-06"], output)
    assert ["net  224  failed  1.3e-05"] == not_printed(["net  224  failed  1.3e-05"], output)


def walk_through(page: str, folder: Path, stand_ins: tuple[tuple[str, str], ...] = ()) -> int:
    """Do what a page says from top to bottom; return how many commands and scripts were run."""
    done = 0
    (folder / "effbench.toml").unlink(missing_ok=True)  # that of an earlier page
    for block in blocks(page, PAGES[page]):
        text = block.text
        if block.note.startswith("file "):
            (folder / block.note.removeprefix("file ")).write_text(text)
            continue
        for pattern, other in stand_ins:
            text = re.sub(pattern, other, text)
        if block.language == "python" and not block.skipped:
            perform([sys.executable, "-c", text], folder)
            done += 1
        lines = Block(page, block.language, text, block.note).commands if block in SHELL and not block.skipped else []
        for line in lines:
            if line.startswith(EXECUTED):
                output = perform(["bash", "-c", line], folder)
                if not stand_ins and not block.note.startswith("varies "):
                    assert [] == not_printed(block.output.get(line, []), output), output
                done += 1
    return done


@pytest.fixture(scope="module")
def desk(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the small model is exported already, shared by the pages as a reader's would be."""
    folder = tmp_path_factory.mktemp("desk") / "work"
    shutil.copytree(exported, folder)
    return folder


@pytest.mark.xdist_group("export")
@pytest.mark.parametrize(
    "name", ["models", "export", "verify", "profile", "evaluate", "state", "report", "devices", "kit", "python-api"]
)
def test_a_page_runs_on_a_small_model(name: str, desk: Path):
    (page,) = (page for page in PAGES if page.endswith(f"/{name}.md") and "/api/" not in page)
    assert walk_through(page, desk, STAND_INS) > 0


@pytest.fixture(scope="module")
def own_desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder."""
    return tmp_path_factory.mktemp("own_desk")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.xdist_group("export")
@pytest.mark.parametrize("page", [page for page in PAGES if any(block.page == page for block in BLOCKS)])
def test_a_page_runs_word_by_word(page: str, own_desk: Path):
    expected = sum(
        1 if block.language == "python" else len([line for line in block.commands if line.startswith(EXECUTED)])
        for block in BLOCKS
        if block.page == page and not block.skipped and not block.note.startswith("file ")
        if block.language == "python" or block in SHELL
    )
    assert expected == walk_through(page, own_desk)


def anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_lead_somewhere():
    dead, links = [], 0
    for page, text in {**PAGES, "CHANGELOG.md": (ROOT / "CHANGELOG.md").read_text()}.items():
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if link.startswith("https://"):
                continue
            links += 1
            name, _, anchor = link.partition("#")
            path = ((ROOT / page).parent / name).resolve() if name else ROOT / page
            if not path.is_file():
                dead += [link] if path.relative_to(ROOT).as_posix() not in BEING_WRITTEN else []
            elif anchor and anchor not in anchors(path.read_text()):
                dead.append(link)
    assert [] == dead
    assert links > 20


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """Return the lines of the table whose first heading is given: first cell -> the others."""
    table = re.search(rf"^\| {re.escape(heading)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGES[page], re.MULTILINE)
    assert table is not None, f"{page} has no table of {heading}"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()]
    return {first: rest for first, *rest in cells}


def test_the_table_of_grades_is_that_of_the_code():
    def cells(limits: disturbances.TrustThresholds) -> list[str]:
        return [f"{value:g} %" if value != float("inf") else "" for value in (limits.b, limits.c, limits.d)]

    expected = {
        "half-width of p50's interval": trust.UNCERTAINTY_PCT,
        "CPU time of other processes, of one core of two": disturbances.OTHER_CPU_PCT,
        "share of rounds with other processes above half a core": trust.BUSY_ROUND_SHARE_PCT,
        "time ready but not running": disturbances.RUN_DELAY_PCT,
        "time taken by the hypervisor, of one core": disturbances.STEAL_PCT,
        "rounds that were not stationary": trust.NOT_STATIONARY_PCT,
        "drift within rounds": trust.DRIFT_WITHIN_PCT,
        "drift across rounds": trust.DRIFT_ACROSS_PCT,
        "fall of the clock frequency": disturbances.FREQUENCY_DROP_PCT,
        "reference kernel slower than the best seen on the machine": disturbances.REFERENCE_LOSS_PCT,
        "sum of the disturbances, in percent of their C thresholds": disturbances.TOGETHER_PCT,
        "frames missed by a paced round": trust.MISSED_FRAMES_PCT,
        "distance of a second mode": trust.MODE_GAP_PCT,
    }
    documented = rows("docs/explanation/trust.md", "check")
    assert ["", "", "always"] == documented.pop("outputs not final on return")
    assert {name: cells(limits) for name, limits in expected.items()} == documented


def test_the_table_of_fidelity_is_that_of_the_code():
    documented = {name: cells[0] for name, cells in rows("docs/how-to/verify.md", "stored precision").items()}
    for names, text in documented.items():
        for name in names.split(", "):
            stated = [float(number) for number in re.findall(r"(\d[\d.]*(?:e-\d+)?)(?= of the spread|$|,| )", text)]
            assert sorted(LIMITS[name].values()) == sorted(set(stated) - {99.0}), name
    assert set(LIMITS) == {name for names in documented for name in names.split(", ")}


def test_the_tables_of_the_project_file_are_those_of_the_code():
    def keys(heading: str) -> set[str]:
        return {
            key for names in rows("docs/reference/project-file.md", heading) for key in re.findall(r"`(\w+)`", names)
        }

    assert set(budgets.SUITE_KEYS) == keys("suite key")
    assert set(budgets.GATE_KEYS) == keys("gate key")
    assert {*budgets.SELECTORS, *budgets.COUNTED, *budgets.MEASURED, "fidelity"} == keys("budget key")


def test_the_documents_say_what_regla_is():
    for page in ("README.md", "docs/reference/models.md"):
        assert "reconstruct" in PAGES[page]
        assert "not the authors' networks" in " ".join(PAGES[page].split()), page


def test_the_readme_has_one_table_of_measurements_and_its_plot():
    inside = PAGES["README.md"].partition("<!-- table:begin -->")[2].partition("<!-- table:end -->")[0]
    assert 1 == len(re.findall(r"^\|-", inside, re.MULTILINE))
    assert "trust" in inside
    assert (ROOT / "docs" / "img" / "pareto.svg").stat().st_size < 200_000


@pytest.mark.xdist_group("export")
def test_the_readme_is_filled_from_a_report(desk: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import update_readme

    apart = ["--out", "readme"]  # the other tests' rows on this desk were measured otherwise
    arguments = ["toy:net", "--res", "64", "-t", "ort", "--rounds", "1", "--budget", "1"]
    perform(["effbench", "profile", *arguments, *apart], desk)
    perform(["effbench", "report", "--format", "json", *apart], desk)
    rows_of_report = update_readme.measured(desk / "readme" / "report-top1")
    filled = update_readme.replace(PAGES["README.md"], update_readme.table(rows_of_report))
    inside = filled.partition("<!-- table:begin -->")[2].partition("<!-- table:end -->")[0]
    assert re.search(r"^\| toy\.net \| 64 \| ort \| fp32 \| untrained \| (-|0) \| [\d.]+ \|", inside, re.MULTILINE)
    assert "iformer_t" not in inside
    assert PAGES["README.md"].partition("<!-- table:end -->")[2] == filled.partition("<!-- table:end -->")[2]


def test_the_matrix_can_be_read_back_and_written_again(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("tomllib")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import matrix

    monkeypatch.setattr(matrix, "LIBRARIES", ())  # not all of them are installed where this runs
    text = matrix.PAGE.read_text()
    cells = matrix.read(text)
    settings = matrix.suite()
    assert len(cells) == math.prod(len(settings[name]) for name in ("models", "resolutions", "precisions", "targets"))
    again = matrix.write(cells, "")
    assert again[again.index("## How many") :] == text[text.index("## How many") :]


PACKAGE = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "effbench-examples"
version = "1.0"
[project.entry-points."effbench.models"]
plain = "backbone:BACKBONES"
[project.entry-points."effbench.targets"]
onnx-ref = "target:TARGET"
[tool.setuptools]
py-modules = ["backbone", "target"]
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the examples are installed as a package, in a folder of its own."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "pyproject.toml").write_text(PACKAGE)
    for name in ("backbone.py", "target.py"):
        shutil.copy(EXAMPLES / name, folder / name)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*pip, "--target", folder / "site", folder], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    return environment(PYTHONPATH=str(folder / "site"))


def test_the_example_backbone_is_listed(plugin: dict[str, str], tmp_path: Path):
    # Only as installed: the examples' own folder is not on the path.
    assert str(EXAMPLES) not in plugin["PYTHONPATH"]
    assert "backbone:plain_tiny" in perform(["effbench", "models", "plain_tiny"], tmp_path, plugin)


def test_the_example_backbone_gives_four_maps(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import backbone

    model = backbone.plain_tiny().eval()
    maps = model.forward_features(torch.zeros(1, 3, 64, 96))
    assert [(64 // s, 96 // s) for s in (4, 8, 16, 32)] == [tuple(item.shape[-2:]) for item in maps]


@pytest.mark.xdist_group("export")
def test_the_example_target_makes_a_verified_artifact(plugin: dict[str, str], desk: Path):
    assert "onnx-ref" in perform(["effbench", "targets"], desk, plugin)
    stdout = perform(["effbench", "export", "toy:net", "--res", "64", "--target", "onnx-ref"], desk, plugin)
    assert re.search(r"onnx-ref +ok", stdout)


@pytest.mark.slow
@pytest.mark.xdist_group("export")
def test_the_example_backbone_exports_to_the_example_target(plugin: dict[str, str], tmp_path: Path):
    stdout = perform(["effbench", "export", "plain_tiny", "--res", "64", "--target", "onnx-ref"], tmp_path, plugin)
    assert re.search(r"onnx-ref +ok", stdout)


def test_the_example_device_is_read():
    device = devices.read(EXAMPLES / "device.toml")
    assert ("rpi5", "written from documentation") == (device.name, device.evidence)
    assert device.source.startswith("https://")


def test_the_chips_of_the_snapdragon_page_are_those_that_are_known() -> None:
    rows = re.findall(r"^\| (v\d+)[^|]*\| (.*) \|$", (ROOT / "docs" / "how-to" / "qnn.md").read_text(), re.MULTILINE)
    chip = re.compile(r"([A-Z]+\d+P?)\b[^*,]*(\*)?")
    listed = {(name, htp, not star) for htp, chips in rows for name, star in chip.findall(chips)}
    assert listed == {(soc.name, soc.htp, soc.half) for soc in snapdragon.SOCS}
