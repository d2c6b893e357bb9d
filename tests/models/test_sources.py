"""The source files of a factory are found without importing anything."""

import subprocess
import sys
from pathlib import Path

import pytest

from effbench.errors import UsageError
from effbench.models.sources import source_files


def names(import_string: str) -> set[str]:
    return {"/".join(path.parts[-2:]) for path in source_files(import_string)}


def test_factories_depend_on_family_layers_and_builder() -> None:
    files = names("effbench.models.regla:regla_m")
    assert {f"models/{name}.py" for name in ("regla", "iformer", "layers", "initialise", "build")} <= files
    assert not files & {"effbench/api.py", "effbench/cli.py", "models/index.py"}
    assert "models/regla.py" not in names("effbench.models.iformer:iformer_m")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's package in the current folder; importing any of it fails."""
    folder = tmp_path / "mypackage"
    (folder / "parts").mkdir(parents=True)
    raises = "raise RuntimeError('was executed')\n"
    (folder / "__init__.py").write_text(raises)
    (folder / "net.py").write_text(raises + "from .parts import block\nimport numpy\nfrom . import extra as e\n")
    (folder / "extra.py").write_text(raises)
    (folder / "unused.py").write_text(raises)
    (folder / "typing_only.py").write_text(raises)
    (folder / "late.py").write_text(raises)
    (folder / "parts" / "__init__.py").write_text(raises)
    (folder / "parts" / "block.py").write_text(
        raises
        + "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mypackage import typing_only\n"
        + "def f():\n    try:\n        import os\n    except ImportError:\n        from ..late import g\n"
    )
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_package_is_followed_without_being_imported(package: Path) -> None:
    files = {
        path.relative_to(package).as_posix() for path in source_files("mypackage.net:f") if package in path.parents
    }
    assert files == {"__init__.py", "net.py", "extra.py", "parts/__init__.py", "parts/block.py", "late.py"}


def test_a_single_module_in_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onefile.py").write_text("from effbench.models.regla import regla_t as net\n")
    monkeypatch.chdir(tmp_path)
    assert {f"{tmp_path.name}/onefile.py", "models/regla.py"} <= names("onefile:net")


@pytest.mark.parametrize("factory", ["no_such_package:f", "effbench.models.nothing:f", ":f"])
def test_a_missing_module_is_named(factory: str) -> None:
    with pytest.raises(UsageError, match="Cannot find the module"):
        source_files(factory)


def test_a_syntax_error_is_named_with_its_line(package: Path) -> None:
    (package / "net.py").write_text("x = 1\ndef (:\n")
    with pytest.raises(UsageError, match=r"net.py:2"):
        source_files("mypackage.net:f")


def test_finding_sources_needs_no_torch() -> None:
    code = (
        "import sys; from effbench.models.sources import source_files; from effbench.models import models; "
        "source_files('effbench.models.regla:regla_m'); models(); "
        "print([m for m in ('torch', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
