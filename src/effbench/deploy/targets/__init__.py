"""One module per target; each ends in ``TARGET``."""
