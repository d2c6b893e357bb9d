"""A lab: many devices at once, each with one job at a time, on threads of this process or on Dask distributed.

A job is JSON for one importable function (`effbench.lab.job`). Its key hashes its content, so a job that runs twice is
stored once (`results`). The engine distributes jobs to devices, retries lost ones elsewhere and sets failing devices
aside (`engine`); a pool runs the jobs (`threads`, `cluster`).
"""
