"""Raspberry Pi: whether the firmware throttles, and why.

Written from Raspberry Pi's documentation and from recorded files; not run on a Raspberry Pi so far.

Source: Raspberry Pi documentation, ``vcgencmd get_throttled``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from effbench.profiles.sources import Silent, Value, text

FILE = "sys/devices/platform/soc/soc:firmware/get_throttled"
BITS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
"""What holds now; the same bits 16 higher say what has happened since the start, which is not a state."""


class RaspberryPi(Silent):
    """The firmware's own account."""

    name = "raspberry"

    def state(self, root: Path) -> Mapping[str, Value]:
        """Return ``thermal_status`` (ok or throttled) and the reasons."""
        found = text(root / FILE)
        try:
            bits = int(found or "", 16)
        except ValueError:
            return {}
        reasons = [reason for bit, reason in BITS.items() if bits >> bit & 1]
        return {"thermal_status": "throttled" if reasons else "ok", "throttle_reasons": ", ".join(reasons) or None}


SOURCE = RaspberryPi()
