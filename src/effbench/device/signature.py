"""The signature of a kit's result: each line is signed with the key of the kit and the signature of the line before.

It shows that no line was changed, inserted, left out or moved since the kit wrote it, by anybody who does not have the
kit. It does not show that the kit's holder is honest: the key is in the kit, as everything that its run needs.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from effbench.codec import canonical

MAC = "mac"


class Chain:
    """Signs or checks lines in their order."""

    def __init__(self, key: str) -> None:
        self._key, self._last = key.encode(), b""

    def sign(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """Return a line with its signature."""
        return {**line, MAC: self._next(line)}

    def holds(self, line: Mapping[str, Any]) -> bool:
        """Return whether a line is the next one that the kit wrote, unchanged."""
        unsigned = {name: value for name, value in line.items() if name != MAC}
        return hmac.compare_digest(self._next(unsigned), str(line.get(MAC, "")))

    def _next(self, line: Mapping[str, Any]) -> str:
        mac = hmac.new(self._key, self._last + canonical(line), hashlib.sha256).hexdigest()
        self._last = mac.encode()
        return mac
