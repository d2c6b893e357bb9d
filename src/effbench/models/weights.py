"""Weights from a file, checked before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path

from effbench.codec import file_sha256
from effbench.errors import DataError, UsageError
from effbench.schema import Weights

PICKLED = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".tar")


def weights_of(path: Path) -> Weights:
    """Return the record of a weights file, with its SHA-256.

    Raises:
        UsageError: The file is a pickle, or not safetensors.
        DataError: There is no such file.
    """
    check_weights_file(path)
    return Weights(kind="file", seed=None, source=path.name, sha256=file_sha256(path))


def check_weights_file(path: Path) -> None:
    """Raise an error unless a file is a safetensors file by name; for a pickle it has the command that converts it.

    Raises:
        UsageError: The name does not end in ``.safetensors``.
        DataError: There is no such file.
    """
    if path.suffix in PICKLED:
        target = path.with_suffix(".safetensors")
        line = (
            'python -c "import torch, safetensors.torch as st; '
            f"s = torch.load('{path}', map_location='cpu', weights_only=True); s = s.get('model', s); "
            f"st.save_file({{k: v.contiguous().clone() for k, v in s.items()}}, '{target}')\""
        )
        raise UsageError(f"{path} is a pickle, which can run code when it is read.", hint=f"Convert it once: {line}")
    if path.suffix != ".safetensors":
        raise UsageError(f"{path} is not a safetensors file.", hint="Weights are read from FILE.safetensors.")
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
