"""Is it still the same model on the kit's device? Judged here, from the outputs that came back with the result.

The judge is that of `effbench verify`. Outputs that did not come back leave what the kit's run said: a claim.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from effbench import deploy
from effbench.api.export.verification import reference_of
from effbench.codec import file_sha256
from effbench.deploy.artifact import encoded, fidelity, observed
from effbench.device.agent_kit import OUTPUTS
from effbench.errors import DataError
from effbench.schema import Artifact, Fidelity, Subject

CLAIMED, RECOMPUTED = "claimed by the kit's run", "recomputed here from the outputs of the kit's run"


@dataclass(frozen=True)
class DeviceCheck:
    """What is known of an artifact's outputs on the kit's device.

    Attributes:
        note: One sentence for the measurement.
        fidelity: As recomputed here; None if it is only claimed.
        doubts: Why the outputs may not be those of the run.
    """

    note: str
    fidelity: Fidelity | None = None
    doubts: tuple[str, ...] = ()

    def of(self, subject: Subject) -> Subject:
        """Return the subject with what was recomputed; a failure at home remains one."""
        if self.fidelity is None or subject.fidelity_passed is False:
            return subject
        return replace(subject, fidelity_passed=self.fidelity.proved)


def check(claim: Fidelity, artifact: Artifact, home: Path, folder: Path, sha256: str) -> DeviceCheck:
    """Judge the outputs of an artifact that a kit returned.

    Args:
        claim: What the kit's run said.
        artifact: The artifact of this home.
        home: The folder with its reference.
        folder: Where the result lies, with the returned outputs beside it.
        sha256: Of the file of outputs, from the signed line; empty if the run kept none.
    """
    path = folder / OUTPUTS / f"{artifact.name}.npz"
    if not sha256 or not path.is_file():
        why = f"{OUTPUTS}/{path.name} did not come back" if sha256 else "the run returned no outputs"
        return DeviceCheck(f"{_sentence(CLAIMED, claim)}; {why}")
    try:
        if file_sha256(path) != sha256:
            raise DataError(f"{path}: these outputs are not those that the run wrote (another hash).")
        own = recomputed(artifact, home, path)
    except (DataError, OSError) as error:
        reason = error.message if isinstance(error, DataError) else f"{path}: {error.strerror}."
        return DeviceCheck(_sentence(CLAIMED, claim), None, (reason,))
    if own.proved != claim.proved:
        reason = f"{path}: the run said {_verdict(claim)}, but its outputs show {_verdict(own)}."
        return DeviceCheck(_sentence(RECOMPUTED, own), own, (reason,))
    return DeviceCheck(_sentence(RECOMPUTED, own), own)


def recomputed(artifact: Artifact, home: Path, path: Path) -> Fidelity:
    """Return the fidelity of an artifact, judged from a file of its outputs.

    Raises:
        DataError: The file is damaged, or holds outputs of other names, shapes or another number of images.
    """
    reference_path = reference_of(artifact, home)
    reference, example = fidelity.load_reference(reference_path), encoded.load(reference_path)
    checks = observed.load(path)
    expected = len(deploy.get(artifact.subject.target).checks)
    if len(checks) != expected:
        raise DataError(f"{path}: outputs of {len(checks)} checks, expected {expected}.")
    results = []
    for item in checks:
        count = min(len(value) for value in item.outputs.values())
        if not count:
            raise DataError(f"{path}: outputs of no image.")
        precision = artifact.subject.storage_precision
        setup = fidelity.Setup(
            reference,
            artifact.fixed_batch or 3,
            artifact.inputs,
            artifact.preprocessing,
            precision,
            example,
            limit=count,
        )
        try:
            results.append(fidelity.decide(item, setup))
        except DataError as error:
            raise DataError(f"{path}: {error.message}") from error
    return fidelity.worst(results)


def _sentence(source: str, result: Fidelity) -> str:
    if result.unverifiable:
        return f"{source}: no comparison can tell whether it is the same model ({result.unverifiable})"
    return f"{source}: {_verdict(result)} (max error {result.max_error:.1e}, {result.inputs} images)"


def _verdict(result: Fidelity) -> str:
    return {True: "the same model", False: "NOT the same model", None: "that nothing can be proved"}[result.proved]
