"""Declared facts of a device, each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from effbench.boundary.names import check_name
from effbench.errors import DataError
from effbench.schema.model import PRECISIONS

DECLARED = "declared by its owner"
EVIDENCE = ("run on hardware", "emulated", "replayed from a recording", "written from documentation", DECLARED)
"""How far a device class was tried; the last two never count as tested."""


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
    machine: str = ""
    """The architecture that its Python reports (``aarch64``); empty if it may be any."""
    cpu: tuple[str, ...] = ()
    """Of its ``cpu_model`` as observed, at least one of these is a part; none if it may be any."""

    def __post_init__(self) -> None:
        check_name(self.name, "the name of a device")
        if self.evidence not in EVIDENCE:
            raise DataError(f"Evidence '{self.evidence}'; valid are {', '.join(EVIDENCE)}.")
        for name, precision in self.precisions.items():
            if precision not in PRECISIONS:
                raise DataError(f"Precision '{precision}' of target {name}; valid are {', '.join(PRECISIONS)}.")

    def contradictions(self, observed: Mapping[str, Any]) -> tuple[str, ...]:
        """Return, a sentence each, which observed facts of a machine this device cannot have.

        Args:
            observed: The environment of a measurement; a fact that it lacks contradicts nothing.
        """
        if self.evidence in ("emulated", "replayed from a recording"):
            return ()
        machine, cpu = str(observed.get("machine") or ""), str(observed.get("cpu_model") or "")
        sentences = []
        if self.machine and machine and machine.lower() != self.machine.lower():
            sentences.append(f"'{self.name}' is a {self.machine} machine, but it ran on {machine}.")
        if self.cpu and cpu and not any(part.lower() in cpu.lower() for part in self.cpu):
            sentences.append(f"'{self.name}' has a {' or '.join(self.cpu)}, but it ran on '{cpu[:80]}'.")
        return tuple(sentences)
