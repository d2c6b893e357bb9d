"""The command line: parse, call `effbench.api`, print, map errors to exit codes.

Nothing heavy is imported before a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from effbench import __version__
from effbench.cli_gate import compare, gate

EXIT_CODES = """\b
Exit codes: 0 fine, 1 fidelity failed or slower, 2 usage or data, 3 inconclusive,
4 target or device unavailable, 5 failed, 130 interrupted."""


class _Commands(click.Group):
    """Suggests near command names."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from effbench.errors import did_you_mean

            raise did_you_mean(args[0], self.list_commands(ctx), "command") from error


_out = click.option("--out", metavar="DIR", help="Write below this folder (default: EFFBENCH_HOME, else runs).")
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
_target = click.option("--target", "-t", "targets", multiple=True, metavar="NAME", help="Repeatable (see `targets`).")
_weights = click.option("--weights", metavar="FILE", help="A .safetensors file; without it: untrained, seeded.")
_seed = click.option("--seed", default=0, show_default=True, help="Of untrained weights.")
_precision = click.option("--precision", metavar="P", help="fp32, fp16, int8 (default: the target's).")
_batch = click.option("--batch", default=1, show_default=True, help="Pictures per inference.")


@click.group(cls=_Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="effbench")
def cli() -> None:
    """Export vision backbones to edge runtimes from one ONNX graph, prove that they are still the same model, and
    measure latency that can be defended.

    \b
    effbench export regla_m --target ort     one graph, translated and verified
    effbench profile --res 512               latency of what is exported
    effbench report                          accuracy against latency, with provenance
    """  # noqa: D301


cli.add_command(compare)
cli.add_command(gate)


@cli.command()
@click.argument("name", required=False)
@click.option("--family", metavar="NAME", help="Only this family.")
@_json
def models(name: str | None, family: str | None, as_json: bool) -> None:
    """List the backbones: parameters, MACs, published accuracy with its source."""
    from effbench import models as registered
    from effbench.api import show
    from effbench.errors import did_you_mean

    if name is not None:
        _print(as_json, registered.get(name), lambda: show.model(registered.get(name)))
        return
    every = registered.models().values()
    families = {item.family for item in every}
    if family is not None and family not in families:
        raise did_you_mean(family, families, "family")
    found = [item for item in every if family in (None, item.family)]
    _print(as_json, found, lambda: show.models(found))


@cli.command()
@_json
def targets(as_json: bool) -> None:
    """List the targets and whether they can be made here."""
    from effbench.api import inspect, show

    rows = inspect.targets()
    _print(as_json, rows, lambda: show.targets(rows))


@cli.command()
@_json
def devices(as_json: bool) -> None:
    """List the devices effbench can measure on."""
    from effbench.api import inspect, show

    rows = inspect.devices()
    _print(as_json, rows, lambda: show.devices(rows))


@cli.command()
@_out
@_json
def doctor(out: str | None, as_json: bool) -> None:
    """Tell what can run here, what is missing, and the line that installs it."""
    from effbench.api import inspect, show

    checks = inspect.doctor(out)
    _print(as_json, checks, lambda: show.checks(checks))


@cli.command()
@click.argument("model", required=False)
@click.option("--finish", "bundle", metavar="BUNDLE", help="Build, on its device, what an export elsewhere left.")
@_target
@click.option(
    "--res", "resolutions", multiple=True, metavar="PX", default=("224",), help="512, or 384x640. Repeatable."
)
@_precision
@_batch
@click.option("--dynamic-batch", is_flag=True, help="Leave the batch open.")
@_weights
@_seed
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="An option of the target.")
@click.option("--verify/--no-verify", default=True, help="Compare with the fp32 reference.", show_default=True)
@click.option("--time-limit", default=600.0, show_default=True, metavar="S", help="Seconds for each stage.")
@_out
@_json
def export(
    model: str | None,
    bundle: str | None,
    targets: Sequence[str],
    resolutions: Sequence[str],
    as_json: bool,
    settings: Sequence[str],
    **rest: Any,
) -> None:
    """Export MODEL (a name, a .onnx file, or package.module:factory) and verify what was made."""
    from effbench.api import show
    from effbench.api.export import export as run
    from effbench.api.export import finish
    from effbench.errors import UsageError

    rest["time_limit_s"] = rest.pop("time_limit")
    if (model is None) == (bundle is None):
        raise UsageError("Name one MODEL to export, or one bundle with --finish.", hint="effbench export regla_m")
    with _Progress() as notify:
        if bundle is not None:
            cells = finish(bundle, options=_pairs(settings), out=rest["out"])
        else:
            cells = run(str(model), targets, resolutions, options=_pairs(settings), notify=notify, **rest)
    _print(as_json, cells, lambda: show.cells(cells, next_command=_after_export(cells, rest["out"])))
    sys.exit(_worst(cells))


@cli.command()
@click.argument("artifacts", nargs=-1, required=True)
@_out
@_json
def verify(artifacts: Sequence[str], out: str | None, as_json: bool) -> None:
    """Compare ARTIFACTS (folders, or names below the output folder) with their fp32 reference once more."""
    from effbench.api import show
    from effbench.api.export import verify as run

    with _Progress() as notify:
        cells = run(artifacts, out=out, notify=notify)
    _print(as_json, cells, lambda: show.cells(cells))
    sys.exit(_worst(cells))


@cli.command()
@click.argument("names", metavar="[MODEL|ARTIFACT]...", nargs=-1)
@click.option("--res", "resolutions", multiple=True, metavar="PX", help="512, or 384x640. Repeatable.")
@_target
@click.option("--threads", default=1, show_default=True, help="Threads of the runtime.")
@_batch
@click.option("--device", default="local", show_default=True, help="Where to measure (see `devices`).")
@click.option("--budget", "budget_s", default=20.0, show_default=True, metavar="S", help="Seconds per artifact.")
@click.option("--rounds", default=10, show_default=True, help="Fresh processes per artifact.")
@_precision
@_weights
@_seed
@_out
@_json
def profile(names: Sequence[str], resolutions: Sequence[str], as_json: bool, **rest: Any) -> None:
    """Measure latency. With no name: everything exported so far; with nothing exported: regla_m."""
    from effbench.api import show
    from effbench.api.profile import profile as run

    with _Progress() as notify:
        found = run(names, resolutions, notify=notify, **rest)
    _print(as_json, found, lambda: show.profile(found, rest["out"]))
    if found.interrupted:
        sys.exit(130)
    problems = [cell for cell in found.cells if cell.status == "failed" or not found.measurements]
    sys.exit(_worst(problems))


@cli.command()
@click.option("--metric", default="top1", show_default=True, help="top1, coco_ap or ade_miou.")
@click.option("--format", "formats", multiple=True, help="Also write: markdown, csv, json, html, latex. Repeatable.")
@click.option("--plot", is_flag=True, help="Also draw the Pareto plots (PNG, SVG).")
@click.option("--paper", is_flag=True, help="Also write a booktabs table, caption, methods and BibTeX.")
@click.option("--published", default="same", show_default=True, help="Published rows beside: none, same, all.")
@_out
@_json
def report(metric: str, as_json: bool, **rest: Any) -> None:
    """Print accuracy against latency, one table per device and resolution."""
    from effbench.api.report import write

    written = write(metric, **rest)
    if as_json:
        click.echo(written.json.rstrip())
        return
    click.echo(written.text.rstrip())
    for path in written.files:
        click.echo(f"wrote {path}")


def _pairs(settings: Sequence[str]) -> dict[str, str]:
    from effbench.errors import UsageError

    pairs = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {text}: expected key=value.")
        pairs[key] = value
    return pairs


def _after_export(cells: Sequence[Any], out: str | None) -> str | None:
    from effbench.schema import resolution_text

    sizes = sorted({cell.resolution for cell in cells if cell.status == "ok"})
    if not sizes:
        return None
    return (
        "effbench profile"
        + "".join(f" --res {resolution_text(size)}" for size in sizes)
        + (f" --out {out}" if out else "")
    )


def _worst(cells: Sequence[Any]) -> int:
    """Return the exit code of the most serious cell: failed, then fidelity, usage, unavailable."""
    codes = {cell.exit_code for cell in cells}
    return next((code for code in (5, 1, 2, 4, 3) if code in codes), 0)


def _print(as_json: bool, data: Any, text: Callable[[], str]) -> None:
    if not as_json:
        click.echo(text().rstrip())
        return
    from effbench.codec import plain
    from effbench.schema import FORMAT_VERSION

    click.echo(json.dumps({"format": FORMAT_VERSION, "data": plain(data)}, indent=1, sort_keys=True))


class _Progress:
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; every `EffbenchError` ends as one sentence and its exit code."""
    from effbench.errors import EffbenchError

    try:
        cli.main(args=list(arguments) if arguments is not None else None, prog_name="effbench", standalone_mode=False)
    except EffbenchError as error:
        click.echo(f"effbench: {error}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("effbench: interrupted; what was finished is kept", err=True)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
