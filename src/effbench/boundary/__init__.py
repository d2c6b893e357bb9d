"""The boundary of effbench: names and paths that come in, what a child process can import, and what goes out (nothing).

docs/threat-model.md says who may hand effbench what, and what each may cause at most.
"""
