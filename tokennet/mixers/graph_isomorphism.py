"""GIN: a function of the token and the sum of its neighbors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokennet.checks import checked
from tokennet.graphs import TokenGraph
from tokennet.mixers.base import Mixer, fold_batch
from tokennet.tokens import Tokens


class GraphIsomorphism(Mixer):
    r"""A function of the token and the sum of its neighbors (GIN), to tell graphs apart.

        out_i = fn((1 + eps) z_i + \sum_{j -> i} z_j)

    As strong as color refinement: Xu et al., 2018 (arXiv 1810.00826); PyG's `GINConv`. With
    features of edges, messages are relu(z_j + W_e f_ij), as in Hu et al., 2019
    (arXiv 1905.12265); PyG's `GINEConv`.

    Args:
        dim: channels D of tokens and output.
        fn: a function of single tokens, D to D; an MLP with one hidden layer by default.
        eps: the start of eps, which is learned.
        edge_dim: number of features F of each edge; they are read from `graph.edge_attr`.

    Raises:
        ValueError: the graph lacks `edge_attr` of shape (E, edge_dim) where that is given.

    >>> from tokennet import Cycle, Tokens
    >>> GraphIsomorphism(8)(Tokens(torch.zeros(5, 8), Cycle(5))).z.shape
    torch.Size([5, 8])
    """

    @checked()
    def __init__(
        self,
        dim: int,
        fn: nn.Module | None = None,
        *,
        eps: float = 0.0,
        edge_dim: int | None = None,
    ) -> None:
        super().__init__(dim)
        usual = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.fn = usual if fn is None else fn
        self.eps = nn.Parameter(torch.tensor(float(eps)))
        self.edge = None if edge_dim is None else nn.Linear(edge_dim, dim)

    def mix(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        attr = graph.edge_attr
        z, sources, graph, batch = fold_batch(tokens.z, source.z, graph)
        j, i = graph.edge_index(z.device)
        messages = sources.index_select(0, j)  # (E, D)
        if self.edge is not None:
            features = self.edge(attr.to(z)).repeat(batch.numel(), 1)  # type: ignore[union-attr]
            messages = (messages + features).relu()
        total = torch.zeros_like(z).index_add(0, i, messages)
        return self.fn(((1 + self.eps) * z + total).reshape(*batch, tokens.num_tokens, self.dim))

    def flops(self, tokens: Tokens) -> int:
        """Matrix products as run, and D additions per edge."""
        batch = tokens.z.shape[:-2].numel()
        return super().flops(tokens) + batch * tokens.graph.num_edges * self.dim
