"""A session of the interpreter: the reference of models that are .onnx files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from effbench.deploy import Session
from effbench.deploy.graph import onnx_file
from effbench.deploy.interpreter import Interpreter
from effbench.schema import Artifact, Proof


class InterpreterSession(Session):
    """The interpreter in the graph's own types; outputs are host arrays."""

    @property
    def proof(self) -> Proof:
        """Effbench's own evaluator, whose code shares nothing with the converter."""
        return Proof.EVALUATOR

    def __init__(self, artifact: Artifact, threads: int) -> None:
        torch.set_num_threads(threads)
        self._interpreter = Interpreter(onnx_file.load(artifact.path))
        self.compute_precision: str | None = artifact.subject.storage_precision

    def __call__(self, feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run once."""
        return {name: np.asarray(value) for name, value in self._interpreter.run(feeds).items()}

    def placement(self) -> dict[str, Any]:
        """Name the engine."""
        return {"devices": ["cpu"], "engine": "effbench's ONNX interpreter on torch"}

    def close(self) -> None:
        """Free the graph."""
        del self._interpreter
