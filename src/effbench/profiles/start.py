"""How long the parts of a start take, and starts whose files are not in the system's file cache.

This module runs on devices, with the standard library alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path

from effbench.schema import Start

BLOCK_BYTES = 512
"""The unit of ``ru_inblock``, whatever the file system's own block is."""

NOT_DROPPED = "the file cache, which cannot be dropped on this system"
NOTHING_READ = "the files: none was read from the disk, so that their folder lies in memory"


class StartClock:
    """Times the parts of one start: ``import``, ``read`` and ``session``."""

    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self._clock = clock
        self._spent_ns = {"import": 0, "read": 0, "session": 0}
        self._read_before = disk_bytes()
        self._cold = False
        self._still_cached: tuple[str, ...] = ()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of the block to a part."""
        begin = self._clock()
        try:
            yield
        finally:
            self._spent_ns[name] += self._clock() - begin

    def drop(self, files: Iterable[Path], still_cached: tuple[str, ...] = ()) -> None:
        """Drop files from the system's file cache, so that this start is cold.

        Args:
            files: Those of the artifact and of its runtime, before either is read.
            still_cached: What else stays cached.
        """
        paths = list(files)
        self._cold = drop_from_cache(paths)
        shared = in_use(sum(map(cached_bytes, paths))) if self._cold else NOT_DROPPED
        self._still_cached = (*((shared,) if shared else ()), *still_cached)

    @property
    def load_ms(self) -> float:
        """The time of all parts so far."""
        return sum(self._spent_ns.values()) / 1e6

    def start(self) -> Start:
        """Return the parts; call it after the first inference, which may still read weights from the disk."""
        after, before = disk_bytes(), self._read_before
        moved = None if after is None or before is None else after - before
        still_cached = (*self._still_cached, NOTHING_READ) if self._cold and moved == 0 else self._still_cached
        parts = {f"{name}_ms": spent_ns / 1e6 for name, spent_ns in self._spent_ns.items()}
        return Start(**parts, cold=self._cold and moved != 0, disk_bytes=moved, still_cached=still_cached)


def disk_bytes() -> int | None:
    """Return how many bytes this process has read from disks so far; None if the system does not count them."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_inblock * BLOCK_BYTES


def drop_from_cache(files: Iterable[Path]) -> bool:
    """Drop the pages of files that no process has mapped from the file cache; return whether the system can do that.

    It needs no rights beyond reading the files, and nothing else is dropped.

    Source: posix_fadvise(2), POSIX_FADV_DONTNEED.
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in files:
        with contextlib.suppress(OSError):  # a file that cannot be read is not part of the start either
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)
    return True


def in_use(cached: int) -> str:
    """Return how much stayed in the file cache although it was dropped, or an empty string below 1 MiB."""
    return f"{cached / 2**20:.0f} MiB of the files, which other processes use" if cached >= 2**20 else ""


def cached_bytes(path: Path) -> int:
    """Return how many bytes of a file are in the file cache; 0 if the system does not tell.

    Source: mincore(2). Linux tells it of files that this user may write.
    """
    # A private mapping is writable, which ctypes needs for an address; nothing is written.
    with (
        contextlib.suppress(OSError, ValueError, AttributeError),
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapping,
    ):
        size = len(mapping)
        pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        view = ctypes.c_char.from_buffer(mapping)
        failed = ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(size), pages)
        del view  # a mapping with a view cannot be closed
        return 0 if failed else min(size, mmap.PAGESIZE * sum(page & 1 for page in pages))
    return 0


def files_of(packages: Iterable[str]) -> Iterator[Path]:
    """Yield the files of installed distributions; one that is not installed has none."""
    for package in packages:
        try:
            files = metadata.files(package)
        except metadata.PackageNotFoundError:
            continue
        yield from (Path(str(file.locate())) for file in files or ())
