"""``profile``: latency of artifacts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from effbench.commands import _shared as shared


@shared.command()
@click.argument("names", metavar="[MODEL|ARTIFACT]...", nargs=-1)
@click.option("--res", "resolutions", multiple=True, metavar="PX", help="512, or 384x640. Repeatable.")
@shared.target
@click.option("--threads", type=int, metavar="N", help="Threads of the runtime (default: the device's, or 1).")
@shared.batch
@click.option("--device", default="local", show_default=True, help="Where to measure (see `devices`).")
@click.option("--budget", "budget_s", default=20.0, show_default=True, metavar="S", help="Seconds per artifact.")
@click.option("--rounds", type=int, help="Fresh processes per artifact (default: 10; 1 with --minutes).")
@click.option("--rate", "rate_hz", type=float, metavar="HZ", help="Paced, as a camera would; default: back to back.")
@click.option("--minutes", type=float, help="Sustained: each round lasts so long, whatever the budget.")
@click.option("--cool-down", is_flag=True, help="Before each round, wait for the temperature before the first.")
@click.option("--lock-clocks", is_flag=True, help="Lock the device's clocks meanwhile; asks before, puts them back.")
@click.option("--yes", is_flag=True, help="With --lock-clocks: agree without being asked.")
@click.option("--roofline", is_flag=True, help="Also the device's peaks, and what models and layers reach of them.")
@click.option("--plot", is_flag=True, help="With --minutes or --roofline: also draw them (PNG, SVG).")
@shared.precision
@shared.images
@shared.weights
@shared.seed
@click.option("--record", metavar="FILE", help="Keep the exchange with the device (transport `replay` reads it).")
@shared.out
@shared.json
def profile(
    names: Sequence[str], resolutions: Sequence[str], as_json: bool, plot: bool, roofline: bool, **rest: Any
) -> None:
    """Measure latency. With no name: everything exported so far; with nothing exported: regla_m."""
    from effbench.api.profile.run import profile as run
    from effbench.commands.text import protocol, tables
    from effbench.store import home

    yes = rest.pop("yes")
    rest["lock_clocks"] = _agreed(yes) if rest.pop("lock_clocks") else None
    with shared.Progress() as notify:
        found = run(names, resolutions, notify=notify, **rest)
        roofs = _roofs(found, rest["device"], rest["out"], notify) if roofline else None
    files = protocol.plot(found.measurements, home(rest["out"])) if plot else []
    shared.show(
        as_json,
        found if roofs is None else {"profile": found, "roofline": roofs},
        lambda: tables.profile(found, rest["out"]),
    )
    if roofs is not None:
        from effbench.commands.text import roofline as show_roofline

        click.echo("" if as_json else f"\n{show_roofline.text(roofs)}", nl=not as_json)
        files += show_roofline.plot(roofs, home(rest["out"])) if plot else []
    for path in files:
        click.echo(f"wrote {path}", err=as_json)
    if found.interrupted:
        sys.exit(130)
    problems = [cell for cell in found.cells if cell.status == "failed" or not found.measurements]
    sys.exit(shared.exit_code(problems))


def _agreed(yes: bool) -> Callable[[Sequence[str]], bool]:
    """Return a function that shows what would be changed and asks."""
    from effbench.errors import UsageError

    def ask(changes: Sequence[str]) -> bool:
        click.echo("\n".join(["--lock-clocks changes on the device, until the measurement ends:", *changes]), err=True)
        if not yes and not sys.stdin.isatty():
            raise UsageError("Nobody is there to agree to that.", hint="Add --yes to agree beforehand.")
        return yes or click.confirm("Go on?", err=True)

    return ask


def _roofs(found: Any, device: str, out: str | None, notify: Any) -> Any:
    from effbench.api.profile.roofline import roofline

    return roofline(found.measurements, device, out, notify) if found.measurements and not found.interrupted else None


COMMANDS = (profile,)
