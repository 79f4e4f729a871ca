"""The laws, each in a file with its check functions: `LAWS` has those that `check` runs.

Two actions are permuted by: *relabeling* moves z, graph and pos of tokens together,
*shuffling* moves z alone. `node_permutation` is the id of the law that relabeling the tokens
relabels the output.
"""

from tokennet.testing.laws import (
    backends,
    batch,
    dependency,
    determinism,
    equivariance,
    finiteness,
    padding,
)
from tokennet.testing.laws.law import Law

LAWS: dict[str, Law] = {
    "node_permutation": equivariance.NODE_PERMUTATION,
    "tied_inputs": equivariance.TIED_INPUTS,
    "edge_permutation": equivariance.EDGE_PERMUTATION,
    "batch_composition": batch.BATCH_COMPOSITION,
    "padding": padding.PADDING,
    "empty_neighborhood": finiteness.EMPTY_NEIGHBORHOOD,
    "causality": dependency.CAUSALITY,
    "backend_agreement": backends.BACKEND_AGREEMENT,
    "deterministic": determinism.DETERMINISTIC,
}

__all__ = ["LAWS", "Law"]
