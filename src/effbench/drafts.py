"""Drafts: what is being made lies beside its place until it is whole, and a kill leaves nothing for long.

A draft is held by the lock of a file beside it (``NAME.lock``), not by a process number: a number means nothing on
another host that shares the folder. A process that makes a draft first removes those that no process holds any more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import FileLock

PREFIX = ".making-"
LOCK = ".lock"
TRIES = 100


@contextlib.contextmanager
def draft(parent: Path, prefix: str = PREFIX, remove: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """Yield the path of a draft in a folder, where nothing is yet; what is left of it at the end is removed.

    The caller makes a file or a folder there, with the permissions that its umask gives, and renames it into place.

    Args:
        parent: The folder.
        prefix: Of the draft's name.
        remove: Also removes what a draft that a kill left stands for elsewhere; after an OSError it is tried again by
            the next draft.

    Raises:
        OSError: The folder cannot be written.
    """
    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent, prefix, remove)
    path = parent / f"{prefix}{secrets.token_hex(8)}"
    lock = path.with_name(path.name + LOCK)
    handle = _claim(lock)
    try:
        yield path
    finally:
        _remove(path)
        lock.unlink(missing_ok=True)  # before it is released: nobody may take a file that is about to go
        os.close(handle)


def replace_folder(draft: Path, folder: Path) -> None:
    """Move a folder into the place of another one, which is removed; another process may be doing the same.

    Raises:
        OSError: It cannot be moved there.
    """
    for attempt in range(TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        try:
            draft.rename(folder)
            return
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY) or attempt == TRIES - 1:
                raise


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Yield an empty folder for one piece of work, private to this user; the next one removes those left by a kill."""
    root = Path(tempfile.gettempdir()) / f"effbench-{_user()}"
    root.mkdir(mode=0o700, exist_ok=True)
    status = root.lstat()
    if root.is_symlink() or not root.is_dir() or (hasattr(os, "geteuid") and status.st_uid != os.geteuid()):
        raise PermissionError(errno.EACCES, "belongs to another user", str(root))
    with draft(root, "work-") as path:
        path.mkdir(mode=0o700)
        yield path.resolve()


def file_lock(path: Path, limit_s: float) -> FileLock:
    """Return a lock that several processes share; taking it waits so long, then raises ``filelock.Timeout``.

    Who may write the folder may take the lock, also if another user made it: a home can belong to a group.

    Raises:
        OSError: The folder cannot be made.
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path, timeout=limit_s, mode=stat.S_IMODE(path.parent.stat().st_mode) & 0o666)


@contextlib.contextmanager
def folder_lock(folder: Path, limit_s: float) -> Iterator[None]:
    """Hold the lock of a folder itself, which leaves no file in it; on a file system without locks it holds nothing.

    Raises:
        TimeoutError: Another process has held it for so long.
        OSError: There is no such folder.
    """
    handle, deadline = os.open(folder, os.O_RDONLY), time.monotonic() + limit_s
    try:
        with contextlib.suppress(_NoLocksError):
            while not _locked(handle):
                if time.monotonic() > deadline:
                    raise TimeoutError(errno.ETIMEDOUT, f"another process has held it for {limit_s:g} s", str(folder))
                time.sleep(0.02)
        yield
    finally:
        os.close(handle)


class _NoLocksError(OSError):
    """The file system has no locks."""


def _locked(handle: int) -> bool:
    try:
        return _take(handle)
    except OSError as error:
        raise _NoLocksError from error


def sweep(parent: Path, prefix: str = PREFIX, remove: Callable[[Path], None] | None = None) -> None:
    """Remove the drafts of a folder that nobody holds (see `draft`)."""
    for lock in parent.glob(f"{prefix}*{LOCK}"):
        try:
            handle = os.open(lock, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        except OSError:
            continue  # gone, or another user's
        try:
            if _take(handle):
                path = lock.with_name(lock.name.removesuffix(LOCK))
                if remove is not None:
                    remove(path)
                _remove(path)
                lock.unlink(missing_ok=True)
        except OSError:
            pass  # a file system without locks: better a draft too many than one that is still being made
        finally:
            os.close(handle)


def _claim(lock: Path) -> int:
    """Create and take a lock; a sweep may have removed the file between the two."""
    for _ in range(TRIES):
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if _take(handle) and os.path.samestat(os.fstat(handle), lock.stat()):
                return handle
        except FileNotFoundError:
            pass
        except OSError:
            return handle  # a file system without locks
        os.close(handle)
    raise OSError(errno.EBUSY, "cannot be locked", str(lock))


def _take(handle: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows keeps an open file from being removed
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _user() -> str:
    return str(os.geteuid()) if hasattr(os, "geteuid") else "user"
