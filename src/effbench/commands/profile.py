"""``profile``: latency of artifacts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from effbench.boundary.names import printable
from effbench.commands import _shared as shared
from effbench.commands._types import FILE, MODEL_OR_ARTIFACT

if TYPE_CHECKING:
    from effbench.api.export.stage import Notify
    from effbench.api.profile.roofline import Roofline
    from effbench.api.profile.run import Profile
    from effbench.schema import InputShapes


@shared.command()
@click.argument("names", nargs=-1, type=MODEL_OR_ARTIFACT, metavar="[MODEL|ARTIFACT]...")
@shared.resolutions
@shared.targets
@click.option("--threads", type=int, metavar="N", help=f"{shared.THREADS_HELP} (default: the device's, or 1).")
@click.option(
    "--batch",
    "batches",
    metavar="N,...",
    help="Images per inference, such as 4, or 1,4,16 beside each other (default: the artifact's, else 1).",
)
@shared.device
@click.option("--budget", "budget_s", default=20.0, show_default=True, metavar="S", help="Seconds per artifact.")
@click.option(
    "--rounds", type=int, metavar="N", help="Fresh processes per artifact (default: 10, or 1 with --minutes)."
)
@click.option("--rate", "rate_hz", type=float, metavar="HZ", help="Inferences a second (default: back to back).")
@click.option("--minutes", type=float, metavar="M", help="Sustained: how long a round lasts, regardless of the budget.")
@click.option("--cool-down", is_flag=True, help="Let the device cool to its first temperature before each round.")
@click.option("--lock-clocks", is_flag=True, help="Lock the device's clocks meanwhile; asks first, and restores them.")
@click.option("--yes", is_flag=True, help="With --lock-clocks: do not ask.")
@click.option("--force", is_flag=True, help="Measure also what failed verification, or runs on another machine.")
@click.option("--roofline", is_flag=True, help="Also measure the device's peaks and compare layers to them.")
@click.option("--plot", is_flag=True, help="With --minutes or --roofline: also draw plots (PNG, SVG).")
@shared.precision
@shared.images
@shared.weights
@shared.seed
@click.option(
    "--record", type=FILE, metavar="FILE", help="Record the exchange with the device, for the transport 'replay'."
)
@shared.out
@shared.json
def profile(
    names: Sequence[str],
    resolutions: Sequence[InputShapes],
    targets: Sequence[str],
    threads: int | None,
    batches: str | None,
    device: str,
    budget_s: float,
    rounds: int | None,
    rate_hz: float | None,
    minutes: float | None,
    cool_down: bool,
    lock_clocks: bool,
    yes: bool,
    force: bool,
    roofline: bool,
    plot: bool,
    precision: str | None,
    images: str | None,
    weights: str | None,
    seed: int,
    record: str | None,
    out: str | None,
    as_json: bool,
) -> None:
    """Measure latency.

    Without names, it measures everything exported so far, or regla_m if nothing is exported.

    --res, --precision, --images, --weights and --seed apply to models, which are exported first.
    """
    from effbench.api.profile.run import profile as run

    with shared.Progress() as notify:
        result = run(
            names=names,
            resolutions=resolutions,
            targets=targets,
            threads=threads,
            batch=shared.numbers("--batch", batches),
            device=device,
            budget_s=budget_s,
            rounds=rounds,
            rate_hz=rate_hz,
            minutes=minutes,
            cool_down=cool_down,
            force=force,
            lock_clocks=_confirmation(yes) if lock_clocks else None,
            precision=precision,
            images=images,
            weights=weights,
            seed=seed,
            record=record,
            out=out,
            notify=notify,
        )
        roofs = _roofline(result, device, out, notify) if roofline else None
    _show(result, roofs, plot, out, as_json)
    if result.interrupted:
        sys.exit(130)
    sys.exit(shared.exit_code(cell for cell in result.cells if cell.status == "failed" or not result.measurements))


def _show(result: Profile, roofs: Roofline | None, plot: bool, out: str | None, as_json: bool) -> None:
    from effbench.commands.text import next_command, protocol, results
    from effbench.commands.text import roofline as roofline_text
    from effbench.store import home

    files = protocol.plot(result.measurements, home(out)) if plot else []
    files += roofline_text.plot(roofs, home(out)) if plot and roofs is not None else []
    if as_json:
        shared.show(True, result if roofs is None else {"profile": result, "roofline": roofs}, str)
    else:
        click.echo(printable(results.profile(result)))
        if roofs is not None:
            click.echo(printable(f"\n{roofline_text.text(roofs)}"))
    for path in files:
        click.echo(f"wrote {path}", err=as_json)
    if result.measurements and not as_json:
        click.echo(next_command.report(out))


def _confirmation(yes: bool) -> Callable[[Sequence[str]], bool]:
    """Return a function that shows the changes and asks."""
    from effbench.errors import UsageError

    def ask(changes: Sequence[str]) -> bool:
        click.echo("\n".join(["--lock-clocks changes on the device, until the measurement ends:", *changes]), err=True)
        if not yes and not sys.stdin.isatty():
            raise UsageError("--lock-clocks asks first, and standard input is not a terminal.", hint="Add --yes.")
        return yes or click.confirm("Continue?", err=True)

    return ask


def _roofline(result: Profile, device: str, out: str | None, notify: Notify) -> Roofline | None:
    from effbench.api.profile.roofline import roofline

    if not result.measurements or result.interrupted:
        return None
    return roofline(result.measurements, device, out, notify)


COMMANDS = (profile,)
