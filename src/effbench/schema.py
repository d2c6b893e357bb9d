"""The records that effbench writes, reads and shows; frozen, JSON in and out, units in the names.

Only the standard library is imported here: these records travel to devices.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from effbench.errors import DataError, UsageError

FORMAT_VERSION = 1
"""Written into every manifest and measurement; a reader refuses a newer one."""

PRECISIONS = ("fp32", "fp16", "int8", "a16w8")
WEIGHT_KINDS = ("untrained", "file", "pretrained")

T = TypeVar("T")


@dataclass(frozen=True)
class Preprocessing:
    """How an encoded picture becomes the input tensor; belongs to the model and is the same on every target."""

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    scale: float = 1 / 255
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    channel_order: str = "RGB"
    layout: str = "NCHW"


@dataclass(frozen=True)
class Backbone:
    """A model that effbench knows by name.

    ``factory`` is an import string (``package.module:callable``), so that a list of models needs no torch. ``counts``
    holds what is counted from the code: ``params``, ``macs_224``, ``macs_512``, ``receptive_field_px``.
    ``published`` is the model's name in the tables of published results, or None.
    """

    name: str
    family: str
    factory: str
    published: str | None = None
    reconstruction: str | None = None
    mixer: str = ""
    mixer_order: str = ""
    in_channels: int = 3
    resolutions: tuple[int, ...] = (224, 512)
    stride: int = 32
    min_resolution: int = 32
    fixed_resolution: int | None = None
    preprocessing: Preprocessing = Preprocessing()
    counts: dict[str, int] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True)
class Weights:
    """Where weights came from: ``untrained`` (a seed), ``file`` (its SHA-256) or ``pretrained`` (a name)."""

    kind: str = "untrained"
    seed: int | None = 0
    source: str | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in WEIGHT_KINDS:
            raise DataError(f"Weights of kind '{self.kind}'; one of {', '.join(WEIGHT_KINDS)} is meant.")


@dataclass(frozen=True)
class TensorSpec:
    """Name, numpy dtype name and shape of one input or output; a dimension that may vary is None."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class FileInfo:
    """Content hash and size of one file of an artifact."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Stage:
    """One step of an export: its name, wall time and outcome."""

    name: str
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class Fidelity:
    """How far outputs are from the reference; errors are relative to the spread of outputs between inputs.

    ``reference`` names the engine that computed the expected outputs; ``limits`` holds the bounds that decided.
    """

    passed: bool
    reference: str
    inputs: int
    max_error: float
    p99_error: float
    cosine: float
    top1_agreement: float
    finite: bool
    repeatable: bool
    limits: dict[str, float]
    reasons: tuple[str, ...] = ()
    engine: str = ""
    """What ran the artifact; a simulator is named as one."""


@dataclass(frozen=True)
class Subject:
    """What is measured and shown of an artifact: enough for a table when the artifact's folder is gone."""

    model: str
    family: str
    weights: Weights
    resolution: tuple[int, int]
    batch: int
    target: str
    storage_precision: str
    compute_precision: str | None = None
    published: str | None = None
    reconstruction: str | None = None
    params: int | None = None
    macs: int | None = None
    size_bytes: int = 0
    fidelity_passed: bool | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Artifact:
    """A folder with ``manifest.json``: what it is made from (key), what it consists of (digest), and what was checked.

    The ONNX graph is an artifact whose target is ``onnx``; every other target translates that one.
    """

    folder: Path
    key: str
    digest: str
    subject: Subject
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    files: dict[str, FileInfo]
    entry: str
    preprocessing: Preprocessing = Preprocessing()
    options: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    graph_digest: str | None = None
    calibration: str | None = None
    fidelity: Fidelity | None = None
    placement: dict[str, Any] = field(default_factory=dict)
    stages: tuple[Stage, ...] = ()

    @property
    def path(self) -> Path:
        """The file that a runtime opens."""
        return self.folder / self.entry

    @property
    def name(self) -> str:
        """The folder's name, which is what a user types."""
        return self.folder.name


@dataclass(frozen=True)
class Device:
    """Declared facts of a machine; what was observed belongs to a `Measurement`."""

    name: str
    kind: str
    description: str
    transport: str
    targets: tuple[str, ...]
    soc: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    evidence: str = "written from documentation"
    source: str = ""


@dataclass(frozen=True)
class Round:
    """One fresh process: its raw samples in nanoseconds, in order, and what was seen while it ran.

    ``observed`` holds plain numbers (other_cpu_pct, steal_pct, involuntary_switches, cpu_mhz, ...); a key that the
    machine cannot tell is absent.
    """

    samples_ns: tuple[int, ...]
    warmup: int
    stationary: bool
    load_ms: float
    first_ms: float
    peak_rss_bytes: int
    observed: dict[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.samples_ns:
            raise DataError("A round holds no samples.")
        if min(self.samples_ns) <= 0:
            raise DataError(f"A round holds a sample of {min(self.samples_ns)} ns; a latency is above zero.")


@dataclass(frozen=True)
class Samples:
    """Rounds of one artifact under one protocol (``back-to-back``, ``paced``, ``sustained``).

    ``scope`` is ``end-to-end`` (host arrays in, host arrays out) or ``device-only``; the two are never ranked together.
    """

    rounds: tuple[Round, ...]
    protocol: str = "back-to-back"
    scope: str = "end-to-end"

    def __post_init__(self) -> None:
        if not self.rounds:
            raise DataError("A measurement holds no rounds.")
        if self.scope not in ("end-to-end", "device-only"):
            raise DataError(f"Scope '{self.scope}' is neither end-to-end nor device-only.")


@dataclass(frozen=True)
class Measurement:
    """Samples tied to the digest of an artifact and to the observed state of a device.

    The store keeps one JSON line per round, so that a kill loses the round in flight and no more; lines of one ``run``
    are read back as one measurement.

    Two measurements may be compared only where `must_match` agrees.
    """

    digest: str
    subject: Subject
    device: str
    settings: dict[str, str]
    samples: Samples
    before: dict[str, Any]
    after: dict[str, Any]
    time: str
    run: str = ""
    placement: dict[str, Any] = field(default_factory=dict)
    origin: str = "measured"
    notes: tuple[str, ...] = ()

    MUST_MATCH: typing.ClassVar[tuple[str, ...]] = (
        "cpu_model",
        "machine",
        "governor",
        "cgroup_cpus",
        "cgroup_memory_bytes",
        "runtime",
    )

    def must_match(self) -> dict[str, Any]:
        """Return the keys that have to agree before this measurement may be compared with another."""
        state = {key: self.before.get(key) for key in self.MUST_MATCH}
        return {
            "device": self.device,
            **self.settings,
            "protocol": self.samples.protocol,
            "scope": self.samples.scope,
            **state,
        }


@dataclass(frozen=True)
class Row:
    """One line of a table or one point of a plot; measured, published and predicted rows differ in ``source``.

    ``machine`` says on what the device's name stood at that time: rows are ranked only where it agrees.
    ``accuracy_status`` is measured, published or implied; ``accuracy_px`` the image size it was taken at;
    ``citations`` are the keys of the papers that published figures of the row come from.
    """

    device: str
    resolution: tuple[int, int]
    model: str
    source: str
    target: str = ""
    precision: str = ""
    weights: str = ""
    batch: int = 1
    threads: int | None = None
    scope: str = "end-to-end"
    p50_ms: float | None = None
    p50_interval_ms: tuple[float, float] | None = None
    p90_ms: float | None = None
    p90_interval_ms: tuple[float, float] | None = None
    p99_ms: float | None = None
    images_per_s: float | None = None
    first_ms: float | None = None
    load_ms: float | None = None
    peak_rss_bytes: int | None = None
    accuracy: float | None = None
    accuracy_metric: str = ""
    accuracy_source: str = ""
    borrowed: bool = False
    params: int | None = None
    macs: int | None = None
    size_bytes: int | None = None
    trust: str = ""
    trust_reasons: tuple[str, ...] = ()
    digest: str = ""
    on_front: bool = False
    machine: str = ""
    system: str = ""
    runtime: str = ""
    settings: str = ""
    protocol: str = "back-to-back"
    rounds: int | None = None
    samples: int | None = None
    family: str = ""
    reconstruction: str | None = None
    fidelity_passed: bool | None = None
    accuracy_status: str = ""
    accuracy_px: int | None = None
    citations: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


STATUSES = ("ok", "failed", "unsupported", "unavailable")


@dataclass(frozen=True)
class Cell:
    """How one cell of model x resolution x precision x target ended; nothing is left blank.

    ``status`` is ok, failed, unsupported or unavailable; every status but ok has a reason and a next step.
    ``exit_code`` is what a command that did only this cell ends with.
    """

    model: str
    resolution: tuple[int, int]
    precision: str
    target: str
    status: str
    reason: str = ""
    next_step: str = ""
    exit_code: int = 0
    artifact: str = ""
    digest: str = ""
    cached: bool = False
    seconds: float = 0.0
    fidelity: Fidelity | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise DataError(f"Status '{self.status}'; one of {', '.join(STATUSES)} is meant.")
        if self.status != "ok" and not self.reason:
            raise DataError(f"A cell that is {self.status} needs a reason.")


def to_json(record: Any) -> dict[str, Any]:
    """Return a record as plain JSON data, with the format version; `from_json` is its inverse.

    Paths are left out: a folder is where a manifest lies, not what it says.
    """
    return {"format": FORMAT_VERSION, **plain(record)}


def plain(value: Any) -> Any:
    """Return records, mappings and sequences as JSON data; paths inside records are left out."""
    if dataclasses.is_dataclass(value):
        items = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: plain(item) for name, item in items if not isinstance(item, Path)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def from_json(kind: type[T], data: Any, where: str, **extra: Any) -> T:
    """Build a record from JSON data.

    Args:
        kind: The record's class.
        data: What `to_json` gave, parsed.
        where: File (and line) for messages.
        extra: Fields that are not in the data, such as an artifact's folder.

    Raises:
        DataError: A field is missing, unknown or of another type, or the format is newer than this version reads.
    """
    if not isinstance(data, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(data).__name__}.")
    version = data.get("format")
    if version != FORMAT_VERSION:
        raise DataError(
            f"{where}: format {version!r}, this version reads {FORMAT_VERSION}.",
            hint="Export or measure again, or update effbench.",
        )
    rest = {key: item for key, item in data.items() if key != "format"}
    record: T = _record(kind, {**rest, **extra}, where)
    return record


def _record(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise DataError(f"{where}: expected an object for {kind.__name__}, found {type(data).__name__}.")
    hints = _hints(kind)
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise DataError(f"{where}: unknown field '{unknown[0]}' in {kind.__name__}.")
    values = {name: _value(hints[name], item, f"{where}: {name}") for name, item in data.items()}
    try:
        return kind(**values)
    except TypeError:
        needed = [
            f.name
            for f in dataclasses.fields(kind)
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        ]
        missing = [name for name in needed if name not in values]
        raise DataError(f"{where}: {kind.__name__} lacks {', '.join(missing)}.") from None
    except DataError as error:
        raise DataError(f"{where}: {error.message}") from None


_HINTS: dict[Any, dict[str, Any]] = {}


def _hints(kind: Any) -> dict[str, Any]:
    if kind not in _HINTS:
        resolved = typing.get_type_hints(kind)
        _HINTS[kind] = {f.name: resolved[f.name] for f in dataclasses.fields(kind)}
    return _HINTS[kind]


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _value(next(arg for arg in args if arg is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        return _record(hint, value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise DataError(f"{where}: expected a list, found {type(value).__name__}.")
        if args[-1] is Ellipsis:
            if args[0] is int and all(type(item) is int for item in value):
                return tuple(value)  # samples come by the ten thousand
            return tuple(_value(args[0], item, where) for item in value)
        if len(args) != len(value):
            raise DataError(f"{where}: expected {len(args)} items, found {len(value)}.")
        return tuple(_value(arg, item, where) for arg, item in zip(args, value, strict=True))
    if origin is dict:
        if not isinstance(value, dict):
            raise DataError(f"{where}: expected an object, found {type(value).__name__}.")
        return {key: _value(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float and type(value) in (int, float):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise DataError(f"{where}: expected {getattr(hint, '__name__', hint)}, found {value!r}.")


def canonical(data: Any) -> bytes:
    """Return the one JSON text of some data: sorted keys, no blanks, no NaN. What is hashed is always this.

    Raises:
        DataError: The data holds NaN or infinity, which JSON has no words for.
    """
    try:
        return json.dumps(plain(data), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except ValueError as error:
        raise DataError(f"Cannot write {error}; a number that is not finite has no place in a record.") from None


def fingerprint(data: Any) -> str:
    """Return the SHA-256, in hex, of the canonical JSON of some data."""
    return hashlib.sha256(canonical(data)).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256, in hex, of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def digest_of(files: Mapping[str, FileInfo]) -> str:
    """Return the digest of an artifact: a hash of its files' names and content hashes."""
    return fingerprint({name: info.sha256 for name, info in files.items()})


def parse_resolution(text: str | int) -> tuple[int, int]:
    """Read ``512`` or ``384x640`` as (height, width) in pixels.

    Raises:
        UsageError: It is neither, or a side is not positive.
    """
    parts = str(text).lower().split("x")
    if len(parts) in (1, 2) and all(part.isdecimal() and int(part) > 0 for part in parts):
        return (int(parts[0]), int(parts[-1]))
    raise UsageError(
        f"Resolution '{text}' is not a size in pixels.", hint="Write it like 512, or 384x640 for height x width."
    )


def resolution_text(resolution: tuple[int, int]) -> str:
    """Return ``512`` for a square, else ``384x640``; the inverse of `parse_resolution`."""
    height, width = resolution
    return str(height) if height == width else f"{height}x{width}"


def finite(value: float | None) -> float | None:
    """Return the value, or None where it is NaN or infinite: JSON has no words for those."""
    return value if value is not None and math.isfinite(value) else None
