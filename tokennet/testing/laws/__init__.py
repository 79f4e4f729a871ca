"""The laws, each in a file with its check functions: `LAWS` has those that `check` runs.

Two actions are permuted by: *relabeling* moves z, graph and pos of tokens together,
*shuffling* moves z alone. `node_permutation` is the id of the law that relabeling the tokens
relabels the output.
"""

from tokennet.testing.laws.backends import BACKEND_AGREEMENT
from tokennet.testing.laws.batch import BATCH_COMPOSITION
from tokennet.testing.laws.dependency import CAUSALITY
from tokennet.testing.laws.determinism import DETERMINISTIC
from tokennet.testing.laws.equivariance import EDGE_PERMUTATION, NODE_PERMUTATION
from tokennet.testing.laws.finiteness import EMPTY_NEIGHBORHOOD
from tokennet.testing.laws.law import Law
from tokennet.testing.laws.mask import MASK_HONORED
from tokennet.testing.laws.nonfinite import NONFINITE_ISOLATION
from tokennet.testing.laws.padding import PADDING
from tokennet.testing.laws.ties import TIED_INPUTS

LAWS: dict[str, Law] = {
    "node_permutation": NODE_PERMUTATION,
    "tied_inputs": TIED_INPUTS,
    "edge_permutation": EDGE_PERMUTATION,
    "batch_composition": BATCH_COMPOSITION,
    "nonfinite_isolation": NONFINITE_ISOLATION,
    "padding": PADDING,
    "empty_neighborhood": EMPTY_NEIGHBORHOOD,
    "causality": CAUSALITY,
    "mask_honored": MASK_HONORED,
    "backend_agreement": BACKEND_AGREEMENT,
    "deterministic": DETERMINISTIC,
}

__all__ = ["LAWS", "Law"]
