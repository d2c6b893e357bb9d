"""The commands as typed functions; the command line and notebooks call the same ones."""

from __future__ import annotations

from effbench.api.export import export, verify
from effbench.api.inspect import devices, doctor, models, targets
from effbench.api.profile import Profile, profile
from effbench.api.report import report

__all__ = ["Profile", "devices", "doctor", "export", "models", "profile", "report", "targets", "verify"]
