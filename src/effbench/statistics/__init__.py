"""Percentiles and their intervals, the sequential test of `compare` and `gate`, proportions, verdict records."""
