"""A torch program as data: ATen operators by name in JSON, tensors in safetensors. Reading it runs nothing.

torch's own file (`torch.export.save`) would not do: its reader unpickles tensors and inputs, evaluates expressions, and
calls any function below ``torch`` that the file names. Here a name is an operator of ATen that computes with tensors
alone, and an argument is a number, a name of a type, or an earlier value.
"""

from __future__ import annotations

from effbench.deploy.graph.torch_program.form import PROGRAM, WEIGHTS
from effbench.deploy.graph.torch_program.read import Program
from effbench.deploy.graph.torch_program.write import save

__all__ = ["PROGRAM", "WEIGHTS", "Program", "save"]
