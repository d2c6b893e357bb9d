"""Types of arguments and options: a size is parsed here, and the shell completes names.

Everything is imported inside functions, because the shell asks for completions at every press of the tab key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from effbench.schema import InputShapes

    SizeType = click.ParamType[InputShapes]
    TextType = click.ParamType[str]
else:  # before click 8.4 the class takes no type
    SizeType = TextType = click.ParamType

Names = Callable[[click.Context], Iterable[str]]


class SizeParam(SizeType):
    """The height and width of an image in pixels: ``512``, or ``384x640``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> InputShapes:
        """Return the size; a text of another form is an `effbench.errors.UsageError` with an example."""
        from effbench.schema import InputShapes

        return InputShapes.parse(value)


class NameParam(TextType):
    """A name that the shell completes; the command itself refuses an unknown one, and suggests near ones.

    Args:
        name: What it names.
        sources: Each returns names to complete.
        path: What the shell completes if no name fits: ``file``, ``dir`` or nothing.
    """

    def __init__(self, name: str, *sources: Names, path: str = "") -> None:
        self.name = name
        self._sources = sources
        self._path = path

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin with a text, else a request to complete paths."""
        from effbench.errors import EffbenchError

        try:
            names = [name for source in self._sources for name in source(ctx)]
        except EffbenchError:  # such as an effbench.toml that cannot be read: the command itself reports it
            names = []
        items = [CompletionItem(name) for name in names if name.startswith(incomplete)]
        return items if items or not self._path else [CompletionItem(incomplete, type=self._path)]


def _models(_: click.Context) -> Iterable[str]:
    from effbench import models

    return models.models()


def _families(_: click.Context) -> Iterable[str]:
    from effbench import models

    return dict.fromkeys(model.family for model in models.models().values())


def _targets(_: click.Context) -> Iterable[str]:
    from effbench import deploy

    return deploy.registered()


def _devices(_: click.Context) -> Iterable[str]:
    from effbench.profiles import devices

    return devices.devices()


def _artifacts(ctx: click.Context) -> Iterable[str]:
    from effbench.store import home

    return sorted(path.parent.name for path in (home(ctx.params.get("out")) / "artifacts").glob("*/manifest.json"))


def _precisions(_: click.Context) -> Iterable[str]:
    from effbench.schema import PRECISIONS

    return PRECISIONS


SIZE = SizeParam()
MODEL = NameParam("model", _models, path="file")
REGISTERED_MODEL = NameParam("model", _models)
FAMILY = NameParam("family", _families)
TARGET = NameParam("target", _targets)
DEVICE = NameParam("device", _devices, path="file")
ARTIFACT = NameParam("artifact", _artifacts, path="dir")
MODEL_OR_ARTIFACT = NameParam("model or artifact", _models, _artifacts, path="file")
PRECISION = NameParam("precision", _precisions)
FILE = NameParam("file", path="file")
FOLDER = NameParam("folder", path="dir")


def alternatives(names: Iterable[str]) -> str:
    """Return names as a help text lists them: ``a, b or c``."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def one_of(*names: str) -> NameParam:
    """Return the type of an option with a few fixed names."""
    return NameParam("name", lambda _: names)
