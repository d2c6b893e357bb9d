"""A lab: many devices at once, each with one job at a time, on threads of this process or on Dask distributed.

A job is JSON for one importable function (`effbench.lab.job`), named by what it does, so that doing it twice stores it
once (`results`). The engine deals jobs to devices, tries lost ones elsewhere and sets failing devices aside (`engine`);
who runs them is a pool (`threads`, `cluster`).
"""
