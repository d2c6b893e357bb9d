"""A project whose factory depends on everything a factory can depend on, and a change of each kind.

Every dependency holds the number 0, and a change makes it 1. The network has as many layers more as the numbers' sum,
so that a change which is not noticed gives an artifact of another network.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sqlite3
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

VARIABLES = {"KIND_DEPTH": "0", "KIND_FILE": "named.raw"}
"""Set while the project is exported; ``KIND_OPTIONAL`` is read too, and unset."""

FACTORY = '''
import ctypes
import importlib
import importlib.util
import importlib
import importlib.util
import json
import os
import sqlite3
import sys
from pathlib import Path

import editable
import library
import numpy as np
import sibling
import thirdparty
from spaced import inner

from tiny import part

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
VALUE = 0


def by_c(path):
    """Read a number as a library in C does, which Python does not report."""
    c = ctypes.CDLL(None)
    c.fopen.restype = ctypes.c_void_p
    stream = c.fopen(os.fsencode(path), b"rb")
    digit = c.fgetc(ctypes.c_void_p(stream)) - ord("0")
    c.fclose(ctypes.c_void_p(stream))
    return digit


def loaded(name):
    spec = importlib.util.spec_from_file_location("anonymous", ROOT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.VALUE


def zipped():
    sys.path.append(str(ROOT / "archive.zip"))
    return importlib.import_module("zipped").VALUE


def executed():
    names = {}
    exec(compile((ROOT / "executed.txt").read_bytes(), "executed", "exec"), names)
    return names["VALUE"]


def optional():
    try:
        with open(ROOT / "later.json") as stream:
            return json.load(stream)
    except FileNotFoundError:
        return 0


def table():
    with sqlite3.connect(ROOT / "table.db") as base:
        return base.execute("select value from t").fetchone()[0]


def lazy():
    import lazily

    return lazily.VALUE


def numbers():
    """Return the sum of what needs no torch."""
    import tiny
    import native._native

    return sum(
        [
            VALUE, tiny.VALUE, part.VALUE, sibling.VALUE, library.VALUE, inner.VALUE, editable.VALUE, thirdparty.VALUE,
            importlib.import_module("_".join(("by", "name"))).VALUE, loaded("loa" + "ded"), executed(), zipped(),
            json.load(open("cfg.json")), int((ROOT / "table.txt").read_text()), len(os.listdir(ROOT / "parts")) - 1,
            optional(), int(os.path.exists(ROOT / "flag")), int(np.load(ROOT / "array.npy")[0]),
            int(np.memmap(ROOT / "mapped.raw", dtype=np.uint8)[0]), table(), by_c(ROOT / "read_in_c.raw"),
            int((Path(thirdparty.__file__).parent / "data.txt").read_text()),
            int(os.environ["KIND_DEPTH"]), int(os.getenv("KIND_OPTIONAL", "0")), by_c(os.environ["KIND_FILE"]),
        ]
    )  # fmt: skip


def plain():
    """Return the same as `net`, without torch."""
    return numbers() + lazy()


def net():
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file
    from torch import nn

    scripted = torch.jit.load(ROOT / ("scripted" + ".ts"))
    total = numbers() + int(torch.load(ROOT / ("weights" + ".pt"))["v"]) + int(scripted())
    total += int(torch.load(ROOT / ("mapped" + ".pt"), mmap=True)["v"])
    total += int(load_file(ROOT / ("weights" + ".safetensors"))["v"])
    with safe_open(ROOT / ("opened" + ".safetensors"), "pt") as tensors:
        total += int(tensors.get_tensor("v"))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            layers = [layer for _ in range(total) for layer in (nn.Conv2d(8, 8, 3, 1, 1), nn.GELU())]
            self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.GELU(), *layers)
            self.extra = nn.Conv2d(8, 8, 3, 1, 1)
            self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))

        def forward(self, x):
            x = self.body(x)
            for _ in range(lazy() + 1):
                x = self.extra(x)
            return self.head(x)

    return Net()
'''
MODULES = ("tiny/__init__", "tiny/part", "sibling", "library/__init__", "spaced/inner", "lazily", "by_name", "loaded")


@dataclass
class Project:
    """A project at ``root``, with an editable package and an installed one in folders of their own."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: dict(VARIABLES))

    @property
    def elsewhere(self) -> Path:
        """The folder of an editable package, on the module path."""
        return self.root.parent / "elsewhere"

    @property
    def site(self) -> Path:
        """A folder that packages are installed into."""
        return self.root.parent / "venv" / "site-packages"

    @property
    def module_path(self) -> str:
        return os.pathsep.join(map(str, (self.elsewhere, self.site)))

    def variables(self, base: Mapping[str, str]) -> dict[str, str]:
        """Return an environment in which the project is exported."""
        others = {key: value for key, value in base.items() if not key.startswith("KIND_")}
        return {**others, **self.environment, "PYTHONPATH": self.module_path}


def write_project(root: Path, *, torch: bool) -> Project:
    """Write the project; with ``torch`` also the files that only torch writes."""
    project = Project(root)
    for name in MODULES:
        _text(root / f"{name}.py", "VALUE = 0\n")
    (root / ".git").mkdir()
    _text(root / "tiny" / "net.py", FACTORY)
    _text(root / "executed.txt", "VALUE = 0\n")
    _zip(root / "archive.zip", 0)
    _native(root / "native")
    _text(project.elsewhere / "editable.py", "VALUE = 0\n")
    _install(project.site, "1.0", 0)
    _text(root / "cfg.json", "0")
    _text(root / "table.txt", "0")
    _text(root / "parts" / "first", "")
    np.save(root / "array.npy", np.array([0]))
    for name in ("mapped.raw", "read_in_c.raw", "named.raw"):
        _text(root / name, "\0" if name.startswith("mapped") else "0")
    _table(root / "table.db", 0)
    if torch:
        _torch_files(root)
    return project


@dataclass(frozen=True)
class Kind:
    """One kind of change: ``path`` is the file that it concerns, or empty for a variable or package."""

    name: str
    change: Callable[[Project], None]
    path: str = ""
    torch: bool = False
    network: bool = True
    """Whether the network itself changes."""

    @property
    def in_tree(self) -> bool:
        """Whether it is a change of the project's tree, as a gate compares."""
        return bool(self.path)


def kinds() -> list[Kind]:
    """Return every kind of change that a factory's graph depends on."""
    return [*source_kinds(), *data_kinds(), *other_kinds()]


def source_kinds() -> list[Kind]:
    """Return the changes of modules."""
    one = "VALUE = 1\n"
    modules = {
        "the package's __init__": "tiny/__init__.py",
        "a module of the package": "tiny/part.py",
        "a module beside the factory's package": "sibling.py",
        "another package beside it": "library/__init__.py",
        "a module of a namespace package": "spaced/inner.py",
        "a module imported in forward": "lazily.py",
        "a module imported by a computed name": "by_name.py",
        "a module loaded by its path": "loaded.py",
        "source that is executed as text": "executed.txt",
    }
    return [
        Kind("the factory's own module", _replace("tiny/net.py", "VALUE = 0", "VALUE = 1"), "tiny/net.py"),
        *(Kind(name, _write(path, one), path) for name, path in modules.items()),
        Kind("a module in a zip archive", lambda project: _zip(project.root / "archive.zip", 1), "archive.zip"),
        Kind("a C extension", _append_to_native, "native", network=False),
        Kind("an editable package elsewhere", lambda project: _text(project.elsewhere / "editable.py", one)),
    ]


def data_kinds() -> list[Kind]:
    """Return the changes of files that the factory reads."""
    return [
        Kind("a file opened by a relative name", _write("cfg.json", "1"), "cfg.json"),
        Kind("a file read with pathlib", _write("table.txt", "1"), "table.txt"),
        Kind("a new file in a listed folder", _write("parts/new", ""), "parts/new"),
        Kind("a file that did not exist", _write("later.json", "1"), "later.json"),
        Kind("a file that is only asked for", _write("flag", ""), "flag"),
        Kind("np.load", lambda project: np.save(project.root / "array.npy", np.array([1])), "array.npy"),
        Kind("np.memmap", _write("mapped.raw", "\1"), "mapped.raw"),
        Kind("an SQLite table", lambda project: _table(project.root / "table.db", 1), "table.db"),
        Kind("a file opened in C by a name in the source", _write("read_in_c.raw", "1"), "read_in_c.raw"),
        Kind("a data file of an installed package", lambda project: _text(project.site / "thirdparty/data.txt", "1")),
        Kind("torch.load", _tensor("weights.pt"), "weights.pt", torch=True),
        Kind("torch.load with mmap", _tensor("mapped.pt"), "mapped.pt", torch=True),
        Kind("torch.jit.load", _tensor("scripted.ts"), "scripted.ts", torch=True),
        Kind("safetensors load_file", _tensor("weights.safetensors"), "weights.safetensors", torch=True),
        Kind("safetensors safe_open", _tensor("opened.safetensors"), "opened.safetensors", torch=True),
    ]


def other_kinds() -> list[Kind]:
    """Return the changes of variables and installed packages."""
    return [
        Kind("a variable", lambda project: project.environment.update(KIND_DEPTH="1")),
        Kind("a variable that was not set", lambda project: project.environment.update(KIND_OPTIONAL="1")),
        Kind("the file that a variable names", _write("named.raw", "1"), "named.raw"),
        Kind("the version of an installed package", lambda project: _install(project.site, "1.1", 1)),
        Kind("an installed package, same version", lambda project: _install(project.site, "1.0", 1)),
    ]


def unrelated() -> dict[str, Callable[[Project], None]]:
    """Return changes that concern no export."""
    return {
        "a comment in an unrelated module": _write("unrelated.py", "# a comment\n"),
        "touched files": lambda project: [path.touch() for path in project.root.rglob("*") if path.is_file()] and None,
        "a variable that is not read": lambda project: project.environment.update(KIND_UNRELATED="1"),
        "a new file in the project": _write("notes.md", "words"),
        "a new module in the package": _write("tiny/unused.py", "VALUE = 1\n"),
        "a data file that is not read": _write("other.json", "1"),
        "compiled modules removed": lambda project: _remove_compiled(project.root),
        "another package installed": lambda project: _install(project.site, "1.0", 0, "unrelated_package"),
        "a commit": _write(".git/HEAD", "ref: refs/heads/other\n"),
        "permissions of a file": lambda project: (project.root / "cfg.json").chmod(0o600),
    }


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _write(path: str, text: str) -> Callable[[Project], None]:
    return lambda project: _text(project.root / path, text)


def _replace(path: str, old: str, new: str) -> Callable[[Project], None]:
    return lambda project: _text(project.root / path, (project.root / path).read_text().replace(old, new, 1))


def _zip(path: Path, value: int) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("zipped.py", f"VALUE = {value}\n")


def _native(folder: Path) -> None:
    """Put a C extension into a package: one of Python's own, which a package of another name may load again."""
    folder.mkdir(parents=True, exist_ok=True)
    specs = (importlib.util.find_spec(name) for name in ("_heapq", "_bisect", "_json", "_queue", "_decimal", "_ssl"))
    library = next(Path(spec.origin) for spec in specs if spec and spec.origin and Path(spec.origin).is_file())
    _text(folder / "__init__.py", "")
    (folder / library.name).write_bytes(library.read_bytes())
    _text(folder / "_native.py", f"from native import {library.name.partition('.')[0]}\n")


def _append_to_native(project: Project) -> None:
    (library,) = (project.root / "native").glob("*.so")
    library.write_bytes(library.read_bytes() + b"\0")


def _install(site: Path, version: str, value: int, name: str = "thirdparty") -> None:
    info = site / f"{name}-{version}.dist-info"
    for old in site.glob(f"{name}-*.dist-info"):
        for path in old.iterdir():
            path.unlink()
        old.rmdir()
    _text(site / name / "__init__.py", f"VALUE = {value}\n")
    if not (site / name / "data.txt").exists():
        _text(site / name / "data.txt", "0")
    _text(info / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    _text(info / "top_level.txt", f"{name}\n")
    _text(info / "RECORD", f"{name}/__init__.py,sha256=value{value},10\n{name}-{version}.dist-info/METADATA,,\n")


def _table(path: Path, value: int) -> None:
    with sqlite3.connect(path) as base:
        base.execute("create table if not exists t (value int)")
        base.execute("delete from t")
        base.execute("insert into t values (?)", (value,))
    base.close()


def _torch_files(root: Path) -> None:
    for name in ("weights.pt", "mapped.pt", "weights.safetensors", "opened.safetensors", "scripted.ts"):
        _save_tensor(root / name, 0)


def _tensor(name: str) -> Callable[[Project], None]:
    return lambda project: _save_tensor(project.root / name, 1)


def _save_tensor(path: Path, value: int) -> None:
    import torch
    from safetensors.torch import save_file

    tensors = {"v": torch.tensor([value])}
    if path.suffix == ".pt":
        torch.save(tensors, path)
    elif path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.jit.save(torch.jit.script(_constant(value)), path)


def _constant(value: int) -> Any:
    import torch

    class Constant(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("value", torch.tensor([value]))

        def forward(self):  # type: ignore[no-untyped-def]
            return self.value

    return Constant()


def _remove_compiled(root: Path) -> None:
    for path in root.rglob("*.pyc"):
        path.unlink()


def trace(project: Project) -> dict[str, Any]:
    """Run the factory without torch in this process, and return what was recorded; for a fresh process."""
    from effbench.api.export.dependencies.origins import Origins
    from effbench.api.export.dependencies.record import Places
    from effbench.api.export.dependencies.trace import Tracer

    sys.path.append(str(project.root))
    factory = "tiny.net:plain"
    tracer = Tracer(Places(project.root, project.root), Origins(factory, output=project.root.parent / "output"))
    with tracer.active():
        importlib.import_module("tiny.net").plain()
    return tracer.result()


if __name__ == "__main__":
    print(json.dumps(trace(Project(Path(sys.argv[1])))))
