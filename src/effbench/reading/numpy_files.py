"""Arrays of NumPy's files, unpacked within limits and never unpickled."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.errors import DataError
from effbench.reading.files import RefusedError, opened, short

if TYPE_CHECKING:
    import numpy.typing as npt

ARRAY_BYTES = 4 << 30
"""Of all arrays of a file together, unpacked."""


def arrays(path: Path, limit: int = ARRAY_BYTES) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays of an ``.npz`` file, or the one of an ``.npy`` file under an empty name.

    Raises:
        DataError: It is damaged, needs unpickling, or unpacks to more than the limit.
    """
    import zipfile
    import zlib

    import numpy as np

    with opened(path) as stream:
        try:
            if stream.read(4) == b"PK\x03\x04":
                return _members(path, zipfile.ZipFile(stream), limit)
            size = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            _check_header(stream, size, limit)
            stream.seek(0)
            return {"": np.lib.format.read_array(stream, allow_pickle=False)}
        except (OSError, EOFError, ValueError, KeyError, TypeError, SyntaxError, RuntimeError, MemoryError) as error:
            raise DataError(f"{path}: not a file of NumPy arrays ({short(error)}).") from error
        except (zipfile.BadZipFile, zlib.error, OverflowError, AttributeError, IndexError) as error:
            raise DataError(f"{path}: not a file of NumPy arrays ({short(error)}).") from error


def _members(path: Path, archive: Any, limit: int) -> dict[str, npt.NDArray[Any]]:
    import numpy as np

    arrays: dict[str, npt.NDArray[Any]] = {}
    infos = archive.infolist()
    if sum(info.file_size for info in infos) > limit:
        raise RefusedError(f"it unpacks to more than {limit >> 20} MiB")
    for info in infos:
        name = info.filename.removesuffix(".npy")
        if name in arrays:
            raise RefusedError(f"'{name}' twice")
        with archive.open(info) as member:
            _check_header(member, info.file_size, limit)
        with archive.open(info) as member:
            arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
    return arrays


def _check_header(stream: Any, size: int, limit: int) -> None:
    """Compare the declared shape with the bytes that there are, before memory is reserved for it."""
    import numpy as np

    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise RefusedError(f"format {version} of NumPy")
    shape, _, dtype = readers[version](stream)
    if dtype.hasobject:
        raise RefusedError("it holds pickled objects")
    if any(side < 0 for side in shape) or math.prod(shape) * dtype.itemsize > min(size, limit):
        raise RefusedError(f"shape {shape} of {dtype} in {size} bytes")
