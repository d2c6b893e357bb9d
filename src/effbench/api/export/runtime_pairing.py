"""A runtime against its quantized graph: what the noise of quantization hides at the outputs shows part by part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from effbench import deploy
from effbench.api.export.stage import EXPORT_WORKER, Limits, run
from effbench.schema import CALIBRATED, Artifact, Fidelity

NAMED_FAULTS = 3
"""Faults that a reason names."""
FUSED = "a fault of a kernel that the runtime uses only where no quantized activation is read from outside"


def possible(artifact: Artifact, fidelity: Fidelity) -> bool:
    """Return whether this is an int8 or a16w8 artifact that did not fail, of a runtime whose inner tensors are read."""
    if artifact.subject.storage_precision not in CALIBRATED or fidelity.failed or artifact.graph_digest is None:
        return False
    target = deploy.registered().get(artifact.subject.target)
    return target is not None and type(target).traced is not deploy.Target.traced and deploy.installed("torch")


def paired(
    artifacts: tuple[Artifact, Artifact], fidelity: Fidelity, reference: Path, home: Path, limits: Limits
) -> Fidelity:
    """Return the fidelity of an artifact after its runtime was compared with the quantized graph, part by part.

    It stays as it was if the interpreter lacks an operator of the graph.

    Args:
        artifacts: The runtime's, and the graph that it was made from.
        fidelity: From its outputs.
        reference: The file of expected outputs, whose images are run.
        home: Where the record of a failure belongs.
        limits: Of the comparison.

    Raises:
        EffbenchError: The comparison failed as a child process, or ran into a limit.
    """
    from effbench.deploy.artifact.fidelity import BELOW_NOISE  # numpy, which a cached export does not need

    artifact, graph = artifacts
    if graph.placement.get("float_type") == "fp16":
        return fidelity  # runtimes compute the float part in fp32 or in half: another rounding in front of each level
    job = {
        "op": "pair_runtime",
        "artifact": str(artifact.folder),
        "graph": str(graph.folder),
        "reference": str(reference),
    }
    (answer,) = run(EXPORT_WORKER, job, limits, home, artifact.name)
    if not answer["compared"]:
        return fidelity
    fidelity = replace(fidelity, paired=int(answer["compared"]))
    if not answer["faults"]:
        blind_to = tuple(FUSED if text == BELOW_NOISE else text for text in fidelity.blind_to)
        return replace(fidelity, blind_to=blind_to)
    named, rest = answer["faults"][:NAMED_FAULTS], len(answer["faults"]) - NAMED_FAULTS
    more = f"; and {rest} more" if rest > 0 else ""
    reason = f"the runtime does not compute its quantized graph: {'; '.join(named)}{more}"
    return replace(fidelity, passed=False, unverifiable="", reasons=(*fidelity.reasons, reason))
