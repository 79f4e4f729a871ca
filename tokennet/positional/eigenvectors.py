"""Eigenvectors of a graph's Laplacian, and which of them the graph determines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tokennet.checks import check_size, check_type
from tokennet.graphs import TokenGraph

DENSE_TOKENS = 600
"""Components up to this size are decomposed as dense matrices."""
_ENTRIES = 2**22
"""Of matrices of small components that are decomposed at once."""
_SAME_EIGENVALUE = 1e-9
_SAME_ENTRY = 1e-6
_Pairs = tuple[np.ndarray, np.ndarray]


class LaplacianEigenvectors(NamedTuple):
    """The first K eigenvectors beside the constant one, of each of C components.

    >>> from tokennet import Window
    >>> path = laplacian_eigenvectors(Window(3, radius=1), 2)
    >>> [round(value, 6) for value in path.values[0].tolist()], path.component.tolist()
    ([1.0, 2.0], [0, 0, 0])
    """

    vectors: Tensor
    """(N, K) float64, of length 1 on each component; 0 where it has too few tokens."""
    values: Tensor
    """(C, K) eigenvalues, ascending, in [0, 2]; 0 where there is no eigenvector."""
    determined: Tensor
    """(C, K) whether the graph alone determines the vector, its sign included."""
    component: Tensor
    """(N,) which component a token belongs to."""


def laplacian_eigenvectors(
    graph: TokenGraph, k: int, device: torch.device | str | None = None
) -> LaplacianEigenvectors:
    r"""Return the eigenvectors to the k smallest eigenvalues but the first.

        L = I - D^{-1/2} A D^{-1/2},   L v = lambda v

    Dwivedi et al., 2020 (arXiv 2003.00982). A is the graph made undirected and simple: tokens
    are joined if either attends to the other, however often, and self-loops do not count.
    Each connected component, and so each graph of a ragged batch, is decomposed alone; v has
    length 1 there. With fewer than k + 1 tokens it has zeros for the missing vectors.

    An eigenvector to a simple eigenvalue is determined but for its sign. The sign is the one
    that puts the larger entries on the positive side, which the graph determines unless v and
    -v have the same entries in another order; then the first token that is not 0 is positive.
    Of a repeated eigenvalue, as symmetric graphs have, only the space of eigenvectors is
    determined, and the solver's basis of it is taken. `determined` tells these apart.

    Computed in float64 once for each graph: components of up to 600 tokens by a dense solver,
    larger components by Lanczos' method (ARPACK).

    Raises:
        ValueError: `k` is less than 1, or the graph has other sources than targets.

    >>> from tokennet import Window
    >>> path = laplacian_eigenvectors(Window(4, radius=1), 2)
    >>> path.values[0].round(decimals=9).tolist(), path.determined[0].tolist()
    ([0.5, 1.5], [False, True])
    """
    check_type("graph", graph, TokenGraph, "a token graph")
    k = check_size("k", k, 1)
    if not graph.is_square:
        raise ValueError(f"graph must be of one set of tokens, got {graph!r}")
    return graph.cached(_build, k, device=device)


def _build(graph: TokenGraph, k: int) -> LaplacianEigenvectors:
    from scipy.sparse.csgraph import connected_components

    if graph.is_ragged:
        return _side_by_side(k, [laplacian_eigenvectors(part, k) for part in graph.parts])
    n = graph.num_targets
    laplacian = _laplacian(graph.edge_index().numpy(), n)
    count, component = connected_components(laplacian, directed=False)
    vectors, values = np.zeros((n, k)), np.zeros((count, k))
    determined = np.ones((count, k), dtype=bool)
    for numbers, tokens in by_size(component):  # (B,), (B, n)
        found = min(k, tokens.shape[1] - 1)
        few, columns = _decompose(laplacian, tokens, found)
        values[numbers, :found] = few[:, 1 : found + 1]
        vectors[tokens, :found], known = _with_signs(columns[..., 1 : found + 1])
        determined[numbers, :found] = known & _is_simple(few)[:, 1 : found + 1]
    tensors = (vectors, values, determined, component.astype(np.int64))
    return LaplacianEigenvectors(*(torch.from_numpy(array) for array in tensors))


def by_size(component: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Components of one size, above 1, and their tokens: (B,) and (B, n), some at a time."""
    sizes = np.bincount(component)
    order = np.argsort(component, kind="stable")  # tokens, component by component
    first = sizes.cumsum() - sizes
    for size in np.unique(sizes[sizes > 1]):
        numbers = np.flatnonzero(sizes == size)
        step = max(1, _ENTRIES // size**2)
        for some in np.split(numbers, range(step, len(numbers), step)):
            yield some, order[first[some][:, None] + np.arange(size)]


def blocks_of(matrix: Any, tokens: np.ndarray) -> np.ndarray:
    """Blocks (B, n, n) of a CSR array, of components with these tokens (B, n)."""
    n = tokens.shape[1]
    rank = np.zeros(matrix.shape[0], dtype=np.int64)
    rank[tokens] = np.arange(n)  # of a token in its component
    rows = matrix[tokens.ravel()].tocoo()  # (B n, N), without entries of other components
    blocks = np.zeros((tokens.size, n))
    blocks[rows.row, rank[rows.col]] = rows.data
    return blocks.reshape(-1, n, n)


def _side_by_side(k: int, parts: list[LaplacianEigenvectors]) -> LaplacianEigenvectors:
    none = torch.zeros(0, k, dtype=torch.float64)
    component, count = [torch.zeros(0, dtype=torch.long)], 0
    for part in parts:
        component.append(part.component + count)
        count += len(part.values)
    return LaplacianEigenvectors(
        torch.cat([none, *(part.vectors for part in parts)]),
        torch.cat([none, *(part.values for part in parts)]),
        torch.cat([none.bool(), *(part.determined for part in parts)]),
        torch.cat(component),
    )


def _laplacian(edge_index: np.ndarray, n: int) -> Any:
    """I - D^{-1/2} A D^{-1/2} of the graph made undirected and simple, a CSR array."""
    import scipy.sparse

    ends = edge_index[:, edge_index[0] != edge_index[1]]
    both_ways = np.concatenate([ends[0] * n + ends[1], ends[1] * n + ends[0]])
    i, j = np.divmod(np.unique(both_ways), max(n, 1))
    scale = np.bincount(i, minlength=n).clip(min=1) ** -0.5
    loops = np.arange(n)
    entries = np.concatenate([-scale[i] * scale[j], np.ones(n)])
    rows, columns = np.concatenate([i, loops]), np.concatenate([j, loops])
    return scipy.sparse.csr_array((entries, (rows, columns)), shape=(n, n))


def _decompose(laplacian: Any, tokens: np.ndarray, k: int) -> _Pairs:
    """Eigenvalues (B, C), ascending, and vectors (B, n, C) of the components with these tokens.

    The k + 1 smallest, and one more if there is.
    """
    n = tokens.shape[1]
    count = min(k + 2, n)
    if n <= DENSE_TOKENS or count > n // 2:
        values, vectors = np.linalg.eigh(blocks_of(laplacian, tokens))
        return values[:, :count], vectors[..., :count]
    pairs = [_lanczos(laplacian[one][:, one].tocsc(), count) for one in tokens]
    return np.stack([values for values, _ in pairs]), np.stack([vectors for _, vectors in pairs])


def _lanczos(laplacian: Any, count: int) -> _Pairs:
    """Shift and invert where the plain method does not converge, as on long paths."""
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    start = np.random.default_rng(0).standard_normal(laplacian.shape[0])
    try:
        values, vectors = eigsh(laplacian, count, which="SA", v0=start, maxiter=300)
    except ArpackNoConvergence:
        values, vectors = eigsh(laplacian, count, sigma=-1e-3, v0=start)
    order = values.argsort()
    return values[order], vectors[:, order]


def _is_simple(values: np.ndarray) -> np.ndarray:
    """Whether each of the ascending eigenvalues (B, C) differs from its neighbors."""
    apart = np.diff(values) > _SAME_EIGENVALUE
    ends = np.ones((len(values), 1), dtype=bool)
    return np.hstack([apart, ends]) & np.hstack([ends, apart])


def _with_signs(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns (B, n, K) with signs that do not depend on the solver; whether on the tokens."""
    above = np.sort(vectors, axis=1)[:, ::-1]  # entries of v from the largest down, (B, n, K)
    below = np.sort(-vectors, axis=1)[:, ::-1]
    small = _SAME_ENTRY * np.abs(vectors).max(axis=1, keepdims=True)
    known, sign = _first_sign(above - below, small)
    _, by_token = _first_sign(vectors, small)
    return vectors * np.where(known, sign, by_token)[:, None], known


def _first_sign(columns: np.ndarray, small: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each column whether some entry is not small, and the sign of the first one: (B, K)."""
    large = np.abs(columns) > small
    first = np.take_along_axis(columns, large.argmax(axis=1)[:, None], axis=1)[:, 0]
    return large.any(axis=1), np.sign(first)
