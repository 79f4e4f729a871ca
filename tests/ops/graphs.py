"""Lists of edges in some order, for kernels that depend on it."""

from __future__ import annotations

import torch

from tokennet import Edges, TokenGraph


def clusters(*sizes: int, degree: int = 5) -> Edges:
    """Edges within groups of tokens, in no order."""
    parts, first = [], 0
    for size in sizes:
        parts.append(first + torch.randint(0, size, (2, degree * size)))
        first += size
    edges = torch.cat(parts, 1).unique(dim=1)
    return Edges(edges[:, torch.randperm(edges.shape[1])], first)


def shuffled(graph: TokenGraph) -> Edges:
    """The same graph with its tokens, and the list of its edges, in no order."""
    edges = torch.randperm(graph.num_targets)[graph.edge_index()]
    return Edges(edges[:, torch.randperm(edges.shape[1])], graph.num_targets)
