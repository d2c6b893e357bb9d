"""What commands share: common options, progress on standard error, JSON on standard output."""

from __future__ import annotations

import inspect
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from effbench.boundary.names import printable
from effbench.commands._types import DEVICE, FILE, FOLDER, PRECISION, SIZE, TARGET

if TYPE_CHECKING:
    from effbench.schema import Cell


class LazyDefault(click.Option):
    """An option whose default is the value of a function, so that the module it stands in is imported when needed."""

    def get_default(self, ctx: click.Context, call: bool = True) -> Any:
        """Return the value also for ``--help``, where click would print ``(dynamic)``."""
        return super().get_default(ctx, call=True)


def default_resolution() -> int:
    """Return the height and width of an image by default, in pixels."""
    from effbench.schema import DEFAULT_RESOLUTION

    return DEFAULT_RESOLUTION


def default_threads() -> int:
    """Return the number of threads of a runtime by default."""
    from effbench.schema import DEFAULT_THREADS

    return DEFAULT_THREADS


RESOLUTION_HELP = "Image size in pixels: 512, or 384x640 (height x width)."
TARGETS_HELP = "Runtime (see `effbench targets`). Repeatable."
DEVICE_HELP = "Where to run (see `effbench devices`)."
THREADS_HELP = "Threads of the runtime"
BATCH_HELP = "Images per inference"
PRECISION_HELP = "fp32, fp16, int8 or a16w8 (default: the target's)."
IMAGES_HELP = (
    "Folder of images that int8 and a16w8 are calibrated and verified with; 'synthetic' if only latency matters."
)

out = click.option(
    "--out", type=FOLDER, metavar="DIR", help="Folder of all results (default: EFFBENCH_HOME, else runs)."
)
json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
resolutions = click.option(
    "--res", "resolutions", type=SIZE, multiple=True, metavar="PX", help=f"{RESOLUTION_HELP} Repeatable."
)
resolution = click.option(
    "--res",
    "resolution",
    cls=LazyDefault,
    type=SIZE,
    default=default_resolution,
    show_default=True,
    metavar="PX",
    help=RESOLUTION_HELP,
)
targets = click.option("--target", "-t", "targets", type=TARGET, multiple=True, metavar="NAME", help=TARGETS_HELP)
precision = click.option("--precision", type=PRECISION, metavar="NAME", help=PRECISION_HELP)
precisions = click.option(
    "--precision", "precisions", type=PRECISION, multiple=True, metavar="NAME", help=f"{PRECISION_HELP} Repeatable."
)
images = click.option("--images", type=FOLDER, metavar="FOLDER", help=IMAGES_HELP)
weights = click.option(
    "--weights", type=FILE, metavar="FILE", help="A .safetensors file (default: untrained weights from --seed)."
)
seed = click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of untrained weights.")
threads = click.option(
    "--threads",
    cls=LazyDefault,
    type=int,
    default=default_threads,
    show_default=True,
    metavar="N",
    help=f"{THREADS_HELP}.",
)
device = click.option("--device", type=DEVICE, default="local", show_default=True, metavar="NAME", help=DEVICE_HELP)


def inputs(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say what the inputs of an .onnx file take."""
    options = (
        click.option(
            "--input",
            "input_roles",
            multiple=True,
            metavar="NAME=ROLE",
            help="What an input takes, where the guess is wrong: image[:LAYOUT], tokens:N, normal, uniform, "
            "constant:VALUE, size. Repeatable.",
        ),
        click.option(
            "--shape",
            "input_shapes",
            multiple=True,
            metavar="NAME=SHAPE",
            help="Shape of an input, such as x=1x3x48x320. Repeatable.",
        ),
        click.option("--inputs", type=FILE, metavar="FILE", help="A .npz file with samples of inputs to verify with."),
        click.option("--vocabulary", type=int, metavar="N", help="How many tokens there are."),
    )
    for option in reversed(options):
        function = option(function)
    return function


class Command(click.Command):
    """A command that refuses a second value of an option that takes one; click itself would keep the last."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:
            _, _, order = self.make_parser(ctx).parse_args(list(args))
            for parameter, count in Counter(order).items():
                if count > 1 and isinstance(parameter, click.Option) and not _repeatable(parameter):
                    from effbench.errors import UsageError

                    name = " / ".join([*parameter.opts, *parameter.secondary_opts])
                    raise UsageError(f"{name} is given {count} times, but takes one value.", hint="Give it once.")
        return super().parse_args(ctx, args)


def _repeatable(option: click.Option) -> bool:
    only_sets = option.is_flag and not option.secondary_opts
    return option.multiple or option.count or only_sets


def grouped(record: Callable[..., Any], name: str = "options") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the decorator that passes the options named like a record's fields to a command as that record.

    Args:
        record: A dataclass.
        name: The command's parameter that takes it.
    """
    fields = inspect.signature(record).parameters

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def call(**values: Any) -> None:
            function(**{name: record(**{field: values.pop(field) for field in fields})}, **values)

        own = [item for item in inspect.signature(function).parameters.values() if item.name != name]
        keywords = [*own, *fields.values()]
        flat: Any = call
        flat.__signature__ = inspect.Signature([item.replace(kind=item.KEYWORD_ONLY) for item in keywords])
        return call

    return decorate


def command(name: str | None = None) -> Callable[[Callable[..., None]], Command]:
    """Return the decorator that makes a function a `Command`."""
    return click.command(name, cls=Command)


def numbers(option: str, text: str | None) -> tuple[int, ...]:
    """Return the whole numbers in a text like ``1,4,16``; none for no text.

    Raises:
        UsageError: A part is no number above zero.
    """
    from effbench.errors import UsageError

    parts = [] if text is None else [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"{option} {text} is no list of whole numbers above zero.", hint=f"{option} 1,4,16")
    return tuple(map(int, parts))


def pairs(settings: Sequence[str]) -> dict[str, str]:
    """Read ``--set key=value``."""
    from effbench.errors import UsageError

    pairs = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {text}: expected key=value.")
        pairs[key] = value
    return pairs


def mebibytes(value: float | None) -> int | None:
    """Return a number of mebibytes in bytes."""
    return None if value is None else int(value * 2**20)


def show(as_json: bool, data: Any, text: Callable[[], str]) -> None:
    """Print one JSON document, or the text that a person reads."""
    from effbench.codec import document

    click.echo((document(data) if as_json else printable(text())).rstrip())


def exit_code(cells: Iterable[Cell]) -> int:
    """Return the exit code of a command that ended with these cells."""
    from effbench.errors import worst_exit_code

    return worst_exit_code(cell.exit_code for cell in cells)


class Progress:
    """Lines of progress on standard error: a live one in a terminal, plain with EFFBENCH_PROGRESS=1, else none."""

    def __enter__(self) -> Callable[[str], None]:
        self._status: Any = None
        if os.environ.get("EFFBENCH_PROGRESS") == "1":
            return lambda text: click.echo(printable(text), err=True)
        if not sys.stderr.isatty():
            return lambda text: None
        from rich.console import Console

        self._status = Console(stderr=True).status("starting")
        self._status.start()
        return lambda text: self._status.update(printable(text).replace("[", "\\["))

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()
