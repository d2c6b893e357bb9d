"""`effbench claims`: claims of papers, tested on this machine as far as it can test them."""

from effbench.api.claims.run import claims

__all__ = ["claims"]
