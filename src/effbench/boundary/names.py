"""Names and paths that come from outside: what they may contain, and that they stay inside a folder of effbench.

They are checked when a record is built, so both when it is written and when it is read. A name that passes is one
component of a path, and means itself in a shell, in Python and on a device.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from effbench.errors import DataError

NAME = re.compile(r"\w[\w.+-]{0,199}")
"""Letters (of any language), digits, underscores, and behind the first character also dots, plus and minus signs."""

CACHE = "EFFBENCH_CACHE"


def check_name(text: str, what: str) -> str:
    """Return a name that is safe as a file name and as a word of a script.

    Args:
        text: The name.
        what: Whose name it is, for the message: ``the name of a device``.

    Raises:
        DataError: It has other characters.
    """
    if not isinstance(text, str) or not NAME.fullmatch(text):
        raise DataError(f"{str(text)[:80]!r} cannot be {what}: only letters, digits and _ . + - may be in it.")
    return text


def check_relative(text: str, what: str) -> str:
    """Return a path that stays below the folder it is joined to: names separated by slashes.

    Raises:
        DataError: It is absolute, leads upwards, or has a part that is no name.
    """
    parts = text.split("/") if isinstance(text, str) else [""]
    if not all(part.isprintable() and part not in ("", ".", "..") and "\\" not in part for part in parts):
        raise DataError(f"{str(text)[:80]!r} cannot be {what}: it has to be a path inside its folder.")
    return text


def inside(folder: Path, path: str | PurePosixPath) -> Path:
    """Return a path below a folder, links followed.

    Raises:
        DataError: It leads out of the folder.
    """
    full = folder / path
    if not full.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{full} leads out of {folder}.")
    return full


CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Characters that move a cursor, set a title or change the direction of text; tab and line feed are none."""


def printable(text: str) -> str:
    """Return a text whose control characters are written out: a name in a manifest or an answer could hold some."""
    return CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def cache_folder() -> Path:
    """Return the folder of files that only save time: EFFBENCH_CACHE, else ``~/.cache/effbench``."""
    return Path(os.environ.get(CACHE) or "~/.cache/effbench").expanduser()


def cache_file(kind: str, name: str) -> Path:
    """Return a file of the cache by its name.

    Raises:
        DataError: The name is a path.
    """
    return cache_folder() / kind / check_name(name, f"the name of a {kind}")
