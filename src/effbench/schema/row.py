"""What tables and plots show: one line per figure, measured or published."""

from __future__ import annotations

from dataclasses import dataclass

from effbench.errors import DataError
from effbench.schema.shapes import InputShapes


@dataclass(frozen=True)
class Row:
    """One line of a table or one point of a plot; measured, published and predicted rows differ in ``source``.

    ``machine`` says on what the device's name stood at that time: rows are ranked only where it agrees.
    ``accuracy_status`` is measured, published or implied; ``accuracy_px`` the image size it was taken at;
    ``accuracy_data`` names the data set of an accuracy measured here; only equal ones are ranked.
    ``accuracy_digest`` is the digest that was evaluated, where it was measured: a row whose latency has another mixes
    two artifacts, and is refused. ``citations`` are the keys of the papers that published figures of the row come from.
    ``aggregate`` is that of `Samples`; ``p50_ms`` then holds the tool's statistic.
    """

    device: str
    shapes: InputShapes
    model: str
    source: str
    target: str = ""
    storage_precision: str = ""
    compute_precision: str = ""
    weights: str = ""
    batch: int = 1
    threads: int | None = None
    scope: str = "end-to-end"
    p50_ms: float | None = None
    p50_interval_ms: tuple[float, float] | None = None
    p90_ms: float | None = None
    p90_interval_ms: tuple[float, float] | None = None
    p99_ms: float | None = None
    slow_processes: int | None = None
    slow_processes_interval: tuple[float, float] | None = None
    images_per_s: float | None = None
    first_ms: float | None = None
    load_ms: float | None = None
    peak_rss_bytes: int | None = None
    accuracy: float | None = None
    accuracy_metric: str = ""
    accuracy_source: str = ""
    accuracy_interval: tuple[float, float] | None = None
    accuracy_digest: str = ""
    accuracy_data: str = ""
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
    aggregate: str = ""
    rounds: int | None = None
    samples: int | None = None
    family: str = ""
    reconstruction: str | None = None
    fidelity_passed: bool | None = None
    accuracy_status: str = ""
    accuracy_px: int | None = None
    citations: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.accuracy_digest and self.accuracy_digest != self.digest:
            raise DataError(
                f"{self.model}: the accuracy is of {self.accuracy_digest[:12]}, the latency of {self.digest[:12]}; "
                "one row shows one artifact."
            )

    @property
    def precision(self) -> str:
        """Storage and compute precision as one text: ``fp16/fp32``; empty where nothing was measured."""
        return f"{self.storage_precision}/{self.compute_precision}" if self.storage_precision else ""
