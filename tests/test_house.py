"""The shape of the repository: who imports whom, what a bare interpreter can load, and what the wheel carries."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from places import ROOT

import effbench
from effbench import deploy
from effbench.schema import PRECISIONS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SOURCE = ROOT / "src" / "effbench"
LAYERS = ("models", "deploy", "profiles", "reports")
STANDS_ON = {"training": "models"}
"""A part between the layers and what composes them: of the layers it may import that one."""

Floors = tuple[tuple[str, ...], ...]
FLOORS: Floors = (
    ("errors",),
    ("boundary",),
    ("drafts", "reading", "schema"),
    ("codec",),
    ("data", "process", "registry", "statistics", "store", "threads"),
    LAYERS,
    tuple(STANDS_ON),
    ("device",),
    ("api",),
    ("lab",),
    ("commands", "pytest_plugin"),
    ("cli",),
)
"""Lowest first; a module imports from floors below its own and from its own part, never from above or beside."""

INSIDE: dict[str, Floors] = {
    "deploy": (("artifact",), ("graph",), ("interpreter",), ("precision",), ("targets",)),
    "api": (
        ("keywords", "remote"),
        ("export",),
        ("profile", "evaluate", "distill"),
        ("compare", "report"),
        ("quantize", "devices", "sweep", "claims"),
    ),
}
"""The same inside two large parts; what belongs to no floor there is that part's own top module."""

MOST_MODULES = 12
"""Directly in the package, in `api` and in `deploy`: a reader takes them in at a glance."""

MOST_PARAMETERS = 7
"""Of a function, without ``self``: one that needs more takes a record."""

MIRRORS = ("shared.command", "operator")
"""Decorators of functions whose parameters mirror a list elsewhere: options of a command, attributes of an operator."""


TORCH_ON_IMPORT = (
    "models",
    "training",
    "deploy.interpreter",
    "deploy.precision.fp32_islands",
    "deploy.precision.int8_operators",
    "deploy.precision.noise",
    "deploy.precision.pairing",
    "deploy.precision.rounding",
)
WITHOUT_TORCH = (
    "models",
    "models.declared",
    "models.mixers",
    "models.parts",
    "models.sources",
    "models.torchvision_operators",
    "models.user_code",
    "models.weights",
    "training",
    "training.journal",
    "training.recipe",
)
"""What the command line needs before any export or training."""

TORCH_INSIDE = (
    *TORCH_ON_IMPORT,
    "deploy.graph.from_torch",
    "deploy.graph.torch_program",
    "deploy.targets.torch",
    "deploy.targets.coreml",
    "api.distill",
    "api.export.worker_graph",
    "api.export.worker_precision",
    "threads",
)
HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "openvino",
    "coremltools",
    "matplotlib",
    "pandas",
    "scipy",
    "timm",
    "PIL",
    "pyarrow",
)

ABSOLUTE = re.compile(r"(?<![\w.~$})*-])/(?:home|root|Users|tmp|work)/\w")
"""Folders that exist on one machine only; ``/data/local/tmp`` of Android and ``https://x/home/`` are not meant."""

LARGEST_BYTES = 2 * 2**20

NO_NOUNS = (
    *("found", "given", "made", "asked", "kept", "seen", "told", "said", "wanted"),
    *("whatever", "whoever", "somebody", "ours", "theirs", "picture", "pictures"),
)
"""What no variable, parameter, function or field is called: a name says which thing it holds."""

LINUX_ONLY = ("fcntl", "grp", "pwd", "resource", "termios")
"""Modules that Windows lacks."""

LACKING = {
    "win32": {
        "os": ("fork", "geteuid", "getloadavg", "killpg", "mkfifo", "sched_getaffinity", "statvfs", "sysconf"),
        "signal": ("SIGHUP", "SIGKILL"),
    },
    "darwin": {"os": ("sched_getaffinity",), "signal": ()},
}
"""What modules of the standard library do not have on another system."""


@dataclass(frozen=True)
class Import:
    """One import statement: the module that has it, what it names, and whether it runs when the module is imported."""

    module: str
    name: str
    on_import: bool
    line: int

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.name}"


def modules() -> dict[str, Path]:
    """Return every module of the package by its name below ``effbench``; the package itself is the empty name."""
    paths = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        paths[".".join(part for part in parts if part != "__init__")] = path
    return paths


MODULES = modules()


def imports(module: str, source: str) -> Iterator[Import]:
    """Yield the imports of some source text; those that only a type checker sees are left out."""

    def walk(node: ast.AST, on_import: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                for other in child.orelse:
                    yield from walk(ast.Module([other], []), on_import)
                continue
            for name in named(child):
                yield Import(module, name, on_import and not isinstance(child, ast.Call), getattr(child, "lineno", 0))
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from walk(child, on_import and not inside)

    yield from walk(ast.parse(source), True)


def named(node: ast.AST) -> list[str]:
    """Return the full names that a node imports; of ``from effbench import x`` the module x."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: imports are absolute here"
        assert node.module is not None
        if node.module == "effbench":
            return [f"effbench.{alias.name}" for alias in node.names if alias.name in MODULES]
        inside = [f"{node.module}.{alias.name}" for alias in node.names]
        modules = [name for name in inside if name.removeprefix("effbench.") in MODULES]
        # Of ``from package import module`` the module counts; the package only if a name of its own is imported.
        return modules if len(modules) == len(inside) else [*modules, node.module]
    if isinstance(node, ast.Call) and getattr(node.func, "id", None) in ("import_module", "__import__", "LazyModule"):
        return [str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant)]
    return []


@cache
def every_import() -> tuple[Import, ...]:
    return tuple(one for module, path in MODULES.items() for one in imports(module, path.read_text()))


def part(module: str, depth: int = 0) -> str:
    return [*module.removeprefix("effbench.").split("."), "", ""][depth]


def floor(module: str, floors: Floors = FLOORS, depth: int = 0) -> int:
    return next((index for index, names in enumerate(floors) if part(module, depth) in names), -1)


def forbidden(one: Import) -> bool:
    """Say whether an import within effbench points up, or sideways into another part of the same floor."""
    if not one.name.startswith("effbench.") or one.module == "":
        return False
    here, there = part(one.module), part(one.name)
    if here == there:
        inside = INSIDE.get(here, ())
        if part(one.module, 1) == part(one.name, 1) or floor(one.name, inside, 1) < 0:
            return False
        return floor(one.name, inside, 1) >= floor(one.module, inside, 1)
    if here in STANDS_ON and there in LAYERS:
        return there != STANDS_ON[here]
    return floor(one.name) >= floor(one.module)


def circles() -> list[list[str]]:
    """Return the groups of modules that import each other, however indirectly (Tarjan's algorithm)."""
    edges: dict[str, set[str]] = {module: set() for module in MODULES}
    for one in every_import():
        edges[one.module].add(one.name.removeprefix("effbench."))
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for other in edges[module] & edges.keys():
            if other not in number:
                visit(other)
            if other in stack:
                lowest[module] = min(lowest[module], lowest[other])
        if lowest[module] == number[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            groups.append(group)

    for module in edges:
        if module not in number:
            visit(module)
    return [sorted(group) for group in groups if len(group) > 1]


def below(module: str, parents: tuple[str, ...]) -> bool:
    return any(module == parent or module.startswith(parent + ".") for parent in parents)


def test_every_module_has_a_floor():
    assert [] == [module for module in MODULES if module and floor(module) < 0]


def test_imports_run_one_way():
    assert [] == [str(one) for one in every_import() if forbidden(one)]


def test_no_modules_import_each_other():
    assert [] == circles()


@pytest.mark.parametrize("folder", ["", "api", "deploy"])
def test_a_folder_holds_few_modules(folder: str):
    beside = [module for module in MODULES if module and module.rpartition(".")[0] == folder]
    assert 0 < len([module for module in beside if MODULES[module].name != "__init__.py"] or [folder]) <= MOST_MODULES


@pytest.mark.parametrize("part", INSIDE)
def test_every_module_inside_a_part_has_a_floor(part: str):
    inside = [module for module in MODULES if module.startswith(f"{part}.")]
    assert inside
    assert [] == [module for module in inside if floor(module, INSIDE[part], 1) < 0]


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("errors", "from effbench.schema import Cell"),
        ("models.regla", "from effbench import deploy"),
        ("reports.rows", "def f():\n    from effbench.profiles.trust import grade"),
        ("schema", "from importlib import import_module\nimport_module('effbench.store')"),
        ("store", "from effbench.statistics.percentiles import quantile"),
        ("device.agent", "from effbench.api.export import source"),
        ("api.export.run", "from effbench.api.quantize import search"),
        ("api.profile.run", "from effbench.api.evaluate import session"),
        ("deploy.interpreter.engine", "from effbench.deploy.precision.half import to_fp16"),
        ("training.loop", "from effbench.deploy import fidelity"),
        ("models.regla", "from effbench.training import recipe"),
        ("api.export", "if True:\n    import effbench.cli"),
    ],
)
def test_a_forbidden_import_is_seen(module: str, text: str):
    assert [True] == [forbidden(one) for one in imports(module, text) if one.name.startswith("effbench")]


def test_what_only_a_type_checker_sees_is_no_import():
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\nelse:\n    import numpy"
    assert ["typing", "numpy"] == [one.name for one in imports("reports", text)]


def test_torch_is_imported_where_the_models_and_the_graph_are():
    torch = [one for one in every_import() if part(one.name) == "torch"]
    assert any(one.module == "models.regla" for one in torch), "the search sees nothing"
    allowed = {True: TORCH_ON_IMPORT, False: TORCH_INSIDE}
    assert [] == [str(one) for one in torch if not below(one.module, allowed[one.on_import])]


def bare(code: str, *allowed: str) -> subprocess.CompletedProcess[str]:
    """Run some code where, besides the standard library and effbench, only the allowed packages can be imported."""
    only = f"""
import sys
class Only:
    def __init__(self, finders):
        self.finders = finders
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.stdlib_module_names | {{"effbench", *{allowed!r}}}:
            return next((spec for finder in self.finders if (spec := finder.find_spec(name, path, target))), None)
sys.meta_path[:] = [Only(sys.meta_path[:])]
"""
    env = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    return subprocess.run([sys.executable, "-c", only + code], env=env, capture_output=True, text=True, check=False)


IMPORT_ALL = """
import importlib
for name in NAMES:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        print(name, error.name)
"""


LIGHT_COMMANDS = ("commands", *(module for module in MODULES if below(module, ("commands.text",))))
"""What the commands need without click: the terminal texts."""


def test_a_bare_interpreter_with_numpy_imports_everything_but_the_models():
    names = [f"effbench.{module}" for module in MODULES if module]
    done = bare(f"NAMES = {names!r}" + IMPORT_ALL, "numpy")
    assert 0 == done.returncode, done.stderr
    missing = dict(line.split() for line in done.stdout.splitlines())
    expected = {m for m in MODULES if below(m, TORCH_ON_IMPORT) and m not in WITHOUT_TORCH}
    heavy = {m.removeprefix("effbench."): name for m, name in missing.items() if name in ("torch", "onnx")}
    assert expected == set(heavy)
    commands = {f"effbench.{m}": "click" for m in MODULES if below(m, ("cli", "commands")) and m not in LIGHT_COMMANDS}
    rest = {**commands, "effbench.pytest_plugin": "pytest"}
    assert rest == {module: name for module, name in missing.items() if module.removeprefix("effbench.") not in heavy}


@pytest.mark.parametrize(
    ("arguments", "packages"),
    [
        (["--help"], ["click"]),
        (["export", "--help"], ["click"]),
        (["models"], ["click", "tabulate", "wcwidth"]),
        (["devices"], ["click", "tabulate", "wcwidth", "tomli", "numpy"]),
        (["targets"], ["click", "tabulate", "wcwidth", "tomli", "numpy"]),
    ],
    ids=" ".join,
)
def test_the_command_line_starts_without_anything_heavy(arguments: list[str], packages: list[str]):
    done = bare(f"from effbench.cli import main\nmain({arguments!r})", *packages)
    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout


def test_an_export_that_is_cached_needs_no_numpy():
    """Its parent process imports these; numpy alone would take a sixth of the time of the command."""
    names = ["effbench.api.export.run", "effbench.api.export.exporter", "effbench.commands.text.results"]
    done = bare(f"NAMES = {names!r}" + IMPORT_ALL + "\nfrom effbench import deploy\ndeploy.registered()", "tabulate")
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


def test_in_a_bare_interpreter_the_rest_is_missing():
    done = bare("import torch", "numpy")
    assert 1 == done.returncode
    assert "No module named 'torch'" in done.stderr


def test_no_module_imports_what_windows_lacks():
    every = [one for one in every_import() if part(one.name) in LINUX_ONLY]
    assert {"resource", "fcntl"} <= {one.name for one in every}, "the search sees nothing"
    assert [] == [str(one) for one in every if one.on_import]


ELSEWHERE = """
import importlib, os, signal, sys
for name in NAMES:  # the libraries they use, as this system has them
    importlib.import_module(name)
for name in [name for name in sys.modules if name.partition(".")[0] == "effbench"]:
    del sys.modules[name]
sys.platform = PLATFORM
sys.modules.update(dict.fromkeys(BLOCKED))
for owner in (os, signal):
    for name in LACKING[owner.__name__]:
        delattr(owner, name)
for name in NAMES:
    try:
        importlib.import_module(name)
    except (ImportError, AttributeError) as error:
        print(f"{name}: {error!r}")
"""


def elsewhere(platform: str, code: str = "") -> list[str]:
    """Import every light module as on another system, run some code there, and return the lines it prints."""
    light = [module for module in MODULES if not below(module, TORCH_ON_IMPORT) or module in WITHOUT_TORCH]
    names = [f"effbench.{module}".rstrip(".") for module in light]
    values = f"PLATFORM, NAMES, BLOCKED, LACKING = {platform!r}, {names!r}, {LINUX_ONLY!r}, {LACKING[platform]!r}"
    env = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    command = [sys.executable, "-c", values + ELSEWHERE + code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("platform", LACKING)
def test_light_modules_are_imported_on_other_systems(platform: str):
    assert [] == elsewhere(platform)


ON_WINDOWS = """
from pathlib import Path
from effbench.api.compare import rounds
from effbench.api.export import stage
from effbench.api.sweep.run import default_workers
from effbench.device import supervisor
from effbench.errors import UnavailableError
from effbench.process import run
from effbench.profiles import clocks, environment
from effbench.profiles.transports.channel import Pipe
environment.PROC = environment.SYS = Path("no such folder")
assert environment.observe()["governor"] is None
assert environment.counters()["own_cpu_s"] > 0
assert environment.peak_rss_bytes() == 0
assert stage.Limits.of(60).memory_bytes is None
assert default_workers() >= 1
for call in (
    lambda: list(run("module", {}, time_limit_s=1)),
    lambda: Pipe(["command"]),
    lambda: rounds._two_workers({}, None),
    lambda: clocks.lock(Path("x"), Path("no such folder/x"), 1),
    supervisor.main,
):
    try:
        call()
    except (UnavailableError, clocks.ClockError, SystemExit) as error:
        print(getattr(error, "message", error))
"""


def test_what_windows_lacks_ends_in_a_sentence():
    lines = elsewhere("win32", ON_WINDOWS)
    assert 5 == len(lines)
    assert [] == [line for line in lines if "Linux" not in line]


def test_heavy_packages_are_imported_inside_functions():
    light = [one for one in every_import() if one.on_import and not below(one.module, TORCH_ON_IMPORT)]
    assert [] == [str(one) for one in light if part(one.name) in HEAVY]


def test_reports_never_need_torch():
    reached: set[str] = set()
    waiting = [module for module in MODULES if below(module, ("reports",))]
    while waiting:
        module = waiting.pop()
        if module in reached or module not in MODULES:
            continue
        reached.add(module)
        names = [one.name for one in every_import() if one.module == module]
        assert set() == {"torch", "onnx", "onnxruntime", "openvino"} & set(names), module
        waiting += [name.removeprefix("effbench.") for name in names if name.startswith("effbench.")]
    assert {"errors", "schema", "reports.rows"} <= reached


def test_a_class_name_means_one_thing():
    classes = [
        node.name
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert [] == sorted(name for name, count in Counter(classes).items() if count > 1)


def functions_of_many_parameters(module: str, source: str) -> list[str]:
    """Return the functions with more than `MOST_PARAMETERS`, apart from those that mirror a list elsewhere."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = sum(argument.arg not in ("self", "cls") for argument in parameters)
            mirrors = any(ast.unparse(item).partition("(")[0] in MIRRORS for item in node.decorator_list)
            names += [f"{module}.{node.name}"] if count > MOST_PARAMETERS and not mirrors else []
    return names


def test_a_function_takes_few_parameters():
    sources = {module: path.read_text() for module, path in MODULES.items()}
    assert [] == [name for module, text in sources.items() for name in functions_of_many_parameters(module, text)]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("def f(a, b, c, d, e, f, g): pass", 0),
        ("def f(a, b, c, d, /, e, f, *, g, h): pass", 1),
        ("class A:\n    def f(self, a, b, c, d, e, f, g): pass", 0),
        ("@cache\nasync def f(a, b, c, d, e, f, g, h=1): pass", 1),
        ("@operator('Conv', since=11)\ndef f(a, b, c, d, e, f, g, h): pass", 0),
    ],
)
def test_many_parameters_are_noticed(text: str, count: int):
    assert count == len(functions_of_many_parameters("m", text))


def names_that_hide_a_noun(source: str) -> list[str]:
    """Return the names that some source text binds and that are in `NO_NOUNS`, with their lines."""
    names: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append((node.lineno, node.id))
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.append((node.lineno, node.attr))
        elif isinstance(node, ast.arg):
            names.append((node.lineno, node.arg))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append((node.lineno, node.name))
    return [f"{line}: {name}" for line, name in sorted(names) if name.strip("_") in NO_NOUNS]


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks", "tools", "examples"])
def test_names_are_nouns(folder: str):
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    assert [] == [f"{path}:{name}" for path in paths for name in names_that_hide_a_noun(path.read_text())]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("found = search()", ["1: found"]),
        ("def f(given): return [made for made in given]", ["1: given", "1: made"]),
        ("class A:\n    def _kept(self): self.seen = 1", ["2: _kept", "2: seen"]),
        ("if (found := f()): pass", ["1: found"]),
        ("graphs = f(found)", []),
    ],
)
def test_a_name_that_hides_a_noun_is_noticed(text: str, names: list[str]):
    assert names == names_that_hide_a_noun(text)


def test_every_module_says_what_it_is():
    assert [] == [module for module, path in MODULES.items() if not ast.get_docstring(ast.parse(path.read_text()))]


def members(base: type) -> dict[str, object]:
    """Return the members that a base class declares: annotated attributes (None), properties and methods."""
    declared = {
        name: value
        for name, value in vars(base).items()
        if inspect.isfunction(value) or inspect.isdatadescriptor(value)
    }
    public = {name: value for name, value in declared.items() if not name.startswith("_")}
    return {**dict.fromkeys(inspect.get_annotations(base)), **public}


def keeps_signatures(derived: type, base: type) -> list[str]:
    """Return the methods of a derived class that take other parameters than those of the base class."""
    methods = {name: value for name, value in members(base).items() if inspect.isfunction(value)}
    assert methods
    return [
        name
        for name, method in methods.items()
        if list(inspect.signature(method).parameters) != list(inspect.signature(getattr(derived, name)).parameters)
    ]


@pytest.mark.parametrize("name", sorted(deploy.registered()))
def test_a_target_keeps_the_protocol(name: str):
    target = deploy.get(name)
    assert isinstance(target, deploy.Target)
    assert {"name", "options", "modules", "convert", "open"} <= members(deploy.Target).keys()
    assert [] == keeps_signatures(type(target), deploy.Target)
    assert name == target.name
    assert target.precision in PRECISIONS
    assert {*target.refuses} < {*PRECISIONS}
    assert target.precision not in target.refuses
    texts = (target.title, *target.packages, *target.modules, *target.options.values(), *target.refuses.values())
    assert all(isinstance(text, str) and text for text in texts)
    assert target.checks
    assert all(check.keys() <= target.options.keys() for check in target.checks)
    assert {type(target.on_request), type(target.simulates())} == {bool}
    for reason in (target.available(), target.measurable(), target.license):
        assert reason is None or reason
    assert not (target.simulates() and target.measurable() is None)


def test_a_target_with_another_signature_is_noticed():
    class Odd(deploy.Target):
        def convert(self, graph, out):
            raise AssertionError

        def open(self, artifact, threads, options):
            raise AssertionError

    assert ["convert"] == keeps_signatures(Odd, deploy.Target)


def probes_of_optional_members(source: str) -> list[str]:
    """Return the calls of getattr and hasattr on what is named, annotated or assigned as a target or session."""
    tree = ast.parse(source)
    holders = {"target", "session"}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            if re.search(r"\b(Target|Session)\b", ast.unparse(node.annotation)):
                holders.add(node.arg if isinstance(node, ast.arg) else ast.unparse(node.target))
        elif isinstance(node, ast.Assign) and re.match(r"deploy\.(get|registered)\(", ast.unparse(node.value)):
            holders.update(ast.unparse(target) for target in node.targets)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
    probes = [call for call in calls if ast.unparse(call.func) in ("getattr", "hasattr")]
    subjects = [(ast.unparse(call.args[0]), ast.unparse(call)) for call in probes]
    return [text for subject, text in subjects if subject in holders or subject.startswith("deploy.")]


def test_no_member_of_a_target_or_session_is_probed():
    assert [] == [
        (name, probe) for name, path in MODULES.items() for probe in probes_of_optional_members(path.read_text())
    ]


@pytest.mark.parametrize(
    "text",
    [
        "getattr(target, 'refuses', {})",
        "getattr(deploy.get(name), 'refuses', {})",
        "hasattr(deploy.registered().get(name), 'finish')",
        "runtime = deploy.get(name)\nhasattr(runtime, 'finish')",
        "def f(chosen: Target | None): return getattr(chosen, 'license', '')",
        "run: Session = open()\ngetattr(run, 'images', None)",
    ],
)
def test_a_probe_of_an_optional_member_is_noticed(text: str):
    assert 1 == len(probes_of_optional_members(text))


def test_every_target_names_an_extra_that_installs_it():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert [] == [name for name, target in deploy.registered().items() if target.extra not in extras]


def files() -> list[Path]:
    """Return the files that belong to the repository: tracked, or new and not ignored."""
    git = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(git, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_the_continuous_check_names_tests_that_exist():
    paths = re.findall(r"tests/[\w/]+(?:\.py)?", (ROOT / ".ci" / "run").read_text())
    assert len(paths) > 5
    assert [] == [path for path in paths if not (ROOT / path).exists()]


def test_no_file_is_large():
    paths = files()
    assert ROOT / "pyproject.toml" in paths
    assert [] == [str(path.relative_to(ROOT)) for path in paths if path.stat().st_size > LARGEST_BYTES]


def test_no_file_names_a_folder_of_one_machine():
    places = []
    for path in files():
        if path.is_relative_to(ROOT / "tests") or b"\0" in (data := path.read_bytes()):
            continue
        lines = enumerate(data.decode().splitlines(), 1)
        places += [
            f"{path.relative_to(ROOT)}:{number}: {line.strip()}" for number, line in lines if ABSOLUTE.search(line)
        ]
    assert [] == places


@pytest.mark.parametrize(
    ("text", "matches"), [("cd /home/me/x", True), ("'/tmp/a'", True), ("/data/local/tmp/a", False)]
)
def test_the_pattern_of_a_machine_finds_folders(text: str, matches: bool):
    assert matches == bool(ABSOLUTE.search(text))


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of the repository's files and the wheel built from that sdist."""
    folder = tmp_path_factory.mktemp("distributions")
    for path in files():
        copy = folder / "source" / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(folder / "source")]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> set[str]:
    """The names inside the wheel."""
    (path,) = distributions.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def test_the_version_is_stated_once(distributions: Path):
    names = {f"effbench-{effbench.__version__}.tar.gz", f"effbench-{effbench.__version__}-py3-none-any.whl"}
    assert names == {path.name for path in distributions.iterdir() if path.is_file()}


CHECKOUT_ONLY = (".ci/run", ".gitignore")


def test_the_sdist_holds_every_file_of_the_repository(distributions: Path):
    (path,) = distributions.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = {path.relative_to(ROOT).as_posix() for path in files()} - {*CHECKOUT_ONLY}
    assert set() == expected - names
    assert not [name for name in names if name in CHECKOUT_ONLY or "__pycache__" in name]


def test_the_wheel_carries_the_data_and_nothing_else(wheel: set[str]):
    data = [path for path in SOURCE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    expected = {path.relative_to(SOURCE.parent).as_posix() for path in data}
    assert {"effbench/py.typed", "effbench/models/index.json", "effbench/profiles/devices/local.toml"} <= expected
    assert any(name.startswith("effbench/reports/published/") for name in expected)
    assert expected == {name for name in wheel if ".dist-info/" not in name}


def test_the_wheel_carries_its_license_and_command(wheel: set[str]):
    inside = {name.partition(".dist-info/")[2] for name in wheel if ".dist-info/" in name}
    assert {"METADATA", "entry_points.txt", "licenses/LICENSE"} <= inside


def test_on_a_package_index_the_readme_links_to_files_of_the_repository(distributions: Path):
    (path,) = distributions.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        header, _, readme = archive.read(name).decode().partition("\n\n")
    assert "Description-Content-Type: text/markdown" in header
    targets = re.findall(r"\]\(([^)\s]+)\)", readme)
    absolute = [re.fullmatch(r"https://github\.com/OWNER/effbench/(?:raw|blob)/v[\d.]+/(.+)", link) for link in targets]
    assert len(absolute) > 20
    others = [link for link, match in zip(targets, absolute, strict=True) if not match]
    assert [] == [link for link in others if not link.startswith(("https://", "#"))]
    assert [] == [match[1] for match in absolute if match and not (ROOT / match[1].partition("#")[0]).exists()]
    assert "(https://github.com/OWNER/effbench/raw/v" in readme


def test_no_two_test_files_share_a_name():
    # pytest imports them by that name alone.
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert [] == sorted(name for name, count in Counter(names).items() if count > 1)
