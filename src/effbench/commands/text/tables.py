"""Plain text for the terminal of what the other commands return; reports have their own renderers."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from effbench.schema import Backbone, Cell, Device, Measurement

if TYPE_CHECKING:
    from effbench.api.devices.catalogue import Check, TargetStatus
    from effbench.api.devices.kits import Kit
    from effbench.api.profile.run import Profile


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    from tabulate import tabulate

    return tabulate([list(row) for row in rows], headers=list(header), tablefmt="simple", disable_numparse=True)


def _millions(value: int | None) -> str:
    return "" if value is None else f"{value / 1e6:.2f} M"


def _giga(value: int | None) -> str:
    return "" if value is None else f"{value / 1e9:.2f} G"


def models(found: Sequence[Backbone]) -> str:
    """Return the list of backbones; what is a reconstruction is marked and explained below."""
    from effbench.reports.published import accuracy

    rows = []
    for item in found:
        counts = item.counts
        top1 = accuracy(item.published) if item.published else None
        rows.append(
            (
                item.name + (" *" if item.reconstruction else ""),
                item.family,
                _millions(counts.get("params")),
                _giga(counts.get("macs_224")),
                _giga(counts.get("macs_512")),
                f"{counts['receptive_field_px']} px" if "receptive_field_px" in counts else "",
                item.mixer,
                item.mixer_order,
                "" if top1 is None else f"{top1.value:g} ({top1.source.split(' (')[0].split(' + ')[0]})",
            )
        )
    header = ("model", "family", "params", "MACs@224", "MACs@512", "conv field", "mixer", "order", "published top-1 %")
    notes = dict.fromkeys(f"* {item.reconstruction}" for item in found if item.reconstruction)
    return "\n".join([_table(header, rows), *notes])


def model(item: Backbone) -> str:
    """Return one backbone with everything that is known of it."""
    counts = {key: f"{value:,}" for key, value in item.counts.items()}
    facts = {
        "family": item.family,
        "source": item.source,
        "reconstruction": item.reconstruction or "no: as published",
        "mixer": f"{item.mixer}, {item.mixer_order}",
        "takes": f"{item.in_channels} channels, {item.min_resolution} px or more",
        **counts,
        "factory": item.factory,
    }
    lines = [item.name, *(f"  {key:18} {value}" for key, value in facts.items() if value)]
    return "\n".join([*lines, "", stages(item)] if item.stages else lines)


def stages(item: Backbone) -> str:
    """Draw the feature maps of a backbone, a bar as long as the side of each, with their shapes at its resolutions."""
    finest = min(stride for _, stride in item.stages)
    rows = []
    for number, (channels, stride) in enumerate(item.stages, start=1):
        shapes = (f"{channels} x {side // stride} x {side // stride}" for side in item.resolutions)
        rows.append((number, f"1/{stride}", *shapes, "#" * max(1, 32 * finest // stride)))
    return _table(("stage", "stride", *(f"at {side} px" for side in item.resolutions), "side"), rows)


def targets(rows: Sequence[TargetStatus]) -> str:
    """Return the list of targets."""
    body = [(row.name, row.title, row.state, row.precision, row.reason, row.next_step) for row in rows]
    return _table(("target", "runtime", "state", "default precision", "reason", "next step"), body)


def devices(rows: Sequence[Device], tried: Mapping[str, str] | None = None) -> str:
    """Return the list of devices, with what a try of each connection gave."""
    header = ("device", "kind", "description", "transport", "targets", "evidence", *(("connection",) if tried else ()))
    body = [
        (
            d.name,
            d.kind,
            d.description,
            d.transport,
            " ".join(d.targets),
            d.evidence,
            *((tried[d.name],) if tried else ()),
        )
        for d in rows
    ]
    return _table(header, body)


def device(item: Device) -> str:
    """Return one device with every declared fact and its source."""
    connection = " ".join(f"{key}={value}" for key, value in item.connection.items())
    lines = [
        item.name,
        f"  {'description':18} {item.description}",
        f"  {'SoC':18} {item.soc}",
        f"  {'transport':18} {item.transport} {connection or '(no connection declared)'}",
        f"  {'targets':18} {' '.join(item.targets)}",
        f"  {'evidence':18} {item.evidence}",
        f"  {'source':18} {item.source}",
    ]
    for target, options in item.options.items():
        lines.append(f"  {f'options of {target}':18} {' '.join(f'{k}={v}' for k, v in options.items())}")
    for name, fact in item.facts.items():
        lines.append(f"  {name:18} {fact.value}{f' ({fact.note})' if fact.note else ''}  [{fact.source}]")
    return "\n".join(lines)


def checks(rows: Sequence[Check]) -> str:
    """Return what `doctor` found."""
    return _table(
        ("", "what", "found", "what to do"), [("ok" if r.ok else "!", r.what, r.found, r.next_step) for r in rows]
    )


def cells(rows: Sequence[Cell], next_command: str | None = None) -> str:
    """Return how each cell ended, then the reasons of those that are not ok."""
    body = []
    for row in rows:
        checked = row.fidelity
        body.append(
            (
                row.model,
                str(row.shapes),
                row.precision,
                row.target,
                row.verdict + (" (cached)" if row.cached else ""),
                "" if row.proved_by is None else str(row.proved_by),
                "" if checked is None else f"{checked.max_error:.1e}",
                "" if checked is None else f"{checked.cosine:.6f}",
                "" if checked is None or checked.snr_db is None else f"{checked.snr_db:.1f}",
                f"{row.seconds:.1f} s",
                row.artifact,
            )
        )
    header = (
        "model",
        "px",
        "precision",
        "target",
        "status",
        "proved by",
        "max error",
        "cosine",
        "SNR dB",
        "time",
        "artifact",
    )
    lines = [_table(header, body)]
    if any(row.fidelity for row in rows):
        lines.append("max error: of the spread of outputs between images, against the fp32 reference")
    lines += [text for row in rows if row.reason for text in _reason(row)]
    lines += [text for row in rows for text in _not_decoded(row)]
    lines += [f"{row.model} {row.shapes} px {row.target}: {note}" for row in rows for note in row.notes]
    if next_command:
        lines.append(f"next: {next_command}")
    return "\n".join(lines)


def _not_decoded(cell: Cell) -> list[str]:
    if cell.fidelity is None or cell.fidelity.prepared_levels is not None:
        return []
    what = f"{cell.model} {cell.shapes} px {cell.target}"
    return [f"{what}: decoding and preparing of images was not checked (no Pillow there, or none has such channels)"]


def _reason(cell: Cell) -> list[str]:
    name = f"{cell.model} {cell.shapes} px {cell.precision} {cell.target}"
    what = f"{name}: {cell.status}: {cell.reason}"
    record = f"log, and a script that runs it again: {cell.record}" if cell.record else ""
    return [what, *(f"  {text}" for text in (cell.next_step, record) if text)]


def profile(found: Profile, out: str | None) -> str:
    """Return the latencies just measured, what could not be measured, and the next command."""
    from effbench.commands.text import protocol
    from effbench.profiles.trust import grade

    lines = list(dict.fromkeys(found.messages))
    grades = [grade(item.samples, item.before, item.after) for item in found.measurements]
    if found.measurements:
        body = [_latency(item, trust) for item, (trust, _) in zip(found.measurements, grades, strict=True)]
        lines += [_table(LATENCY, body), _conditions(found.measurements[0])]
        for item in found.measurements:
            lines += [f"{_named(item)}: {text}" for text in protocol.lines(item)]
        for item, (trust, reasons) in zip(found.measurements, grades, strict=True):
            if reasons:
                lines.append(f"trust {trust}, {_named(item)}: {'; '.join(reasons)}")
        lines += [f"* {text}" for text in dict.fromkeys(m.subject.reconstruction for m in found.measurements) if text]
    lines += [text for cell in found.cells for text in _reason(cell)]
    if found.interrupted:
        lines.append("Interrupted: the rounds measured so far are kept.")
    if found.measurements:
        lines.append("next: effbench report" + (f" --out {out}" if out else ""))
    return "\n".join(lines)


def kit(found: Kit) -> str:
    """Return what a kit holds and what its holder does with it."""
    lines = [f"wrote {found.folder}: {', '.join(found.artifacts)}", *found.steps]
    return "\n".join([*lines, *(text for cell in found.cells for text in _reason(cell))])


def imported(item: Measurement, out: str | None) -> str:
    """Return what was imported and how far it can be trusted."""
    from effbench.reports.layout import aggregate_note

    rounds = [one.samples_ns for one in item.samples.rounds]
    aggregate = item.samples.aggregate
    median = f"{statistics.median(itertools.chain(*rounds)) / 1e6:.3f}" if aggregate else _quantile(rounds, 0.5)
    header = ("model", "px", "target", "precision", "device", "p50 ms", "samples", "scope", "tool")
    shown = f"{sum(map(len, rounds))} in {len(rounds)} round(s)"
    body = (*_subject(item), item.device, median, shown, item.samples.scope, item.settings["tool"])
    lines = [_table(header, [body]), *([aggregate_note(aggregate)] if aggregate else []), *item.notes]
    return "\n".join([*lines, "next: effbench report" + (f" --out {out}" if out else "")])


LATENCY = (
    *("model", "px", "target", "precision", "p50 ms [95 %]", "p90 ms [95 %]", "p99 ms"),
    *("img/s", "first ms", "load ms", "peak MiB", "trust"),
)


def _latency(item: Measurement, trust: str) -> tuple[str, ...]:
    rounds = [one.samples_ns for one in item.samples.rounds]
    return (*_subject(item), *(_quantile(rounds, p) for p in (0.5, 0.9, 0.99)), *_rest(item), trust)


def _conditions(one: Measurement) -> str:
    return (
        f"{one.device}, {one.before.get('cpu_model')}; batch {one.settings['batch']}, "
        f"{one.settings['threads']} thread(s), {one.samples.scope}, {one.samples.protocol}; "
        f"{_count(len(one.samples.rounds), 'round')} in fresh processes; weights {one.subject.weights.kind}"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _named(item: Measurement) -> str:
    model, size, target, _ = _subject(item)
    return f"{model} {size} px {item.subject.storage_precision} {target}"


def _subject(item: Measurement) -> tuple[str, ...]:
    subject = item.subject
    mark = " *" if subject.reconstruction else ""
    computed = subject.compute_precision or subject.storage_precision
    precision = (
        subject.storage_precision
        if computed == subject.storage_precision
        else f"{subject.storage_precision}, computed {computed}"
    )
    return (subject.model + mark, str(subject.shapes), subject.target, precision)


def _quantile(rounds: Sequence[Sequence[int]], p: float) -> str:
    from effbench.statistics import percentiles

    found = percentiles.estimate(rounds, p)
    if found is None:
        return "-"
    text = f"{found.value / 1e6:.3f}"
    if found.interval is None or p > 0.95:
        return text
    return f"{text} [{found.interval[0] / 1e6:.3f}, {found.interval[1] / 1e6:.3f}]"


def _rest(item: Measurement) -> tuple[str, ...]:
    from effbench.statistics.percentiles import images_per_second

    rounds = item.samples.rounds
    rate = images_per_second([one.samples_ns for one in rounds], item.subject.batch)
    middle = len(rounds) // 2
    first, load = (sorted(values)[middle] for values in ([r.first_ms for r in rounds], [r.load_ms for r in rounds]))
    peak = max(one.peak_rss_bytes for one in rounds) / 2**20
    return ("-" if item.samples.aggregate else f"{rate:.1f}", f"{first:.1f}", f"{load:.0f}", f"{peak:.0f}")
