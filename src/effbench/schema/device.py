"""Declared facts of a device, each with its source."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from effbench.errors import DataError
from effbench.schema.model import PRECISIONS

EVIDENCE = ("run on hardware", "emulated", "replayed from a recording", "written from documentation")
"""How far a device class was tried; the last never counts as tested."""


@dataclass(frozen=True)
class Fact:
    """A declared fact of a device and where it stands; ``note`` says how it is counted (dense, sparse, boost)."""

    value: Any
    source: str
    note: str = ""


@dataclass(frozen=True)
class Device:
    """Declared facts of a machine; what was observed belongs to a `Measurement`.

    ``targets`` are those that apply, the preferred first; ``precisions`` and ``options`` say, per target, what
    ``export --device`` takes instead of the target's defaults. ``connection`` says where it is and belongs to the user
    (`effbench.toml`); ``settings`` are those of a measurement. Names of ``facts`` carry their units.
    """

    name: str
    kind: str
    description: str
    transport: str
    targets: tuple[str, ...]
    soc: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Fact] = field(default_factory=dict)
    evidence: str = "written from documentation"
    source: str = ""
    connection: dict[str, Any] = field(default_factory=dict)
    precisions: dict[str, str] = field(default_factory=dict)
    options: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.evidence not in EVIDENCE:
            raise DataError(f"Evidence '{self.evidence}'; one of {', '.join(EVIDENCE)} is meant.")
        for name, precision in self.precisions.items():
            if precision not in PRECISIONS:
                raise DataError(f"Precision '{precision}' of target {name}; one of {', '.join(PRECISIONS)} is meant.")
