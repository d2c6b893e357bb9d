"""What a device behind ssh costs: its latency beside a local one, the agent's size, and the time to its first answer.

An sshd of our own on 127.0.0.1, so that both sides are the same machine. For the ratio one worker is a child process
here and the other is the pushed agent behind ssh; they take turns inference by inference, so that the noise of the
machine meets both alike. The ratio is the 20 % trimmed mean of log ratios over rounds, as in reference.py.

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
from effbench.profiles import transports
from effbench.profiles.paired import join_turns, log_ratios
from effbench.profiles.transports.zipapp import agent
from effbench.statistics.percentiles import student_t
from reference import trimmed

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
import loopback

PAIR_AGENT = "effbench.device.agent_pair"


def one_round(link: transports.Link, folder: Path, places: tuple[str, str], seconds: float, swap: bool) -> float:
    """Return the log ratio ssh / local of one round; ``swap`` says which of them is side B."""
    pipes = [folder / name for name in ("a", "b")]
    for pipe in pipes:
        pipe.unlink(missing_ok=True)
        os.mkfifo(pipe)
    ssh = 0 if swap else 1
    job = {"op": "turn", "threads": 1, "batch": 1, "seed": random.getrandbits(30), "seconds": seconds, "min_pairs": 15}
    sides = [{"artifact": places[side == ssh]} for side in (0, 1)]

    def half(side: int) -> dict[str, Any]:
        mine = {**job, "sides": sides, "side": side, "pipes": [str(pipe) for pipe in pipes]}
        (answer,) = (
            link.run(PAIR_AGENT, mine, time_limit_s=300)
            if side == ssh
            else process.run(PAIR_AGENT, mine, time_limit_s=300)
        )
        found: dict[str, Any] = answer["half"]
        return found

    with ThreadPoolExecutor(2) as pool:
        found = join_turns(*pool.map(half, (0, 1)))
    log = log_ratios(found).typical
    return -log if swap else log


def ratio(link: transports.Link, folder: Path, places: tuple[str, str], rounds: int, seconds: float) -> str:
    logs = []
    for index in range(rounds):
        logs.append(one_round(link, folder, places, seconds, index % 2 == 1))
        print(f"  round {index + 1}: {math.exp(logs[-1]):.4f}", file=sys.stderr)
    low, mid, high = (math.exp(value) for value in trimmed(logs))
    return f"{mid:.4f} [{low:.4f}, {high:.4f}] over {len(logs)} rounds (plain mean {_plain(logs)})"


def _plain(logs: list[float]) -> str:
    half = student_t(0.975, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    low, mid, high = (math.exp(statistics.fmean(logs) + shift) for shift in (-half, 0.0, half))
    return f"{mid:.4f} [{low:.4f}, {high:.4f}]"


def first_answer(device: Any, artifact: Any, folder: Path, repeats: int) -> str:
    """Return seconds from nothing to an agent that has the artifact and the runtime, less the runtime's own import."""
    names = [name for name in artifact.files if name != bundle.REFERENCE]
    files = {name: artifact.folder / name for name in (*names, bundle.MANIFEST)}
    took, imports = [], []
    for index in range(repeats):
        device.connection["home"] = str(folder / f"home{index}")  # cold: the agent is pushed
        start = time.monotonic()
        link = transports.connect(device)
        link.put(files, artifact.name)
        list(link.run("effbench.device.agent", {"op": "load", "target": "ort"}, time_limit_s=120))
        took.append(time.monotonic() - start)
        link.close()
        start = time.monotonic()
        subprocess.run([sys.executable, "-c", "import onnxruntime"], check=True)
        imports.append(time.monotonic() - start)
    extra = statistics.median(took) - statistics.median(imports)
    whole, alone = statistics.median(took), statistics.median(imports)
    return f"{extra:.2f} s ({whole:.2f} s, the runtime's import alone {alone:.2f} s)"


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round")
    parser.add_argument("--repeats", type=int, default=7)
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
            pushed = link.put({path.name: path for path in artifact.folder.iterdir()}, artifact.name)
            places = (str(artifact.folder.resolve()), pushed)
            print("| figure | found | to reach |\n|---|---|---|", flush=True)
            found = ratio(link, folder, places, options.rounds, options.seconds)
            link.close()
            print(f"| ssh to loopback over local, p50 of {options.model} | {found} | inside 0.98 to 1.02 |", flush=True)
            print(f"| agent pushed | {len(agent().data) / 1e6:.3f} MB | under 1 MB |", flush=True)
            print(f"| start | {first_answer(device, artifact, folder, options.repeats)} | under 2 s |", flush=True)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
