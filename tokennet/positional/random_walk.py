"""Random-walk encodings: the probabilities that a walk from a token is back after k steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tokennet.checks import check_size, check_type, checked
from tokennet.graphs import TokenGraph
from tokennet.positional.eigenvectors import blocks_of, by_size
from tokennet.positional.graph_encoding import GraphEncoding
from tokennet.tokens import Tokens

_BLOCK_ENTRIES = 2**22
_SMALL = 64
"""Tokens of components that are walked together, as dense matrices."""
_DENSE_SHARE = 0.05
"""Above this share of all pairs, products with a dense matrix are faster."""


def return_probabilities(
    graph: TokenGraph, steps: int, device: torch.device | str | None = None
) -> Tensor:
    r"""Probabilities (N, steps) of being back where the walk began after 1 .. `steps` steps.

        e_i = (P_ii, (P^2)_ii, ..., (P^steps)_ii),   P = D^{-1} A

    Dwivedi et al., 2021 (arXiv 2110.07875). A walker leaves a token along any edge that leads
    out of it, from source to target, all equally likely: edges listed twice count twice, and a
    self-loop is a step that stays. Where no edge leads out the walk ends. Computed in float64
    once for each graph, in time proportional to steps x edges x n, where n is the size of the
    largest component; in a ragged batch each graph is walked alone.

    Raises:
        ValueError: `steps` is less than 1, or the graph has other sources than targets.

    >>> from tokennet import Cycle, Self
    >>> return_probabilities(Cycle(4) & ~Self(4), 4)[0].tolist()
    [0.0, 0.5, 0.0, 0.5]
    """
    check_type("graph", graph, TokenGraph, "a token graph")
    steps = check_size("steps", steps, 1)
    if not graph.is_square:
        raise ValueError(f"graph must be of one set of tokens, got {graph!r}")
    return graph.cached(_build, steps, device=device)


def _build(graph: TokenGraph, steps: int) -> Tensor:
    import scipy.sparse.csgraph

    if graph.is_ragged:
        none = torch.zeros(0, steps, dtype=torch.float64)
        return torch.cat([none, *(return_probabilities(part, steps) for part in graph.parts)])
    n = graph.num_targets
    source, target = graph.edge_index().numpy()
    counts = scipy.sparse.csr_array((np.ones(len(source)), (source, target)), shape=(n, n))
    leaving = counts.sum(axis=1).clip(min=1)
    walk = scipy.sparse.diags_array(1 / leaving).tocsr() @ counts
    if n <= _SMALL:
        return torch.from_numpy(_walk_together(walk.toarray()[None], steps)[0])
    returned = walk.diagonal()[:, None].repeat(steps, 1)  # right for components of one token
    _, component = scipy.sparse.csgraph.connected_components(counts, directed=False)
    for _, tokens in by_size(component):  # (B, n)
        if tokens.shape[1] <= _SMALL:
            returned[tokens] = _walk_together(blocks_of(walk, tokens), steps)
            continue
        for one in tokens:
            returned[one] = _walk(walk[one][:, one] if len(one) < n else walk, steps)
    return torch.from_numpy(returned)


def _walk_together(walks: np.ndarray, steps: int) -> np.ndarray:
    """(B, n, steps) of components that are small, (B, n, n)."""
    reached, returned = walks, np.zeros((*walks.shape[:2], steps))
    for step in range(steps):
        returned[..., step] = np.diagonal(reached, axis1=1, axis2=2)
        reached = walks @ reached
    return returned


def _walk(walk: Any, steps: int) -> np.ndarray:
    """(n, steps) of one component, a CSR array (n, n)."""
    n = walk.shape[0]
    if walk.nnz > _DENSE_SHARE * n * n:
        walk = walk.toarray()
    returned = np.zeros((n, steps))
    width = max(1, _BLOCK_ENTRIES // n)
    for start in range(0, n, width):  # a block of columns of P^t at a time
        block = np.arange(start, min(start + width, n))
        reached = np.zeros((n, len(block)))
        reached[block, block - start] = 1
        for step in range(steps):
            reached = walk @ reached
            returned[block, step] = reached[block, block - start]
    return returned


class RandomWalkEncoding(GraphEncoding):
    r"""Adds a projection of the probabilities of return, see `return_probabilities`.

        z_i + W (P_ii, ..., (P^steps)_ii) + b

    Dwivedi et al., 2021 (arXiv 2110.07875); the input of GPS (Rampášek et al., 2022,
    arXiv 2205.12454). Use it for graphs of molecules and the like: the graph alone determines
    it, so that tokens that an automorphism exchanges have equal encodings.

    Args:
        dim: channels D.
        steps: the length of the longest walk.
        project: see `GraphEncoding`.

    >>> from tokennet import Grid, Tokens
    >>> RandomWalkEncoding(8, steps=5)(Tokens(torch.zeros(2, 12, 8), Grid(3, 4))).z.shape
    torch.Size([2, 12, 8])
    """

    @checked()
    def __init__(self, dim: int, steps: int, project: nn.Module | None = None) -> None:
        super().__init__(dim, check_size("steps", steps, 1), project)
        self.steps = steps

    def encode(self, tokens: Tokens) -> Tensor:
        return return_probabilities(tokens.graph, self.steps, tokens.z.device)
