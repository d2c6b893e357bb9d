"""What commands share: common options, progress on standard error, JSON on standard output, the worst exit code."""

from __future__ import annotations

import json as json_module
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

out = click.option("--out", metavar="DIR", help="Write below this folder (default: EFFBENCH_HOME, else runs).")
json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
target = click.option("--target", "-t", "targets", multiple=True, metavar="NAME", help="Repeatable (see `targets`).")
weights = click.option("--weights", metavar="FILE", help="A .safetensors file; without it: untrained, seeded.")
seed = click.option("--seed", default=0, show_default=True, help="Of untrained weights.")
precision = click.option("--precision", metavar="P", help="fp32, fp16, int8, a16w8 (default: the target's).")
images = click.option("--images", metavar="FOLDER", help="To calibrate int8 and verify it; or synthetic: latency only.")
batch = click.option("--batch", default=1, show_default=True, help="Images per inference.")


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


def worst(cells: Sequence[Any]) -> int:
    """Return the exit code of the most serious cell: failed, then fidelity, usage, unavailable."""
    from effbench.errors import worst_exit_code

    return worst_exit_code(cell.exit_code for cell in cells)


def show(as_json: bool, data: Any, text: Callable[[], str]) -> None:
    """Print one JSON document, or the text that a person reads."""
    if not as_json:
        click.echo(text().rstrip())
        return
    from effbench.codec import plain
    from effbench.schema import FORMAT_VERSION

    click.echo(json_module.dumps({"format": FORMAT_VERSION, "data": plain(data)}, indent=1, sort_keys=True))


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
