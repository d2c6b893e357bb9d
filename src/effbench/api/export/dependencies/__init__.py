"""What a graph depends on besides its request: recorded while it is built, and checked before it is used again.

`trace` records in the child process that builds, `record` is the result, `builds` keeps it below the home.
"""
