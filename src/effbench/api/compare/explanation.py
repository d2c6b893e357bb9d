"""Why B is slower: operators that were added or removed, fusions that were lost, and the layers that changed."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from effbench import process
from effbench.api.compare.rounds import ROUND_LIMIT_S, RoundSettings
from effbench.deploy.artifact import bundle
from effbench.deploy.graph import onnx_file
from effbench.device import PAIR_AGENT
from effbench.errors import EffbenchError
from effbench.schema import Artifact
from effbench.statistics.percentiles import sign_rank
from effbench.statistics.verdict import Explanation, LayerChange

RUNS = 25
LEVEL = 0.95
SHOWN = 8
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
        "seed": settings.seed,
        "runs": RUNS,
        "threads": settings.threads,
    }
    try:
        answer = process.single(process.run(PAIR_AGENT, job, time_limit_s=ROUND_LIMIT_S))
    except EffbenchError as error:
        return Explanation(operators=operators, unknown_reason=f"layers were not timed: {error.message}")
    left, right = answer["layers"]
    for profile, model in zip((left, right), models, strict=True):
        profile["layers"] = _renamed(profile["layers"], model)
    executed = _difference(left["operators"], right["operators"])
    target = b.subject.target
    return Explanation(
        operators=operators,
        executed=executed,
        lost_fusions=lost_fusions(executed, operators),
        layers=changed_layers(left["layers"], right["layers"]),
        total_a_us=sum(_median(times) for _, times in left["layers"].values()),
        total_b_us=sum(_median(times) for _, times in right["layers"].values()),
        unknown_reason="" if target == "ort" else f"layers as ONNX Runtime runs them; the verdict is about {target}",
    )


def source_onnx_path(artifact: Artifact) -> Path | None:
    """Return the ONNX file that an artifact was made from or consists of; None if it was removed."""
    if artifact.path.suffix == ".onnx":
        return artifact.path
    for item in bundle.artifacts(artifact.folder.parent.parent):
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


def changed_layers(left: Mapping[str, Any], right: Mapping[str, Any]) -> tuple[LayerChange, ...]:
    """Return the layers that changed, the largest change first; one that a side lacks counts as zero there.

    A layer of both sides is listed only if the 95 % interval of its paired differences excludes zero.

    Args:
        left: Layers of A: name -> [operator, microseconds of each run].
        right: Those of B; the n-th runs of both are a pair.
    """
    changed = []
    for a_name, b_name in matched_layers(left, right):
        operator = (right[b_name] if b_name else left[str(a_name)])[0]
        a_us = left[a_name][1] if a_name else []
        b_us = right[b_name][1] if b_name else []
        if a_us and b_us and not _differ([b - a for a, b in zip(a_us, b_us, strict=False)]):
            continue
        changed.append(LayerChange(str(b_name or a_name), operator, *(_median(us) for us in (a_us, b_us))))
    changed.sort(key=lambda layer: (-abs(layer.change_us), layer.name))
    return tuple(changed[:SHOWN])


def matched_layers(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[tuple[str | None, str | None]]:
    """Return the layers in pairs: by name, else by operator and name without its numbers, in the order of execution.

    Exporters number nodes throughout a graph, so that one added node renames all behind it.
    """
    pairs: list[tuple[str | None, str | None]] = [(name, name) for name in left if name in right]
    unmatched: dict[tuple[str, str], list[str]] = {}
    for name in left:
        if name not in right:
            unmatched.setdefault(_structure(name, left), []).append(name)
    for name in right:
        if name not in left:
            waiting = unmatched.get(_structure(name, right))
            pairs.append((waiting.pop(0) if waiting else None, name))
    return pairs + [(name, None) for names in unmatched.values() for name in names]


def _structure(name: str, layers: Mapping[str, Any]) -> tuple[str, str]:
    return layers[name][0], re.sub(r"\d+", "#", name)


def _differ(differences: Sequence[float]) -> bool:
    """Return whether the sign test's interval of the median excludes zero."""
    rank = sign_rank(len(differences), LEVEL)
    if rank < 0:
        return False
    ordered = sorted(differences)
    return ordered[rank] > 0 or ordered[-1 - rank] < 0


def _median(values: Sequence[float]) -> float:
    return float(statistics.median(values)) if values else 0.0
