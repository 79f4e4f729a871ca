"""Who listens to whom."""

from tokennet.graphs.algebra import TokenGraph
from tokennet.graphs.base import CSR
from tokennet.graphs.convert import (
    from_mask,
    from_mask_mod,
    from_networkx,
    from_pyg,
    to_mask_mod,
    to_networkx,
)
from tokennet.graphs.disjoint import Disjoint
from tokennet.graphs.edges import Edges, repeat
from tokennet.graphs.grid import Grid
from tokennet.graphs.offsets import Offsets
from tokennet.graphs.symbolic import Causal, Cycle, Full, Global, Self, Window

__all__ = [
    "CSR",
    "Causal",
    "Cycle",
    "Disjoint",
    "Edges",
    "Full",
    "Global",
    "Grid",
    "Offsets",
    "Self",
    "TokenGraph",
    "Window",
    "from_mask",
    "from_mask_mod",
    "from_networkx",
    "from_pyg",
    "repeat",
    "to_mask_mod",
    "to_networkx",
]
