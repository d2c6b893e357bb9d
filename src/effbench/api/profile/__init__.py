"""`effbench profile`: latency of artifacts in fresh processes, and where it goes (`roofline`)."""

from effbench.api.profile.run import profile

__all__ = ["profile"]
