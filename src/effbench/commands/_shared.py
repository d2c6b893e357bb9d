"""What commands share: common options, progress on standard error, JSON on standard output."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from effbench.schema import Cell

out = click.option("--out", metavar="DIR", help="Write below this folder (default: EFFBENCH_HOME, else runs).")
json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
target = click.option("--target", "-t", "targets", multiple=True, metavar="NAME", help="Repeatable (see `targets`).")
weights = click.option("--weights", metavar="FILE", help="A .safetensors file; without it: untrained, seeded.")
seed = click.option("--seed", default=0, show_default=True, help="Of untrained weights.")
precision = click.option("--precision", metavar="P", help="fp32, fp16, int8, a16w8 (default: the target's).")
images = click.option("--images", metavar="FOLDER", help="To calibrate int8 and verify it; or synthetic: latency only.")
batch = click.option("--batch", default=1, show_default=True, help="Images per inference.")


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


def command(name: str | None = None) -> Callable[[Callable[..., None]], Command]:
    """Return the decorator that makes a function a `Command`."""
    return click.command(name, cls=Command)


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


def show(as_json: bool, data: Any, text: Callable[[], str]) -> None:
    """Print one JSON document, or the text that a person reads."""
    from effbench.codec import document

    click.echo((document(data) if as_json else text()).rstrip())


def exit_code(cells: Iterable[Cell]) -> int:
    """Return the exit code of a command that ended with these cells."""
    from effbench.errors import worst_exit_code

    return worst_exit_code(cell.exit_code for cell in cells)


class Progress:
    """Lines of progress on standard error: a live one in a terminal, plain with EFFBENCH_PROGRESS=1, else none."""

    def __enter__(self) -> Callable[[str], None]:
        self._status: Any = None
        if os.environ.get("EFFBENCH_PROGRESS") == "1":
            return lambda text: click.echo(text, err=True)
        if not sys.stderr.isatty():
            return lambda text: None
        from rich.console import Console

        self._status = Console(stderr=True).status("starting")
        self._status.start()
        return lambda text: self._status.update(text.replace("[", "\\["))

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()
