"""Compare two models, artifacts or .onnx files in the same run: is B slower than A?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from effbench import deploy
from effbench.api.compare import noise
from effbench.api.compare.rounds import Comparison, RoundSettings, on_device, run
from effbench.api.export.run import Notify, export, find_artifact, silent
from effbench.api.export.source import is_model
from effbench.api.remote import Remote, device_of
from effbench.deploy.artifact import bundle
from effbench.errors import EffbenchError, UnavailableError, UsageError
from effbench.schema import Artifact, parse_resolution, resolution_text
from effbench.statistics.sequential import Rules
from effbench.statistics.verdict import UNCHANGED, WHEN_INCONCLUSIVE, ComparisonReport, Verdict
from effbench.store import home as home_of

TARGET = "ort"
RESOLUTION = 224
LATENCY_BUDGET_S = 8.0
LATENCY_ROUNDS = 6


def compare(
    a: str,
    b: str,
    *,
    resolutions: Sequence[str | int] = (),
    targets: Sequence[str] = (),
    threads: int = 1,
    batch: int | None = None,
    device: str = "local",
    budget_s: float = 60.0,
    rules: Rules | None = None,
    workers: int | None = None,
    base_python: str | None = None,
    latency: bool = False,
    inconclusive: str = "code",
    seed: int | None = None,
    record: str | Path | None = None,
    out: str | Path | None = None,
    notify: Notify = silent,
) -> ComparisonReport:
    """Measure A and B in the same run and say which is slower.

    Args:
        a: The base: an artifact, an .onnx file, or a model name.
        b: The candidate, likewise.
        resolutions: Pixels, for what is exported first; none means that of the artifact on the other side, or 224.
        targets: Likewise; none means that of the artifact, or ``ort``.
        threads: Intra-operator threads of the runtime.
        batch: Images per inference.
        device: Where to run; both sides alternate inside one agent there.
        budget_s: Wall-clock seconds per comparison.
        rules: Floor, margin, chance of a false alarm; None takes the defaults, the floor no lower than calibrated.
        workers: 1 (both sides in one process) or 2 (taking turns); None takes what calibration chose.
        base_python: Run A under this interpreter, so with its runtime version; two workers then.
        latency: Also measure B's latency, in runs of its own.
        inconclusive: ``code`` (exit 3), ``pass`` or ``fail``.
        seed: Of the order of sides; None draws one.
        record: Write the exchange with the device to this file.
        out: The folder to write below.
        notify: Called with one line per step.
    """
    used = device_of(device)
    if inconclusive not in WHEN_INCONCLUSIVE:
        raise UsageError(f"--inconclusive {inconclusive}: code, pass or fail is meant.")
    home = home_of(out)
    known = noise.load(home, threads) if used.transport == "local" else None  # learned on this machine
    rules = noise.raise_floor(rules or Rules(), known.layout_noise_pct if known else 0.0)
    pairs = choose(a, b, resolutions, targets, batch, home, notify)
    setting = setting_of(known, threads, batch, budget_s, workers, base_python, seed)
    with Remote(used, Path(record) if record else None) as remote:
        verdicts, interrupted = contest(pairs, setting, rules, notify, remote=remote)
        seen = None if remote.local else remote.observe()
    if latency:
        verdicts = with_latency(verdicts, [b_side for _, _, b_side in pairs], threads, device, home, notify)
    if used.transport == "local":  # layers are timed on this machine
        verdicts = [explain(item, x, y, setting, notify) for item, (_, x, y) in zip(verdicts, pairs, strict=True)]
    return report(a, b, verdicts, rules, setting, inconclusive, interrupted, seen)


def setting_of(
    known: noise.MachineNoise | None,
    threads: int,
    batch: int | None,
    budget_s: float,
    workers: int | None,
    base_python: str | None,
    seed: int | None,
) -> RoundSettings:
    """Return how rounds are run: what the user says, else what calibration found, else the defaults.

    Raises:
        UsageError: A number that cannot be meant.
    """
    if budget_s <= 0 or threads < 1:
        raise UsageError(f"--budget {budget_s:g} s and --threads {threads}: both are above zero.")
    setting = RoundSettings(threads=threads, batch=batch, budget_s=budget_s)
    if known is not None:
        setting = replace(setting, workers=known.workers, quantile=known.quantile)
    if workers is not None:
        setting = replace(setting, workers=workers)
    if base_python is not None:
        if not Path(base_python).exists():
            raise UsageError(f"--base-python {base_python}: no such interpreter.")
        setting = replace(setting, workers=2, python=((base_python,), setting.python[1]))
    return setting if seed is None else replace(setting, seed=seed)


Pair = tuple[str, Artifact, Artifact]


def choose(
    a: str,
    b: str,
    resolutions: Sequence[str | int],
    targets: Sequence[str],
    batch: int | None,
    home: Path,
    notify: Notify,
) -> list[Pair]:
    """Return the comparisons that two arguments mean, exporting what is no artifact yet."""
    exists = bundle.artifacts(home)
    given = [None if is_model(name, exists) else find_artifact(name, home) for name in (a, b)]
    model = next((item for item in given if item is not None), None)
    sizes = [parse_resolution(text) for text in resolutions] or [
        model.subject.resolution if model else (RESOLUTION,) * 2
    ]
    wanted = list(targets) or [model.subject.target if model else TARGET]
    found: list[Pair] = []
    for size in sizes:
        for target in wanted:
            left, right = (
                item or exported(name, target, size, batch, home, notify)
                for name, item in zip((a, b), given, strict=True)
            )
            found.append((name_of(left, right), left, right))
        if all(given):
            break
    return found


def exported(
    model: str,
    target: str,
    size: tuple[int, int],
    batch: int | None,
    home: Path,
    notify: Notify,
    **rest: Any,
) -> Artifact:
    """Export one model for one target and return the artifact.

    Raises:
        EffbenchError: It could not be made, or is not the same model any more.
    """
    cells = export(
        model, [target], [resolution_text(size)], batch=batch or 1, out=home, notify=notify, verify=False, **rest
    )
    cell = cells[0]
    if cell.status != "ok":
        kind = UnavailableError if cell.status == "unavailable" else EffbenchError
        raise kind(f"{model} for {target}: {cell.reason}", hint=cell.next_step or None)
    return bundle.load(Path(cell.artifact))


def name_of(a: Artifact, b: Artifact) -> str:
    """Return what a comparison is called: the model, or both where they differ."""
    left, right = a.subject, b.subject
    names = left.model if left.model == right.model else f"{left.model} -> {right.model}"
    targets = left.target if left.target == right.target else f"{left.target} -> {right.target}"
    return f"{names} {resolution_text(right.resolution)} px {right.storage_precision} {targets}"


def contest(
    pairs: Sequence[Pair],
    setting: RoundSettings,
    rules: Rules,
    notify: Notify,
    *,
    settings: Mapping[str, RoundSettings] | None = None,
    remote: Remote | None = None,
) -> tuple[list[Verdict], bool]:
    """Decide every pair: equal digests at once, the others by rounds, the error budget split among those."""
    here = remote is None or remote.local
    timed = [pair for pair in pairs if not identical(pair[1], pair[2], setting)]
    for _, a, b in timed:
        for side in (a, b) if here else ():
            reason = deploy.get(side.subject.target).measurable()
            if reason is not None:
                raise UnavailableError(f"{side.name} cannot run here: {reason}.", hint="effbench doctor")
    duels = {
        name: Comparison(name, a, b, (settings or {}).get(name, setting), rules, len(timed)) for name, a, b in timed
    }
    interrupted = run(list(duels.values()), notify, None if here or remote is None else on_device(remote))
    verdicts = []
    for name, a, b in pairs:
        if name in duels:
            verdicts.append(duels[name].verdict())
        else:
            verdicts.append(
                Verdict(
                    name,
                    UNCHANGED,
                    identical=True,
                    reason="equal files on an equal runtime",
                    a_digest=a.digest,
                    b_digest=b.digest,
                    size_bytes=b.subject.size_bytes,
                )
            )
    return verdicts, interrupted


def identical(a: Artifact, b: Artifact, setting: RoundSettings) -> bool:
    """Say whether both sides are the same files on the same runtime, so that timing them can show nothing."""
    return (
        a.digest == b.digest
        and a.subject.target == b.subject.target
        and a.options == b.options
        and setting.python[0] == setting.python[1]
    )


def explain(item: Verdict, a: Artifact, b: Artifact, setting: RoundSettings, notify: Notify) -> Verdict:
    """Add where a slowdown comes from; every other verdict stays as it is."""
    from effbench.api.compare.why import why

    if item.outcome != "slower":
        return item
    notify(f"{item.name}: looking for the layers that carry the slowdown")
    return replace(item, why=why(a, b, setting))


def with_latency(
    verdicts: Sequence[Verdict], sides: Sequence[Artifact], threads: int, device: str, home: Path, notify: Notify
) -> list[Verdict]:
    """Measure the candidate's latency in runs of its own, not alternating: that is the number to report."""
    from effbench.api.profile.run import profile
    from effbench.statistics.percentiles import estimate

    found = []
    for item, side in zip(verdicts, sides, strict=True):
        if item.outcome == "failed" or item.identical:
            found.append(item)
            continue
        made = profile(
            [str(side.folder)],
            threads=threads,
            device=device,
            budget_s=LATENCY_BUDGET_S,
            rounds=LATENCY_ROUNDS,
            out=home,
            notify=notify,
        )
        if not made.measurements:
            found.append(replace(item, notes=(*item.notes, "latency not measured")))
            continue
        known = estimate([one.samples_ns for one in made.measurements[0].samples.rounds], 0.5)
        if known is None:
            found.append(item)
            continue
        low_high = known.interval and (known.interval[0] / 1e6, known.interval[1] / 1e6)
        found.append(replace(item, latency_ms=known.value / 1e6, latency_interval_ms=low_high))
    return found


def report(
    a: str,
    b: str,
    verdicts: Sequence[Verdict],
    rules: Rules,
    setting: RoundSettings,
    inconclusive: str,
    interrupted: bool,
    seen: dict[str, Any] | None = None,
) -> ComparisonReport:
    """Put verdicts, rules and machine (this one, unless another was observed) together."""
    from effbench.profiles import environment

    seen = environment.observe() if seen is None else seen
    return ComparisonReport(
        a=a,
        b=b,
        verdicts=tuple(verdicts),
        floor_pct=rules.floor_pct,
        margin_pct=rules.margin_pct,
        fail_above_pct=rules.floor_pct if rules.fail_above_pct is None else rules.fail_above_pct,
        false_alarms=rules.false_alarms,
        compared=sum(not item.identical for item in verdicts),
        inconclusive=inconclusive,
        machine=f"{seen.get('cpu_model')}, {seen.get('cores_allowed')} cores",
        settings={"threads": str(setting.threads), "workers": str(setting.workers), "seed": str(setting.seed)},
        interrupted=interrupted,
    )
