"""Automorphisms of token graphs and of colorings of pairs, found by nauty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokennet.checks import check_type, require
from tokennet.graphs import TokenGraph
from tokennet.testing.groups.permutations import Permutation


def automorphisms(
    graph: TokenGraph, vertex_colors: Tensor | Sequence[Any] | None = None
) -> list[Permutation]:
    """Generators of the permutations p that map edges to edges: A[p[i], p[j]] = A[i, j].

    Found by nauty (McKay and Piperno, 2014, arXiv 1301.1493). Edges are directed;
    parallel edges must be equal in number, and features of edges equal number by number.

    Args:
        graph: square, of any kind.
        vertex_colors: (N,) or (N, P), positions for instance; a permutation must keep
            the row of every token. None: all tokens have the same color.

    Raises:
        TypeError: `graph` is no `TokenGraph`.
        ValueError: it is bipartite, or there is not one color for each token.
        ImportError: pynauty is not installed.

    >>> from tokennet import Cycle
    >>> from tokennet.testing.groups import name, order
    >>> ring = automorphisms(Cycle(6))
    >>> order(ring, 6), name(ring, 6)
    (12, 'D_6')
    >>> name(automorphisms(Cycle(6), [0, 0, 1, 0, 0, 1]), 6)
    'S_2 x S_2'
    """
    check_type("graph", graph, TokenGraph, "a TokenGraph")
    if not graph.is_square:
        raise ValueError(f"graph must connect tokens of one set, got {graph!r}")
    vertices = _vertex_numbers(vertex_colors, graph.num_targets)
    kinds = _edges_by_pair(graph)
    looped = [(vertex, kinds.pop((i, i), ())) for i, vertex in enumerate(vertices.tolist())]
    ends = np.array(list(kinds), dtype=np.int64).reshape(-1, 2)
    edges = np.concatenate([ends, _numbered(list(kinds.values()))[:, None] + 1], axis=1)
    return _by_nauty(_numbered(looped), edges)


def automorphisms_of_coloring(
    vertex_colors: np.ndarray, pair_colors: np.ndarray
) -> list[Permutation]:
    """Generators of the permutations p that keep the colors of tokens and of ordered pairs.

        v[p[i]] = v[i],   C[p[i], p[j]] = C[i, j]

    Color refinement (the multiset of the colors of a token's pairs) first separates tokens;
    if all differ, the group is trivial. Otherwise nauty decides (McKay and
    Piperno, 2014, arXiv 1301.1493), the colors written in binary on one layer of vertices
    for each digit, as its manual advises.

    Args:
        vertex_colors: (N,) integers.
        pair_colors: (N, N) integers; the diagonal counts as colors of tokens too.

    Raises:
        ValueError: the shapes are not (N,) and (N, N).

    >>> automorphisms_of_coloring(np.zeros(3), np.array([[0, 1, 2], [2, 0, 1], [1, 2, 0]]))
    [(1, 2, 0)]
    """
    vertices, pairs = np.asarray(vertex_colors), np.asarray(pair_colors)
    n = len(vertices)
    if vertices.shape != (n,) or pairs.shape != (n, n):
        raise ValueError(
            "vertex_colors and pair_colors must have shapes (N,) and (N, N), "
            f"got {vertices.shape} and {pairs.shape}"
        )
    if n == 0:
        return []
    both_ways = numbered(np.stack([pairs, pairs.T], -1))
    cells = refined(numbered(np.stack([vertices, pairs.diagonal()], 1)), both_ways)
    if len(np.unique(cells)) == n:
        return []
    colors = np.unique(pairs, return_inverse=True)[1].reshape(n, n)
    off_diagonal = ~np.eye(n, dtype=bool)
    common = np.bincount(colors[off_diagonal]).argmax()
    colors = np.where(colors == common, 0, np.where(colors == 0, common, colors))
    i, j = ((colors > 0) & off_diagonal).nonzero()
    return _by_nauty(cells, np.stack([i, j, colors[i, j]], 1))


def refined(cells: np.ndarray, both_ways: np.ndarray) -> np.ndarray:
    """Split cells until tokens of one cell have equally many pairs of each color with each cell.

    Args:
        cells: (N,) numbers 0, 1, ... of the cells.
        both_ways: (N, N) numbers for the pair of C[i, j] and C[j, i].
    """
    while True:
        seen = np.sort(both_ways * (cells.max() + 1) + cells, axis=1)  # (N, N)
        finer = numbered(np.concatenate([cells[:, None], seen], 1))
        if finer.max() == cells.max():
            return cells
        cells = finer


def _by_nauty(vertices: np.ndarray, edges: np.ndarray) -> list[Permutation]:
    """Automorphisms of colored vertices (N,) and colored edges (E, 3), colors from 1.

    Vertex v of layer l is number l N + v; layer l has the edges whose color has digit l.
    """
    n = len(vertices)
    if n == 0:
        return []
    layers = max(1, int(edges[:, 2].max(initial=0)).bit_length())
    adjacency: dict[int, list[int]] = {v: [] for v in range(layers * n)}
    for layer in range(layers):
        for s, t in edges[(edges[:, 2] >> layer) & 1 == 1, :2].tolist():
            adjacency[layer * n + s].append(layer * n + t)
    for v in range((layers - 1) * n):
        adjacency[v].append(v + n)
        adjacency[v + n].append(v)
    cells: dict[tuple[int, int], set[int]] = {}
    for v in range(layers * n):
        cells.setdefault((v // n, int(vertices[v % n])), set()).add(v)
    pynauty = require("pynauty", "groups")
    graph = pynauty.Graph(
        layers * n,
        directed=True,
        adjacency_dict=adjacency,
        vertex_coloring=[cells[key] for key in sorted(cells)],
    )
    return [tuple(p[:n]) for p in pynauty.autgrp(graph)[0]]


def _edges_by_pair(graph: TokenGraph) -> dict[tuple[int, int], tuple[int, ...]]:
    """Sorted kinds of the edges from a source to a target, one for each parallel edge."""
    edges = graph.edge_index().t().tolist()
    columns = [
        rows.detach().cpu().double().reshape(len(edges), -1)
        for rows in graph.fields().values()
        if rows is not None and len(edges)
    ]
    kinds = numbered(torch.cat(columns, 1).numpy()).tolist() if columns else [0] * len(edges)
    found: dict[tuple[int, int], list[int]] = {}
    for (source, target), kind in zip(edges, kinds, strict=True):
        found.setdefault((source, target), []).append(kind)
    return {pair: tuple(sorted(kinds)) for pair, kinds in found.items()}


def _vertex_numbers(colors: Tensor | Sequence[Any] | None, n: int) -> np.ndarray:
    if colors is None:
        return np.zeros(n, dtype=np.int64)
    if isinstance(colors, Tensor):
        if colors.dim() not in (1, 2):
            raise ValueError(
                f"vertex_colors must have shape (N,) or (N, P), got {tuple(colors.shape)}"
            )
        colors = [tuple(torch.atleast_1d(row).tolist()) for row in colors]
    if len(colors) != n:
        raise ValueError(f"vertex_colors must hold one for each of {n} tokens, got {len(colors)}")
    return _numbered(colors)


def _numbered(colors: Sequence[Any]) -> np.ndarray:
    """Numbers for any sortable colors, in their order."""
    number = {color: k for k, color in enumerate(sorted(set(colors)))}
    return np.array([number[color] for color in colors], dtype=np.int64)


def numbered(vectors: np.ndarray) -> np.ndarray:
    """Number the different vectors along the last dimension, in their order."""
    rows = vectors.reshape(-1, vectors.shape[-1])
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(vectors.shape[:-1])
