"""`effbench claims`: what the papers say, tested on this machine as far as it can be."""

from effbench.api.claims.run import claims

__all__ = ["claims"]
