"""Results of a lab, one object each below an address: created if absent and never changed, so none is stored twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from effbench import drafts, reading
from effbench.codec import canonical
from effbench.errors import DataError, MissingDependencyError

SUFFIX = ".json"


class Results:
    """The results below a local folder or any fsspec address (``s3://bucket/lab``, ``memory://lab``).

    On object stores, "create if absent" is a conditional write, if fsspec supports it for the file system; on a local
    disk it is a hard link, which is atomic.
    """

    def __init__(self, address: str | Path) -> None:
        scheme, separator, path = str(address).partition("://")
        self._local = (
            Path(path if separator and scheme == "file" else address) if not separator or scheme == "file" else None
        )
        self.address = str(address).rstrip("/")
        self._fs: Any = None if self._local is not None else _file_system(self.address)

    def add(self, key: str, result: Any) -> bool:
        """Store a result; return False and change nothing if the key exists.

        Raises:
            DataError: The result cannot be written.
        """
        data = canonical(result)
        try:
            return self._add_local(key, data) if self._local is not None else self._add_remote(key, data)
        except OSError as error:
            raise DataError(
                f"Cannot write {self.address}: {error.strerror or error}.", hint="Earlier results are kept."
            ) from error

    def _add_local(self, key: str, data: bytes) -> bool:
        assert self._local is not None
        with drafts.draft(self._local) as draft:
            with draft.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            try:
                os.link(draft, self._local / f"{key}{SUFFIX}")
            except FileExistsError:
                return False
        return True

    def _add_remote(self, key: str, data: bytes) -> bool:
        path = f"{self.address}/{key}{SUFFIX}"
        try:
            try:
                self._fs.pipe_file(path, data, mode="create")
            except FileNotFoundError:  # only a file system with folders needs them created
                self._fs.makedirs(self.address, exist_ok=True)
                self._fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        return True

    def keys(self) -> set[str]:
        """Return the keys of the stored results."""
        if self._local is not None:
            return {path.stem for path in self._local.glob(f"*{SUFFIX}") if not path.name.startswith(".")}
        self._fs.invalidate_cache()
        try:
            listed = self._fs.ls(self.address, detail=False)
        except FileNotFoundError:
            return set()
        return {Path(name).stem for name in listed if str(name).endswith(SUFFIX)}

    def get(self, key: str) -> Any:
        """Return one result.

        Raises:
            DataError: The key does not exist, or the result is not JSON.
        """
        path = f"{self.address}/{key}{SUFFIX}"
        try:
            data = (self._local / f"{key}{SUFFIX}").read_bytes() if self._local is not None else self._fs.cat_file(path)
        except FileNotFoundError:
            raise DataError(f"{path}: there is no such result.") from None
        return reading.json_value(data, path)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Yield every key with its result, in the order of the keys."""
        for key in sorted(self.keys()):
            yield key, self.get(key)


def _file_system(address: str) -> Any:
    try:
        import fsspec
    except ImportError as error:
        raise MissingDependencyError(f"The store {address}", "fsspec", "lab") from error
    try:
        fs, _ = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise DataError(f"The store {address} cannot be opened: {error}.") from error
    return fs
