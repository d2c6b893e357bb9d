"""`effbench compare` and `gate`: is one artifact slower than another, measured in pairs?"""

from effbench.api.compare.run import compare
from effbench.api.compare.run_gate import gate

__all__ = ["compare", "gate"]
