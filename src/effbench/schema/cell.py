"""How a cell of model x size x precision x target ended."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from effbench.errors import DataError, EffbenchError, FidelityError
from effbench.schema.artifact import Artifact, Fidelity, Proof
from effbench.schema.shapes import InputShapes


class Status(str, Enum):
    """How a cell ended; every status but `OK` has a reason."""

    OK = "ok"
    """Made, and its outputs were compared with the reference and hold."""
    BUILT = "built"
    """Made, but not run here."""
    UNVERIFIABLE = "unverifiable"
    """No comparison can tell whether it is the same model; without an artifact, the model itself is random."""
    FAILED = "failed"
    UNSUPPORTED = "unsupported"
    """The target takes this precision or form of graph on no machine."""
    UNAVAILABLE = "unavailable"
    """The target or device is missing here."""

    def __str__(self) -> str:
        return self.value


UNVERIFIABLE_EXIT_CODE = 3


@dataclass(frozen=True)
class Cell:
    """How one cell of model x size x precision x target ended; nothing is left blank.

    Attributes:
        fidelity: The proof that the artifact is the graph.
        graph_fidelity: The proof that the graph is the model.
        proved_by: What ran the artifact when its outputs were compared; set where, and only where, the status is ok.
        reason: Why the status is not ok.
        exit_code: What a command ends with that did only this cell.
        cause: Of a failure in a child process: a crash, or a limit of time or memory.
        record: The folder with the failure's log and a script that runs it again.
    """

    model: str
    shapes: InputShapes
    precision: str
    target: str
    status: Status
    reason: str = ""
    next_step: str = ""
    exit_code: int = 0
    artifact: str = ""
    digest: str = ""
    cached: bool = False
    seconds: float = 0.0
    fidelity: Fidelity | None = None
    graph_fidelity: Fidelity | None = None
    proved_by: Proof | None = None
    notes: tuple[str, ...] = ()
    cause: str = ""
    record: str = ""
    placement: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status is not Status.OK and not self.reason:
            raise DataError(f"A cell that is {self.status} needs a reason.")
        if (self.status is Status.OK) != (self.proved_by is not None):
            raise DataError(f"A cell that is {self.status} is proved by {self.proved_by}.")

    @property
    def has_artifact(self) -> bool:
        """Whether there is an artifact that may be measured; a random model is unverifiable without one."""
        return self.status in (Status.OK, Status.BUILT, Status.UNVERIFIABLE) and bool(self.artifact)

    @property
    def verdict(self) -> str:
        """The status with its cause: ``failed: time limit``."""
        return f"{self.status}: {self.cause}" if self.cause else str(self.status)

    @classmethod
    def of(
        cls,
        model: str,
        shapes: InputShapes,
        precision: str,
        target: str,
        result: Artifact | EffbenchError,
        *,
        reason: str = "not verified",
        **known: Any,
    ) -> Cell:
        """Return the cell of an artifact or of the error that came in its place.

        Args:
            model: Its name.
            shapes: The size it was exported at.
            precision: Stored in the artifact, or requested.
            target: The runtime.
            result: What was made, or what went wrong.
            reason: Why an artifact was not compared with the reference.
            known: Further fields.
        """
        if isinstance(result, EffbenchError):
            return cls(model, shapes, precision, target, Status.FAILED, reason=result.message).failed(result, **known)
        status, reason = _judged(result, reason)
        cell = cls(
            model,
            result.subject.shapes,
            result.subject.storage_precision,
            target,
            status,
            reason=reason,
            artifact=str(result.folder),
            digest=result.digest,
            placement=result.placement,
            fidelity=result.fidelity,
            graph_fidelity=result.graph_fidelity,
            proved_by=result.fidelity.proved_by if result.fidelity is not None and status is Status.OK else None,
            exit_code=UNVERIFIABLE_EXIT_CODE if status is Status.UNVERIFIABLE else 0,
            **known,
        )
        return cell.failed(FidelityError(reason)) if status is Status.FAILED else cell

    def failed(self, error: EffbenchError, **known: Any) -> Cell:
        """Return this cell with an error in the place of its result; what was known of it stays."""
        return replace(
            self,
            status=Status(error.status),
            proved_by=None,
            cause=error.cause,
            reason=error.message,
            next_step=error.hint or "",
            exit_code=error.exit_code,
            record=error.record,
            **known,
        )


def _judged(artifact: Artifact, otherwise: str) -> tuple[Status, str]:
    """Return the status of an artifact by its two proofs, and the reason; ``otherwise`` if it was not run."""
    graph, own = artifact.graph_fidelity, artifact.fidelity
    for proof in (own, graph):
        if proof is not None and proof.failed:
            subject = artifact.name if proof is own else f"the graph of {artifact.name}"
            return Status.FAILED, f"{subject} is not the same model: {'; '.join(proof.reasons)}."
    for proof in (own, graph):
        if proof is not None and proof.unverifiable:
            return Status.UNVERIFIABLE, proof.unverifiable
    return (Status.BUILT, otherwise) if own is None else (Status.OK, "")
