"""Token graphs: which tokens each token attends to."""

from tokennet.graphs.algebra import TokenGraph
from tokennet.graphs.base import CSR
from tokennet.graphs.convert import from_mask, from_mask_mod, to_mask_mod
from tokennet.graphs.convert_networkx import from_networkx, to_networkx
from tokennet.graphs.convert_points import from_knn, from_radius
from tokennet.graphs.convert_pyg import from_pyg
from tokennet.graphs.convert_sparse import from_scipy, from_torch_sparse, to_scipy, to_torch_sparse
from tokennet.graphs.disjoint import Disjoint
from tokennet.graphs.edges import Edges, repeat
from tokennet.graphs.formulas import (
    Causal,
    Cycle,
    Dilated,
    Full,
    Global,
    Offsets,
    Random,
    Self,
    Window,
)
from tokennet.graphs.grid import Grid
from tokennet.graphs.per_head import PerHead

__all__ = [
    "CSR",
    "Causal",
    "Cycle",
    "Dilated",
    "Disjoint",
    "Edges",
    "Full",
    "Global",
    "Grid",
    "Offsets",
    "PerHead",
    "Random",
    "Self",
    "TokenGraph",
    "Window",
    "from_knn",
    "from_mask",
    "from_mask_mod",
    "from_networkx",
    "from_pyg",
    "from_radius",
    "from_scipy",
    "from_torch_sparse",
    "repeat",
    "to_mask_mod",
    "to_networkx",
    "to_scipy",
    "to_torch_sparse",
]
