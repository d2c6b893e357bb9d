"""Every error a user can meet, and the exit code it ends with.

::

    EffbenchError                 5  something failed
    ├── UsageError                2  an invalid argument; lists the valid names
    ├── DataError                 2  a file that cannot be read as its format (path:line)
    ├── UnavailableError          4  a target or device that cannot run here
    │   ├── MissingDependencyError   a package is missing; carries the pip line
    │   └── UnsupportedError         a target that takes this precision or form on no machine
    ├── ConversionError           5  a stage of an export failed (stage, node, op)
    ├── FidelityError             1  the artifact's outputs differ from the model's
    ├── UnverifiableError         3  no comparison can tell whether it is the same model
    ├── DeviceError               4  a device was lost or refused
    └── MeasurementError          5  a measurement could not be completed

A message states what happened (with the value), where, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 4000
"""Characters of a message, which may quote what it is about: a file of a megabyte in one line, say."""


def _bounded(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


class EffbenchError(Exception):
    """The root of all errors raised on purpose."""

    exit_code = 5
    status = "failed"
    """How a cell ends that meets this error (`effbench.schema.Status`)."""
    cause = ""
    """Of a failed child process: what ended it; empty elsewhere."""
    log = ""
    """The log of a child process that failed; empty if there was none."""
    record = ""
    """The folder with the failure's log and a script that reproduces it; empty if there is none."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = _bounded(message)
        self.hint = hint if hint is None else _bounded(hint)
        super().__init__(self.message if hint is None else f"{self.message}\n  {self.hint}")


class UsageError(EffbenchError):
    """An argument that names nothing valid, or a combination that means nothing."""

    exit_code = 2
    status = "unsupported"


class DataError(EffbenchError):
    """A file that is missing, unreadable or malformed, or that cannot be written."""

    exit_code = 2


class UnavailableError(EffbenchError):
    """A target or device that exists but cannot be used on this machine."""

    exit_code = 4
    status = "unavailable"


class MissingDependencyError(UnavailableError):
    """A package of an optional extra is not installed."""

    package = extra = ""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        self.package = package
        self.extra = extra
        super().__init__(
            f"{feature} needs the package '{package}', which is not installed.",
            hint=f"Install it with: pip install 'effbench[{extra}]'",
        )


class UnsupportedError(UnavailableError):
    """A target that takes this precision or form of graph on no machine."""

    status = "unsupported"


class ConversionError(EffbenchError):
    """A stage of an export failed."""

    stage = ""
    node: str | None = None
    op: str | None = None

    def __init__(
        self, stage: str, message: str, *, node: str | None = None, op: str | None = None, hint: str | None = None
    ) -> None:
        self.stage = stage
        self.node = node
        self.op = op
        location = "".join(f" ({label} {value})" for label, value in (("node", node), ("operator", op)) if value)
        super().__init__(f"{stage} failed{location}: {message}", hint=hint)


class FidelityError(EffbenchError):
    """An artifact's outputs differ from those of its source model."""

    exit_code = 1


class UnverifiableError(EffbenchError):
    """A model that no comparison can be made with, such as a random one."""

    exit_code = 3
    status = "unverifiable"


class DeviceError(EffbenchError):
    """A device was lost, refused a command, or did not answer in time."""

    exit_code = 4


class MeasurementError(EffbenchError):
    """A measurement could not be completed."""


DETAILS = ("cause", "exit_status", "extra", "log", "node", "op", "package", "record", "stage")
"""The attributes of an error that travel between processes, beside its class, message and hint."""


def rebuilt(kind: str, message: str, hint: str | None = None) -> EffbenchError:
    """Return the error that another process met, with its class and so its exit code; of an unknown class, the root."""
    known = globals().get(kind)
    cls = known if isinstance(known, type) and issubclass(known, EffbenchError) else EffbenchError
    error = cls.__new__(cls)
    EffbenchError.__init__(error, message, hint=hint)
    return error


MOST_SERIOUS_FIRST = (5, 1, 2, 4, 3)
"""Exit codes other than 0 in the order in which one is chosen for many results."""


def worst_exit_code(codes: Iterable[int]) -> int:
    """Return the exit code of a command from those of its results: failed, fidelity, usage, unavailable, open."""
    present = set(codes)
    return next((code for code in MOST_SERIOUS_FIRST if code in present), 0)


MOST_NAMES = 40
"""Names that a message lists."""


def unknown_name(name: str, valid: Iterable[str], kind: str) -> UsageError:
    """Return the error for an unknown name: the nearest valid names, then at most `MOST_NAMES` of all.

    Args:
        name: The name that was given.
        valid: All valid names.
        kind: A noun for the message, such as "target".
    """
    names = sorted(valid)
    nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(nearest)}? " if nearest else ""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    valid = ", ".join(names[:MOST_NAMES]) or "none"
    return UsageError(f"Unknown {kind} '{name}'.", hint=f"{hint}Valid: {valid}{more}.")


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: 1 round, 2 rounds; the plural adds an s unless it is given."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
