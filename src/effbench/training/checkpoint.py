"""Training checkpoints: tensors in safetensors, the rest in JSON, written atomically and without pickle."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effbench import drafts, reading
from effbench.codec import file_sha256
from effbench.errors import DataError

TENSORS, STATE = "tensors.safetensors", "state.json"
DRAFT = ".step-"
KEEP_NEWEST = 2
"""Checkpoints that are kept: the newest, and one more in case it is damaged."""


def pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return a nested state as JSON data, and add its tensors to ``tensors``, each under a unique name.

    Raises:
        TypeError: A value is not a tensor, number, text, list, tuple, dictionary or None.
    """
    if torch.is_tensor(value):
        # Cloned, because safetensors refuses tensors that share memory.
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"items": [[key, pack(item, f"{name}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        packed = [pack(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": packed}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{name} is a {type(value).__name__}, which a checkpoint cannot hold")


def unpack(data: Any, tensors: dict[str, Tensor]) -> Any:
    """Restore a packed state; the inverse of `pack`."""
    if not isinstance(data, dict):
        return data
    ((kind, inner),) = data.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "items":
        return {key: unpack(item, tensors) for key, item in inner}
    values = [unpack(item, tensors) for item in inner]
    return tuple(values) if kind == "tuple" else values


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write the state after a step below a folder, and remove all but the newest checkpoints.

    Raises:
        DataError: The disk is full or the folder cannot be written; earlier checkpoints stay.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    packed = pack(state, "state", tensors)
    final = folder / f"step-{step:09d}"
    try:
        with drafts.draft(folder, DRAFT) as draft:
            draft.mkdir()
            save_file(tensors, draft / TENSORS)
            text = json.dumps({"step": step, "sha256": file_sha256(draft / TENSORS), "state": packed})
            (draft / STATE).write_text(text)
            for name in (TENSORS, STATE):
                sync(draft / name)
            drafts.replace_folder(draft, final)
            sync(folder)
    except OSError as error:
        raise DataError(
            f"Cannot write {final}: {error.strerror or error}.",
            hint="The previous checkpoint is kept; free space and run the same command again.",
        ) from error
    for old in _checkpoints(folder)[:-KEEP_NEWEST]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def load(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """Return the step and state of the newest checkpoint below a folder, or None if there is none.

    Raises:
        DataError: It cannot be read, or its tensors do not match their checksum.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    checkpoints = _checkpoints(folder)
    if not checkpoints:
        return None
    newest = checkpoints[-1]
    hint = f"Remove {newest} to resume from the previous checkpoint."
    try:
        data = reading.json_file(newest / STATE, longest=None)
        if file_sha256(newest / TENSORS) != data["sha256"]:
            raise DataError(f"{newest / TENSORS}: the checksum does not match.", hint=hint)
        return data["step"], unpack(data["state"], load_file(newest / TENSORS))
    except DataError as error:
        raise DataError(error.message, hint=hint) from error
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise DataError(f"{newest}: not a complete checkpoint ({error}).", hint=hint) from error


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk; Windows opens no folders, and is not asked to."""
    if sys.platform == "win32" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if path.is_dir())
