"""A session of the interpreter: it runs a graph that belongs to no runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from effbench.deploy import Session
from effbench.deploy.graph import onnx_file
from effbench.deploy.interpreter import Interpreter
from effbench.schema import Artifact, Proof

CHECKS: Mapping[str, tuple[Mapping[str, str], ...]] = {"fp16": ({"sums": "fp32"}, {"sums": "half"})}
"""By precision: the options to open a graph with when it is checked. In which precision a device adds up is unknown."""
HALF_SUMS_SLACK = 2.5
"""How many times the limits an error may be where sums are in half precision: the simulated order is a pessimistic
one."""


class InterpreterSession(Session):
    """The interpreter in the graph's own types; outputs are host arrays."""

    @property
    def proof(self) -> Proof:
        """Effbench's own evaluator, whose code shares nothing with the converter."""
        return Proof.EVALUATOR

    def __init__(self, artifact: Artifact, threads: int, options: Mapping[str, str] | None = None) -> None:
        torch.set_num_threads(threads)
        half_sums = (options or {}).get("sums") == "half"
        self._mode = "half-sums" if half_sums else "float32"
        self.slack = HALF_SUMS_SLACK if half_sums else 1.0
        self._interpreter = Interpreter(onnx_file.load(artifact.path))
        self.compute_precision: str | None = artifact.subject.storage_precision

    def __call__(self, feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run once."""
        return {name: np.asarray(value) for name, value in self._interpreter.run(feeds, self._mode).items()}

    def placement(self) -> dict[str, Any]:
        """Name the engine."""
        return {"devices": ["cpu"], "engine": "effbench's ONNX interpreter on torch"}

    def close(self) -> None:
        """Free the graph."""
        del self._interpreter
