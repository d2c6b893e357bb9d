"""A `torch.export.ExportedProgram` as a module, from a factory or a ``.pt2`` file.

``effbench.models.exported_program:PATH`` is a factory that reads the file. Reading one runs code of torch over what the
file names, so that it is trusted as the module of a factory is.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effbench.errors import DataError

FACTORY = "effbench.models.exported_program:"


def __getattr__(name: str) -> Callable[[], nn.Module]:
    if not name.endswith(".pt2"):
        raise AttributeError(name)
    return lambda: from_file(Path(name))


def from_file(path: Path) -> nn.Module:
    """Read a ``.pt2`` file that `torch.export.save` wrote.

    Raises:
        DataError: The file is missing or damaged, or of another torch.
    """
    try:
        content = path.read_bytes()  # read by Python, so that the build's record names the file
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}.") from error
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise DataError(f"{path}: not a file of torch.export.save.", hint="Write it with torch.export.save(program).")
    try:
        return ProgramModule(torch.export.load(io.BytesIO(content)))
    except Exception as error:  # torch has no class for a damaged file, or for one of another version
        text = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DataError(
            f"{path}: torch {torch.__version__} cannot read it: {text}.", hint="Save it again with this version."
        ) from error


class ProgramModule(nn.Module):
    """A program that was captured in one mode and at the sizes of its example; it has no other mode."""

    def __init__(self, program: Any) -> None:
        """Keep the program as a module."""
        super().__init__()
        self.program = program.module()

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Run the program."""
        return self.program(*inputs)

    def train(self, mode: bool = True) -> ProgramModule:
        """Return the module as it is."""
        return self
