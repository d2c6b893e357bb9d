"""Artifact folders: written completely or not at all, looked up by key, and checked before they are loaded."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from effbench import drafts, reading
from effbench.codec import digest_of, file_sha256, fingerprint, from_json, to_json
from effbench.errors import DataError
from effbench.schema import Artifact, FileInfo, InputShapes

MANIFEST = "manifest.json"
REFERENCE = "reference.npz"
"""Images and expected outputs, beside a graph; not deployed."""


LONGEST_SHAPES = 80
"""Characters of the shapes in a folder's name; the key tells apart what is cut off."""
DRAFT = f".{MANIFEST}."
"""How the drafts of a manifest begin."""

LOCK_S = 60.0
"""Longest wait for another process that writes the same manifest."""

NAME = re.compile(r"(?!\.{1,2}$)[^/\\\x00-\x1f]{1,255}")
"""One part of the path of a file in an artifact."""


def make_key(ingredients: Mapping[str, Any]) -> str:
    """Return the key of an artifact that is made from these ingredients; a change of any of them changes the key."""
    return fingerprint(ingredients)


def folder_of(home: Path, artifact_name: str, key: str) -> Path:
    """Return the folder of the artifact with a key."""
    return home / "artifacts" / f"{artifact_name}-{key[:10]}"


def name_of(model: str, shapes: InputShapes, batch: int | None, precision: str, target: str) -> str:
    """Return the readable part of an artifact's folder name."""
    stem, at = (
        "".join(char if char.isalnum() or char in allowed else "_" for char in text)
        for text, allowed in ((model, "_.-"), (str(shapes), "_.-=,"))
    )
    size = "b_dynamic" if batch is None else f"b{batch}"
    return f"{stem}-{at[:LONGEST_SHAPES]}-{size}-{precision}-{target}"


def find(folder: Path, key: str) -> Artifact | None:
    """Return the artifact in a folder if it is complete and has this key, else None."""
    if not (folder / MANIFEST).exists():
        return None
    artifact = load(folder)
    return artifact if artifact.key == key else None


def write(folder: Path, build: Callable[[Path], Artifact]) -> Artifact:
    """Build an artifact in a draft folder and move it into place in one step.

    A kill at any moment leaves nothing or the complete artifact. If two processes make the same one, the first stays.

    Args:
        folder: The artifact's folder.
        build: Fills an empty draft folder and returns the record; its ``files`` and ``digest`` are filled in here.

    Raises:
        DataError: The folder cannot be written, or the disk is full.
    """
    try:
        with drafts.draft(folder.parent) as draft, drafts.draft(folder.parent) as aside:
            draft.mkdir()
            artifact = build(draft)
            files = {path.relative_to(draft).as_posix(): _info(path) for path in sorted(_files(draft))}
            artifact = replace(artifact, folder=draft, files=files, digest=digest_of(files))
            size = sum(info.size_bytes for name, info in files.items() if name != REFERENCE)
            artifact = replace(artifact, subject=replace(artifact.subject, size_bytes=size))
            save_manifest(artifact)
            return _placed(artifact, folder, aside)
    except OSError as error:
        raise _unwritable(folder, error) from error


def move(artifact: Artifact, folder: Path) -> Artifact:
    """Write an artifact's manifest, and move it in one step to another folder on the same disk.

    Returns:
        The artifact there: one that another process has put there meanwhile, with the same key, stays.

    Raises:
        DataError: The folder cannot be written, or the disk is full.
    """
    save_manifest(artifact)
    try:
        with drafts.draft(folder.parent) as aside:
            return _placed(artifact, folder, aside)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _placed(artifact: Artifact, folder: Path, aside: Path) -> Artifact:
    """Move a complete artifact to its folder, in place of a damaged one; a whole one with its key stays."""
    for _ in range(drafts.TRIES):
        try:
            artifact.folder.rename(folder)
            return replace(artifact, folder=folder)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        with contextlib.suppress(DataError):
            if (present := find(folder, artifact.key)) is not None:
                return present
        aside.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            folder.rename(aside / secrets.token_hex(4))
    raise OSError(errno.EBUSY, "is replaced by other processes all the time", str(folder))


def save_manifest(artifact: Artifact) -> None:
    """Write ``manifest.json`` atomically, with a checksum over the rest of it.

    Raises:
        DataError: The folder cannot be written, or the disk is full.
    """
    data = to_json(artifact)
    text = json.dumps({**data, "checksum": fingerprint(data)}, indent=1, sort_keys=True)
    target = artifact.folder / MANIFEST
    try:
        with drafts.draft(artifact.folder, DRAFT) as draft:
            with draft.open("w") as stream:
                stream.write(text + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            draft.replace(target)
    except OSError as error:
        raise _unwritable(artifact.folder, error) from error


def load(folder: Path, *, check_files: bool = True) -> Artifact:
    """Read an artifact and check it against its manifest.

    Args:
        folder: The artifact's folder.
        check_files: Hash every file too; without it only the manifest is checked.

    Raises:
        DataError: The manifest is missing, corrupt, changed by hand, or a file is missing, altered or outside.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise DataError(
            f"{path}: No such file or directory.", hint="An artifact is a folder that `effbench export` wrote."
        )
    data = reading.json_file(path, hint=f"Remove {folder} and export again.")
    checksum = data.pop("checksum", None) if isinstance(data, dict) else None
    if checksum != fingerprint(data):
        raise DataError(f"{path}: changed since it was written (checksum).", hint=f"Remove {folder} and export again.")
    artifact = from_json(Artifact, data, str(path), folder=folder)
    if digest_of(artifact.files) != artifact.digest:
        raise DataError(
            f"{path}: the digest does not match the listed files.", hint=f"Remove {folder} and export again."
        )
    _check_names(artifact, path)
    if check_files:
        _check_unlisted(artifact)
        for name, info in artifact.files.items():
            _check_file(folder, name, info)
    return artifact


def artifacts(home: Path, *, skip: bool = False) -> Iterator[Artifact]:
    """Yield every artifact below a home, by name; with ``skip`` without those that cannot be read.

    Raises:
        DataError: One cannot be read, such as one of another version of effbench.
    """
    root = home / "artifacts"
    if root.is_dir():
        for folder in sorted(root.iterdir()):
            if not folder.name.startswith(".") and (folder / MANIFEST).exists():
                try:
                    artifact = load(folder, check_files=False)
                except DataError:
                    if (folder / MANIFEST).exists() and not skip:
                        raise
                    continue  # another process has removed it since
                yield artifact


def annotate(artifact: Artifact, **changes: Any) -> Artifact:
    """Write results (fidelity, placement, stages) into an artifact's manifest; its digest stays.

    What another process has written there meanwhile stays, apart from the fields that change here; placements merge.

    Raises:
        DataError: Other files are there by now, or the folder cannot be written.
    """
    try:
        with drafts.folder_lock(artifact.folder, LOCK_S):
            current = load(artifact.folder, check_files=False)
            if current.digest != artifact.digest:
                raise DataError(f"{artifact.folder}: another process has replaced it.", hint="Run it again.")
            if "placement" in changes:
                changes["placement"] = {**current.placement, **changes["placement"]}
            updated = replace(current, **changes)
            if updated.fidelity is not None:
                updated = replace(updated, subject=replace(updated.subject, fidelity_passed=updated.fidelity.proved))
            save_manifest(updated)
    except OSError as error:
        raise _unwritable(artifact.folder, error) from error
    return updated


def _check_names(artifact: Artifact, path: Path) -> None:
    """Refuse a manifest that names files elsewhere, or runs a file that its digest does not cover."""
    for name in artifact.files:
        parts = name.split("/")
        if not all(NAME.fullmatch(part) for part in parts) or name == MANIFEST:
            raise DataError(f"{path}: the file {name[:80]!r} is outside the artifact.")
    covered = artifact.entry in artifact.files or any(name.startswith(f"{artifact.entry}/") for name in artifact.files)
    if not covered or not artifact.entry:
        raise DataError(f"{path}: the entry {artifact.entry[:80]!r} is none of the listed files.")


def _check_unlisted(artifact: Artifact) -> None:
    """Refuse links, and files that the digest does not cover: a runtime might read them."""
    for root, folders, names in os.walk(artifact.folder):
        for name in (*folders, *names):
            path = Path(root) / name
            relative = path.relative_to(artifact.folder).as_posix()
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:
                continue  # the draft of a manifest, in place by now; a listed file that is missing is named below
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                raise DataError(f"{path}: neither a file nor a folder of the artifact, but a link or a device.")
            listed = relative in artifact.files or relative == MANIFEST or relative.startswith(DRAFT)
            if name in names and not listed:
                hint = "Remove it, if you know it; the digest of an artifact covers all of its files."
                raise DataError(f"{path}: the manifest does not list this file.", hint=hint)


def _check_file(folder: Path, name: str, info: FileInfo) -> None:
    path = folder / name
    if not path.is_file() or path.is_symlink():
        raise DataError(f"{path}: missing.", hint=f"Remove {folder} and export again.")
    if path.stat().st_size != info.size_bytes or file_sha256(path) != info.sha256:
        raise DataError(f"{path}: altered since it was exported (SHA-256).", hint=f"Remove {folder} and export again.")


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _info(path: Path) -> FileInfo:
    return FileInfo(sha256=file_sha256(path), size_bytes=path.stat().st_size)


def _unwritable(path: Path, error: OSError) -> DataError:
    reason = error.strerror or str(error)
    return DataError(f"Cannot write {path}: {reason}.", hint="Free space, or choose another folder with --out.")
