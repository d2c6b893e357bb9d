"""What the proofs of a cell compared, a line each: inputs, outputs, limit, the model's own rounding, blind spots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from effbench.schema import Cell, Fidelity


def lines(cell: Cell) -> Iterator[str]:
    """Yield what was compared to prove a cell's graph, and its artifact."""
    graph, own = cell.graph_fidelity, cell.fidelity
    if graph is not None and graph.images:
        by = f"graph compared with the model by {graph.engine}" if graph.independent else alone(graph)
        yield (
            f"{by}: {graph.images}; {_outputs(graph)}; "
            f"max error {graph.max_error:.1e} of the spread; limit: {_limits(graph.limits)}"
        )
    if own is not None and own.images:
        compared = f"compared: {own.images}; {_outputs(own)}; limit: {_limits(own.limits)}; {_rounding(own)}"
        yield f"{compared}; not seen: {', '.join(own.blind_to)}" if own.blind_to else compared


def alone(graph: Fidelity) -> str:
    """Return what the proof of a graph that only one engine runs is worth."""
    return f"graph not checked by a second engine (none here runs it): ok against {graph.reference}"


def _outputs(proof: Fidelity) -> str:
    return f"output{'' if len(proof.outputs) == 1 else 's'} {', '.join(map(repr, proof.outputs))}"


def _limits(limits: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {limit:.4g}" for name, limit in limits.items())


def _rounding(proof: Fidelity) -> str:
    if not proof.rounding:
        return "the model's own rounding in fp32 is unknown"
    return f"the model's own rounding in fp32: {max(proof.rounding.values()):.1e} of the spread"
