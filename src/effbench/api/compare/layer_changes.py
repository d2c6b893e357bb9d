"""Which layers of two graphs differ in time: matched by structure, and only where their own paired times differ.

Names decide nothing: exporters number nodes throughout a graph, so that one added node renames all behind it. The unit
of evidence is the process, because two sessions of one model differ for as long as they live.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from effbench.statistics.percentiles import sign_rank
from effbench.statistics.verdict import LayerChange

LEVEL = 0.95
SHOWN = 8
SMALLEST_SHARE = 0.01
"""Of the sum of all listed changes: what is smaller explains nothing."""


@dataclass(frozen=True)
class Layer:
    """One layer as executed: ``runs_us`` holds its microseconds, a series for each process.

    ``structure`` is equal for layers of one operator with the same shapes of inputs, outputs and weights.
    """

    name: str
    operator: str
    structure: str
    runs_us: tuple[tuple[float, ...], ...]

    @property
    def us(self) -> float:
        """The median over processes of the median over runs."""
        return statistics.median(statistics.median(runs) for runs in self.runs_us)


Pair = tuple[Layer | None, Layer | None]


def joined(processes: Sequence[Mapping[str, Any]]) -> list[Layer]:
    """Return the layers of one side in the order of execution, from what each process measured.

    Args:
        processes: Of each, name -> [operator, microseconds of each run, structure]; a layer that one of them lacks is
            left out.
    """
    return [
        Layer(name, operator, structure, tuple(tuple(timed[name][1]) for timed in processes))
        for name, (operator, _, structure) in processes[0].items()
        if all(name in timed for timed in processes)
    ]


def matched(left: Sequence[Layer], right: Sequence[Layer]) -> list[Pair]:
    """Return the layers of both sides in pairs; None where a side has no such layer.

    Three passes: the longest common sequence of structures; equal structures anywhere, for reordered nodes; and the
    same operator between two matches, in the order of execution, for a layer whose shapes changed.
    """
    blocks = SequenceMatcher(
        None, [item.structure for item in left], [item.structure for item in right], autojunk=False
    ).get_opcodes()
    pairs: list[Pair] = []
    gaps: list[tuple[list[Layer], list[Layer]]] = []
    for kind, a_from, a_to, b_from, b_to in blocks:
        a, b = list(left[a_from:a_to]), list(right[b_from:b_to])
        if kind == "equal":
            pairs += zip(a, b, strict=True)
        else:
            gaps.append((a, b))
    waiting = [item for a, _ in gaps for item in a]
    for _, b in gaps:
        pairs += _paired_off(waiting, b, "structure")
    for a, b in gaps:
        remaining = [item for item in a if item in waiting]
        pairs += _paired_off(remaining, b, "operator")
        pairs += [(None, item) for item in b] + [(item, None) for item in remaining]
    return pairs


def _paired_off(waiting: list[Layer], candidates: list[Layer], key: str) -> list[Pair]:
    """Pair layers that agree in a key, in order; take them off both lists."""
    pairs: list[Pair] = []
    for layer in list(candidates):
        partner = next((item for item in waiting if getattr(item, key) == getattr(layer, key)), None)
        if partner is not None:
            waiting.remove(partner)
            candidates.remove(layer)
            pairs.append((partner, layer))
    return pairs


def changed(left: Sequence[Layer], right: Sequence[Layer]) -> tuple[LayerChange, ...]:
    """Return the layers that changed, the largest change first; one that a side lacks counts as zero there.

    A layer of both sides is listed only if the 95 % interval of its paired differences over processes excludes zero,
    and any layer only if it is 1 % of all changes.
    """
    changes = []
    for a, b in matched(left, right):
        layer = b or a
        if layer is not None and (a is None or b is None or _differ(a, b)):
            changes.append(LayerChange(layer.name, layer.operator, a.us if a else 0.0, b.us if b else 0.0))
    total_us = sum(abs(item.change_us) for item in changes)
    changes = [item for item in changes if abs(item.change_us) >= SMALLEST_SHARE * total_us]
    changes.sort(key=lambda item: (-abs(item.change_us), item.name))
    return tuple(changes[:SHOWN])


def _differ(a: Layer, b: Layer) -> bool:
    """Return whether the sign test's interval of the median difference over processes excludes zero."""
    differences = sorted(
        statistics.median(after - before for before, after in zip(*runs, strict=False))
        for runs in zip(a.runs_us, b.runs_us, strict=True)
    )
    rank = sign_rank(len(differences), LEVEL)
    return rank >= 0 and (differences[rank] > 0 or differences[-1 - rank] < 0)
