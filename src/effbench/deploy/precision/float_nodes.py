"""Which nodes of a low-precision graph stay in float: one search for every precision.

The nodes are put in an *order*, the most harmful first. A *judge* runs or simulates the graph with a *prefix* of that
order in float and says whether it *holds* its limits. The shortest prefix that holds is the result.

The judges look at rounding in half precision (`fp32_islands`), at quantization noise (`int8_noise`), and at the
accuracy on a data set (`effbench.api.quantize.search`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence


def shortest_prefix(lengths: Sequence[int], holds: Callable[[int], bool], first: int | None = None) -> int | None:
    """Return the shortest prefix that holds, by bisection.

    If a longer prefix always holds where a shorter one does, this is the shortest of all; otherwise it is one that
    holds and whose next shorter neighbor was judged and does not.

    Args:
        lengths: The lengths of the candidates, ascending.
        holds: The judge; it is called at most once for each length.
        first: Index of the length that is judged first, by default the middle one.

    Returns:
        One of `lengths`, or None if no judged prefix holds.
    """
    fails, passes = -1, len(lengths)
    probe = (fails + passes) // 2 if first is None else first
    while passes - fails > 1:
        if holds(lengths[probe]):
            passes = probe
        else:
            fails = probe
        probe = (fails + passes) // 2
    return lengths[passes] if passes < len(lengths) else None
