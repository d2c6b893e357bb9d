"""A session and its clock: each call advances the clock by the next scripted latency."""

import itertools

import numpy as np

from effbench.profiles import measure

MS = 1_000_000
A = {"x": np.arange(8, dtype=np.float32)}
B = {"x": -np.arange(8, dtype=np.float32) - 1}


class Machine:
    """A session and its clock."""

    def __init__(self, latencies_ns):
        self.now = 0
        self.calls = 0
        self.latencies = iter(latencies_ns)

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += max(int(seconds * 1e9), 1)

    def __call__(self, feeds):
        self.calls += 1
        self.now += int(next(self.latencies))
        return {"y": feeds["x"] * 2}

    def round(self, **options):
        bounds = {"min_samples": 50, "min_seconds": 3.0, "max_seconds": 60.0, **options}
        plan = measure.RoundPlan(**bounds)
        return measure.measure_round(self, A, plan, clock=self.clock, sleep=self.sleep)


def cycle(*latencies_ms):
    return itertools.cycle([round(latency * MS) for latency in latencies_ms])
