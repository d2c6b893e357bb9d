"""Tables of models, targets, devices and checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from effbench.commands.text.layout import table
from effbench.schema import Backbone, Device

if TYPE_CHECKING:
    from effbench.api.devices.catalogue import Check, TargetStatus
    from effbench.api.devices.check import Connection


def _millions(value: int | None) -> str:
    return "" if value is None else f"{value / 1e6:.2f} M"


def _giga(value: int | None) -> str:
    return "" if value is None else f"{value / 1e9:.2f} G"


def models(backbones: Sequence[Backbone]) -> str:
    """Return the list of backbones; a reconstruction is marked and explained below."""
    from effbench.reports.published import accuracy

    rows = []
    for backbone in backbones:
        counts = backbone.counts
        top1 = accuracy(backbone.published) if backbone.published else None
        rows.append(
            (
                backbone.name + (" *" if backbone.reconstruction else ""),
                backbone.family,
                _millions(counts.get("params")),
                _giga(counts.get("macs_224")),
                _giga(counts.get("macs_512")),
                f"{counts['receptive_field_px']} px" if "receptive_field_px" in counts else "",
                backbone.mixer,
                backbone.mixer_order,
                "" if top1 is None else f"{top1.value:g} ({top1.source.split(' (')[0].split(' + ')[0]})",
            )
        )
    header = ("model", "family", "params", "MACs@224", "MACs@512", "conv field", "mixer", "order", "published top-1 %")
    notes = dict.fromkeys(f"* {backbone.reconstruction}" for backbone in backbones if backbone.reconstruction)
    return "\n".join([table(header, rows), *notes])


def model(backbone: Backbone) -> str:
    """Return everything that is known about one backbone."""
    counts = {key: f"{value:,}" for key, value in backbone.counts.items()}
    facts = {
        "family": backbone.family,
        "source": backbone.source,
        "reconstruction": backbone.reconstruction or "no: as published",
        "mixer": f"{backbone.mixer}, {backbone.mixer_order}",
        "input": f"{backbone.in_channels} channels, {backbone.min_resolution} px or more",
        **counts,
        "factory": backbone.factory,
    }
    lines = [backbone.name, *(f"  {key:18} {value}" for key, value in facts.items() if value)]
    return "\n".join([*lines, "", stages(backbone)] if backbone.stages else lines)


def stages(backbone: Backbone) -> str:
    """Draw the feature maps of a backbone with their shapes at its resolutions; a bar shows the height of each."""
    finest = min(stride for _, stride in backbone.stages)
    rows = []
    for number, (channels, stride) in enumerate(backbone.stages, start=1):
        shapes = (f"{channels} x {px // stride} x {px // stride}" for px in backbone.resolutions)
        rows.append((number, f"1/{stride}", *shapes, "#" * max(1, 32 * finest // stride)))
    return table(("stage", "stride", *(f"at {px} px" for px in backbone.resolutions), "height"), rows)


def targets(rows: Sequence[TargetStatus]) -> str:
    """Return the list of targets."""
    body = [(row.name, row.title, row.state, row.precision, row.reason, row.next_step) for row in rows]
    return table(("target", "runtime", "state", "default precision", "reason", "next step"), body)


DEVICES = ("device", "kind", "description", "transport", "targets", "evidence")


def devices(rows: Sequence[Device]) -> str:
    """Return the list of devices."""
    return table(DEVICES, [_device(device) for device in rows])


def connections(rows: Sequence[Device], results: Sequence[Connection]) -> str:
    """Return the list of devices with the result of connecting to each; of a single one also the next step."""
    body = []
    for device, result in zip(rows, results, strict=True):
        body.append((device.name, device.kind, device.transport, result.state, result.detail))
    lines = [table(("device", "kind", "transport", "connection", "detail"), body)]
    lines += [result.next_step for result in results if len(results) == 1 and result.next_step]
    return "\n".join(lines)


def _device(device: Device) -> tuple[str, ...]:
    targets = " ".join(device.targets)
    return (device.name, device.kind, device.description, device.transport, targets, device.evidence)


def device(item: Device) -> str:
    """Return one device with every declared fact and its source."""
    connection = " ".join(f"{key}={value}" for key, value in item.connection.items())
    missing = "" if item.transport in ("local", "none") else "(no connection declared: docs/how-to/devices.md)"
    facts = {
        "description": item.description,
        "SoC": item.soc,
        "transport": f"{item.transport} {connection or missing}".rstrip(),
        "targets": " ".join(item.targets),
        "evidence": item.evidence,
        "source": item.source,
    }
    lines = [item.name, *(f"  {name:18} {value}" for name, value in facts.items() if value)]
    for target, options in item.options.items():
        lines.append(f"  {f'options of {target}':18} {' '.join(f'{k}={v}' for k, v in options.items())}")
    for name, fact in item.facts.items():
        lines.append(f"  {name:18} {fact.value}{f' ({fact.note})' if fact.note else ''}  [{fact.source}]")
    return "\n".join(lines)


def checks(rows: Sequence[Check]) -> str:
    """Return the results of `doctor`."""
    body = [("ok" if row.ok else "!", row.subject, row.result, row.next_step) for row in rows]
    return table(("", "check", "result", "next step"), body)
