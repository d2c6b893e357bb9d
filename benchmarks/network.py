"""Run every command and target in a network namespace without interfaces, and count what it tried to reach and wrote.

    python benchmarks/network.py              each command once
    python benchmarks/network.py --long       also each runtime for a minute, and ten processes at a time
    python benchmarks/network.py --long ort   the same for some

Needs Linux, strace and unprivileged user namespaces.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

import offline

RUNTIMES = ("ort", "ov", "torch")


def main() -> None:
    """Print the table; end with 1 if anything was tried or left."""
    from tabulate import tabulate

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--long", nargs="*", choices=RUNTIMES, help="also these runtimes (or all) for a minute, and ten at a time"
    )
    arguments = parser.parse_args()
    reason = offline.why_not()
    if reason is not None:
        sys.exit(f"cannot record here: {reason}")
    rows, total = [], 0
    with tempfile.TemporaryDirectory() as root:
        work = Path(root) / "work"
        offline.prepare(work)

        def run(words: tuple[str, ...], name: str = "one") -> offline.Recorded:
            (Path(root) / name).mkdir(exist_ok=True)
            return offline.record(words, work, Path(root) / name / "home", limit_s=1800)

        for words in offline.COMMANDS:
            done = run(words)
            rows.append([" ".join(words), done.code, len(done.attempts), len(done.files)])
            total += len(done.attempts) + len(done.files)
            print(
                *done.attempts, *done.files, sep="\n", end="\n" if done.attempts or done.files else "", file=sys.stderr
            )
        for target in () if arguments.long is None else arguments.long or RUNTIMES:
            done = run(("profile", "-t", target, "--minutes", "1"))
            rows.append([f"profile -t {target} --minutes 1", done.code, len(done.attempts), len(done.files)])
            with ThreadPoolExecutor(10) as pool:
                words = ("profile", "-t", target, "--rounds", "1", "--budget", "5")
                each = list(pool.map(run, [words] * 10, [f"home{index}" for index in range(10)]))
            attempts, files = (sum(len(getattr(one, name)) for one in each) for name in ("attempts", "files"))
            rows.append([f"ten at a time: {' '.join(words)}", max(one.code for one in each), attempts, files])
            total += len(done.attempts) + len(done.files) + attempts + files
    print(tabulate(rows, ["effbench ...", "exit code", "attempts", "files"], tablefmt="github"))
    sys.exit(1 if total else 0)


if __name__ == "__main__":
    main()
