"""Percentiles and intervals, the sequential test behind `compare` and `gate`, proportions, verdicts."""
