"""What `Target` and `Session` declare: the defaults that a target in another package relies on."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from effbench import deploy
from effbench.deploy import Converted, Session, Target
from effbench.errors import UsageError
from effbench.schema import Proof


class EchoSession(Session):
    def __call__(self, feeds):
        return feeds


class Echo(Target):
    name = "echo"
    title = "Echo"

    def convert(self, graph, out, options):
        return Converted("model.onnx", "fp32")

    def open(self, artifact, threads, options):
        return EchoSession()


class Absent(Echo):
    packages = ("onnx", "no-such-package")


def test_every_optional_member_of_a_target_has_a_default(tmp_path):
    target = Echo()
    assert ("", (), (), "fp32") == (target.extra, target.packages, target.modules, target.precision)
    assert ({}, {}, ({},)) == (target.refuses, target.options, target.checks)
    assert (False, None, False) == (target.on_request, target.license, target.simulates())
    assert (None, None) == (target.available(), target.measurable())
    with pytest.raises(UsageError, match="bundle is complete: target 'echo' leaves nothing to finish"):
        target.finish(tmp_path / "bundle", tmp_path, {})


def test_every_optional_member_of_a_session_has_a_default():
    session = EchoSession()
    assert (None, False, None) == (session.compute_precision, session.simulated, session.max_images)
    assert Proof.RUNTIME is session.proof
    assert {} == session.placement()
    session.close()
    session.simulated = True
    assert Proof.SIMULATOR is session.proof


@pytest.mark.parametrize(("count", "text"), [(0, ""), (5, "0, 1, 2, 3, 4"), (6, "0, 1, 2, 3, 4 and 1 more")])
def test_a_message_lists_at_most_five_names(count: int, text: str):
    assert text == deploy.abbreviate([str(number) for number in range(count)])


@pytest.mark.parametrize("base", [Target, Session])
def test_what_has_no_default_must_be_implemented(base: type):
    with pytest.raises(TypeError, match="abstract"):
        base()


def test_a_missing_package_is_named():
    assert ("onnx", "no_such_package") == Absent().modules
    assert "the package 'no-such-package' is not installed" == Absent().available() == Absent().measurable()


class WithExtra(Absent):
    extra = "ort"


def test_the_command_that_installs_a_target_names_an_extra_or_its_packages():
    assert "pip install onnx no-such-package" == Absent().install_command
    assert "pip install 'effbench[ort]'" == WithExtra().install_command
    assert "" == Echo().install_command


def test_a_folder_with_the_name_of_a_package_is_not_the_package(tmp_path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "no_such_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not deploy.installed("no_such_package")
    (tmp_path / "no_such_package" / "__init__.py").touch()
    assert deploy.installed("no_such_package")


def registered(monkeypatch: pytest.MonkeyPatch, value: str) -> dict[str, Target]:
    point = EntryPoint("echo", value, "effbench.targets")
    monkeypatch.setattr(deploy, "plugins", lambda group: (point,))
    return deploy.registered.__wrapped__()


def test_an_entry_point_adds_a_target(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(globals(), "ECHO", Echo())
    targets = registered(monkeypatch, f"{__name__}:ECHO")
    assert "Echo" == targets["echo"].title
    assert "echo" == list(targets)[-1]


def test_an_entry_point_that_is_no_target_is_refused(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UsageError, match=r"'echo' .* is not a target") as caught:
        registered(monkeypatch, f"{__name__}:Echo")  # the class, where an instance is needed
    assert "effbench.deploy.Target" in str(caught.value.hint)
