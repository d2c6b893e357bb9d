"""Run into everything that could last for ever, and print by how much each limit is exceeded.

``python benchmarks/limits.py`` prints a row per fault: the limit, how long it took, and the sentence it ended with. A
connection to a device may take its limit twice: to greet, and for a job. It exits with 1 if a limit is exceeded by
more than 5 s.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

SUPPORT = Path(__file__).resolve().parents[1] / "tests" / "support"
MOST_S = 5.0


def main() -> None:
    """Run all faults."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    sys.path.insert(0, str(SUPPORT))
    from limit_faults import FAULTS, LIMIT_S, ends

    exceeded = 0
    print(f"{'fault':44} {'limit s':>8} {'took s':>7} {'over by':>8}  sentence")
    for name in FAULTS:
        with tempfile.TemporaryDirectory() as folder:
            start = time.monotonic()
            sentence = ends(name, Path(folder))
            took = time.monotonic() - start
        over = max(0.0, took - LIMIT_S)
        exceeded += over > MOST_S
        print(f"{name:44} {LIMIT_S:8.1f} {took:7.2f} {over:8.2f}  {sentence[:60]}", flush=True)
    print(f"{len(FAULTS)} faults, {exceeded} limits exceeded by more than {MOST_S:g} s")
    sys.exit(1 if exceeded else 0)


if __name__ == "__main__":
    main()
