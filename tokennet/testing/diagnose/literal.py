"""Values written as Python."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from tokennet.graphs import TokenGraph
from tokennet.tokens import Tokens


def literal(value: Any, seeded: bool) -> str:
    """An expression that makes a value.

    Args:
        seeded: the vectors of tokens are `torch.randn` from seed 0.
    """
    if isinstance(value, Tokens):
        return _tokens(value, seeded)
    if isinstance(value, Batch):
        bare = value.clone()
        bare.x = torch.zeros(value.num_nodes, 1)  # x is written apart
        parts = ", ".join(literal(part, False) for part in bare.to_data_list())
        return f"Batch.from_data_list([{parts}]).update({{'x': {literal(value.x, seeded)}}})"
    if isinstance(value, Data):
        fields = [
            f"{key}={literal(item, seeded and key == 'x')}"
            for key, item in value
            if isinstance(item, Tensor)
        ]
        return f"Data({', '.join(fields)})"
    if not isinstance(value, Tensor):
        return repr(value)
    if seeded:
        generator = "generator=torch.Generator().manual_seed(0)"
        return f"torch.randn({tuple(value.shape)}, {generator}, dtype={value.dtype})"
    dtype = f", dtype={value.dtype}" if value.is_floating_point() else ""
    return f"torch.tensor({value.tolist()}{dtype})"


def _tokens(tokens: Tokens, seeded: bool) -> str:
    z = literal(tokens.z, seeded)
    pos = "" if tokens.pos is None else f", pos={literal(tokens.pos, False)}"
    if not tokens.graph.is_ragged:
        return f"Tokens({z}{_graph(tokens.graph)}{pos})"
    parts = ", ".join(
        f"Tokens(torch.zeros({part.num_targets}, 1){_graph(part)})" for part in tokens.graph.parts
    )
    return f"Tokens.batch([{parts}]).replace(z={z}{pos})"


def _graph(graph: TokenGraph) -> str:
    if graph.is_full:
        return ""
    edges = f"torch.tensor({graph.edge_index().tolist()}, dtype=torch.long)"
    attr = graph.edge_attr
    given = "" if attr is None else f", edge_attr={literal(attr, False)}"
    return f", Edges({edges}, {graph.num_targets}{given})"
