"""Measure latency: the clock, rounds in fresh processes, and the observed state of the machine."""
