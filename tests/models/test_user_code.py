"""Errors of a user's own code: theirs, with file and line."""

import inspect
from pathlib import Path

import odd_factories
import pytest

from effbench.errors import ConversionError, UsageError
from effbench.models.build import build, load_factory
from effbench.models.user_code import user_code
from effbench.schema import Backbone, Weights


def user(factory: str) -> Backbone:
    return Backbone(name="own", family="user", factory=factory)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("missing_key", "KeyError: 'conv9'"),
        ("missing_file", "FileNotFoundError: .*weights.bin"),
        ("division", "ZeroDivisionError: "),
    ],
)
def test_a_factorys_error_names_its_line(factory: str, message: str):
    with pytest.raises(ConversionError, match=message) as caught:
        build(user(f"odd_factories:{factory}"), Weights())
    first = inspect.getsourcelines(getattr(odd_factories, factory))[1]
    assert f"odd_factories.py, line {first + 1}, in {factory})" in caught.value.message
    assert caught.value.exit_code == 5


def test_a_missing_file_says_where_it_was_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConversionError) as caught:
        build(user("odd_factories:missing_file"), Weights())
    assert str(tmp_path) in (caught.value.hint or "")


@pytest.mark.parametrize(("code", "error"), [("x = (", "SyntaxError"), ("1 / 0", "ZeroDivisionError")])
def test_a_module_that_raises_when_it_is_imported(
    code: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    name = f"raising_{error.lower()}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConversionError, match=f"{error}.*, line 1"):
        load_factory(f"{name}:net")


def test_an_exit_is_an_error_and_effbenchs_own_errors_stay_theirs():
    with pytest.raises(ConversionError, match="SystemExit: 3"), user_code("call"):
        raise SystemExit(3)
    with pytest.raises(UsageError, match="mine"), user_code("call"):
        raise UsageError("mine")
