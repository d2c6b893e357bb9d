"""Raspberry Pi: throttling by the firmware, and its reasons.

Written from Raspberry Pi's documentation and from recorded files; not run on a Raspberry Pi so far.

StateSource: Raspberry Pi documentation, ``vcgencmd get_throttled``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from effbench.profiles.sources import Silent, Value, text

FILE = "sys/devices/platform/soc/soc:firmware/get_throttled"
BITS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
"""The present state; the same bits shifted by 16 show events since boot, which are not a state."""


class RaspberryPi(Silent):
    """The state reported by the firmware."""

    name = "raspberry"

    def state(self, root: Path) -> Mapping[str, Value]:
        """Return ``thermal_status`` (ok or throttled) and the reasons."""
        content = text(root / FILE)
        try:
            bits = int(content or "", 16)
        except ValueError:
            return {}
        reasons = [reason for bit, reason in BITS.items() if bits >> bit & 1]
        return {"thermal_status": "throttled" if reasons else "ok", "throttle_reasons": ", ".join(reasons) or None}


SOURCE = RaspberryPi()
