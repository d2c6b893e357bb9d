"""Why B is slower: operators that were added or removed, fusions that were lost, and the layers that changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effbench import process
from effbench.api.compare import layer_changes
from effbench.api.compare.rounds import ROUND_LIMIT_S, RoundSettings
from effbench.deploy.artifact import bundle
from effbench.deploy.graph import onnx_file
from effbench.device import PAIR_AGENT
from effbench.errors import EffbenchError
from effbench.schema import Artifact
from effbench.statistics.verdict import Explanation

PROCESSES, RUNS = 8, 5
"""Processes that time the layers of both sides, and the pairs of runs of each."""
ORT_FUSED = ("Fused", "BiasGelu", "QuickGelu", "SkipLayerNormalization", "Attention", "ConvActivation")
FUSIBLE_PARTS = {"Gelu": ("Erf", "Tanh"), "LayerNormalization": ("ReduceMean",)}
"""An operator that is itself a fusion, and the operators that it is made of."""


def explain(a: Artifact, b: Artifact, settings: RoundSettings) -> Explanation:
    """Compare the graphs of both sides, and their layers where ONNX Runtime can run the graph.

    Layers are timed in ONNX Runtime for every target; the explanation notes it where the target is another one.
    """
    graphs = [source_onnx_path(item) for item in (a, b)]
    if None in graphs:
        return Explanation(unknown_reason="the ONNX graph of one side is no longer beside its artifact")
    paths = [path for path in graphs if path is not None]
    models = [onnx_file.load(path) for path in paths]
    before, after = (Counter(onnx_file.operators(model)) for model in models)
    operators = _difference(before, after)
    job = {
        "op": "layers",
        "sides": [{"model": str(path.resolve())} for path in paths],
        "runs": RUNS,
        "threads": settings.threads,
    }
    try:
        answers = [_timed({**job, "seed": settings.seed + index}) for index in range(PROCESSES)]
    except EffbenchError as error:
        return Explanation(operators=operators, unknown_reason=f"layers were not timed: {error.message}")
    left, right = (
        layer_changes.joined([_renamed(answer[side]["layers"], model) for answer in answers])
        for side, model in enumerate(models)
    )
    executed = _difference(*(side["operators"] for side in answers[0]))
    target = b.subject.target
    return Explanation(
        operators=operators,
        executed=executed,
        lost_fusions=lost_fusions(executed, operators),
        layers=layer_changes.changed(left, right),
        total_a_us=sum(layer.us for layer in left),
        total_b_us=sum(layer.us for layer in right),
        unknown_reason="" if target == "ort" else f"layers as ONNX Runtime runs them; the verdict is about {target}",
    )


def _timed(job: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what one process measured of the layers of both sides."""
    answer = process.single(process.run(PAIR_AGENT, job, time_limit_s=ROUND_LIMIT_S))
    with process.reading_answer("timed layers"):
        return [{**side} for side in answer["layers"]]


def source_onnx_path(artifact: Artifact) -> Path | None:
    """Return the ONNX file that an artifact was made from or consists of; None if it was removed."""
    if artifact.path.suffix == ".onnx":
        return artifact.path
    for item in bundle.artifacts(artifact.folder.parent.parent, skip=True):
        if item.digest == artifact.graph_digest:
            return item.path
    return None


def _renamed(layers: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Name layers as the graph does: ONNX Runtime names some after their output, with a suffix for its layout."""
    makers = {output: node.name for node in model.graph.node for output in node.output if node.name}
    return {makers.get(name.removesuffix("_nchwc"), name): value for name, value in layers.items()}


def _difference(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    names = sorted({*before, *after})
    return {
        name: after.get(name, 0) - before.get(name, 0) for name in names if after.get(name, 0) != before.get(name, 0)
    }


def lost_fusions(executed: Mapping[str, int], operators: Mapping[str, int]) -> tuple[str, ...]:
    """Return the fused operators of which the candidate runs fewer."""
    lost = [f"{name} ({change:+d})" for name, change in executed.items() if change < 0 and name.startswith(ORT_FUSED)]
    for fused, parts in FUSIBLE_PARTS.items():
        change = operators.get(fused, 0)
        if change < 0 and any(operators.get(part, 0) > 0 for part in parts):
            lost.append(f"{fused} ({change:+d}), now in parts")
    return tuple(lost)
