"""Overhead of a device behind ssh: its latency beside a local one, the agent's size, and the time to its first answer.

The script starts an sshd on 127.0.0.1, so both sides are the same machine. For the ratio, one worker is a local child
process and the other is the agent, copied and started through ssh. They alternate inference by inference, so that the
machine's noise affects both alike. The ratio is the 20 % trimmed mean of log ratios over rounds, as in reference.py.

    python benchmarks/devices.py --rounds 24
"""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from effbench import process
from effbench.api.export.run import export
from effbench.deploy.artifact import bundle
from effbench.device import AGENT, PAIR_AGENT
from effbench.profiles import transports
from effbench.profiles.paired import log_ratios
from effbench.profiles.transports.zipapp import agent
from effbench.profiles.turns import join_turns
from effbench.statistics.student_t import student_t
from reference import trimmed

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
import loopback


def one_round(link: transports.Link, folder: Path, artifacts: tuple[str, str], seconds: float, swap: bool) -> float:
    """Return the log ratio ssh / local of one round.

    Args:
        link: The connection.
        folder: Holds the pipes through which the two sides take turns.
        artifacts: The artifact's folder on the local side and behind ssh.
        seconds: Of the round.
        swap: The local side is B, not A.
    """
    pipes = [folder / name for name in ("a", "b")]
    for pipe in pipes:
        pipe.unlink(missing_ok=True)
        os.mkfifo(pipe)
    ssh = 0 if swap else 1
    job = {"op": "turn", "threads": 1, "batch": 1, "seed": random.getrandbits(30), "seconds": seconds, "min_pairs": 15}
    sides = [{"artifact": artifacts[side == ssh]} for side in (0, 1)]

    def half(side: int) -> dict[str, Any]:
        mine = {**job, "sides": sides, "side": side, "pipes": [str(pipe) for pipe in pipes]}
        (answer,) = (
            link.run(PAIR_AGENT, mine, time_limit_s=300)
            if side == ssh
            else process.run(PAIR_AGENT, mine, time_limit_s=300)
        )
        latencies: dict[str, Any] = answer["half"]
        return latencies

    with ThreadPoolExecutor(2) as pool:
        paired_round = join_turns(*pool.map(half, (0, 1)))
    log = log_ratios(paired_round).typical
    return -log if swap else log


def ratio(link: transports.Link, folder: Path, artifacts: tuple[str, str], rounds: int, seconds: float) -> str:
    logs = []
    for index in range(rounds):
        logs.append(one_round(link, folder, artifacts, seconds, index % 2 == 1))
        print(f"  round {index + 1}: {math.exp(logs[-1]):.4f}", file=sys.stderr)
    low, mid, high = (math.exp(value) for value in trimmed(logs))
    return f"{mid:.4f} [{low:.4f}, {high:.4f}] over {len(logs)} rounds (plain mean {_plain(logs)})"


def _plain(logs: list[float]) -> str:
    half = student_t(0.975, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    low, mid, high = (math.exp(statistics.fmean(logs) + shift) for shift in (-half, 0.0, half))
    return f"{mid:.4f} [{low:.4f}, {high:.4f}]"


def first_answer(device: Any, artifact: Any, folder: Path, repeats: int) -> str:
    """Return the seconds until an agent holds the artifact and the runtime, less the import of the runtime alone."""
    names = [name for name in artifact.files if name != bundle.REFERENCE]
    files = {name: artifact.folder / name for name in (*names, bundle.MANIFEST)}
    starts, imports = [], []
    for index in range(repeats):
        device.connection["home"] = str(folder / f"home{index}")  # cold: the agent has to be copied
        start = time.monotonic()
        link = transports.connect(device)
        link.put(files, artifact.name)
        list(link.run(AGENT, {"op": "load", "target": "ort"}, time_limit_s=120))
        starts.append(time.monotonic() - start)
        link.close()
        start = time.monotonic()
        subprocess.run([sys.executable, "-c", "import onnxruntime"], check=True)
        imports.append(time.monotonic() - start)
    total, runtime = statistics.median(starts), statistics.median(imports)
    return f"{total - runtime:.2f} s ({total:.2f} s, the runtime's import alone {runtime:.2f} s)"


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round")
    parser.add_argument("--repeats", type=int, default=7, help="starts of the agent")
    parser.add_argument("--model", default="regla_m")
    options = parser.parse_args()
    reason = loopback.missing()
    if reason is not None:
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (cell,) = export(options.model, ["ort"], [224], out=folder / "runs")
        artifact = bundle.load(Path(cell.artifact))
        server = loopback.make(folder / "sshd")
        server.start()
        try:
            device = loopback.device_of(server, folder / "home")
            link = transports.connect(device)
            remote = link.put({path.name: path for path in artifact.folder.iterdir()}, artifact.name)
            artifacts = (str(artifact.folder.resolve()), remote)
            print("| figure | measured | to reach |\n|---|---|---|", flush=True)
            text = ratio(link, folder, artifacts, options.rounds, options.seconds)
            link.close()
            print(f"| ssh to loopback over local, p50 of {options.model} | {text} | inside 0.98 to 1.02 |", flush=True)
            print(f"| size of the agent | {len(agent().data) / 1e6:.3f} MB | under 1 MB |", flush=True)
            print(f"| start | {first_answer(device, artifact, folder, options.repeats)} | under 2 s |", flush=True)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
