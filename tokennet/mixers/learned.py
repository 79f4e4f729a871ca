"""Linear combinations whose weights are parameters."""

from __future__ import annotations

import uuid
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tokennet.attend import combine, normalize
from tokennet.attend.normalize import check_normalizer
from tokennet.graphs import Edges, Full, TokenGraph
from tokennet.layer import check_step, linear_flops
from tokennet.mixers.base import Mixer, check_heads
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens


class LearnedMixing(Mixer):
    r"""Attention whose weights do not depend on the tokens: one parameter for each edge and head.

        out_i = W_o concat_h \sum_{j -> i} w_ij^h v_j^h,   v = W_v source
        w^h = normalizer_j(a_ij^h),   a (E, H) learned

    With the softmax, the random Synthesizer of Tay et al., 2020 (arXiv 2005.00743); with
    "none", any linear map of the tokens along the graph. `value` and `out` are those of an
    `Attention` of the same sizes, which it can take the place of in a net.

    Args:
        dim: channels D of tokens and output.
        graph: the edges that have weights, or the number of tokens of a complete graph.
        heads: number of heads; divides `dim`.
        bias: whether the two linear maps have a bias.
        normalizer: "softmax", "hard", "sigmoid" or "none"; see `tokennet.attend.normalize`.
        source_dim: channels of the other set, `dim` by default; `graph` is then bipartite.

    Raises:
        ValueError: called on a graph that does not have all these edges.

    >>> from tokennet import Causal
    >>> LearnedMixing(8, Causal(5), heads=2)(torch.zeros(3, 5, 8), graph=Causal(5)).shape
    torch.Size([3, 5, 8])
    """

    symmetry = Symmetry({"index"})

    def __init__(
        self,
        dim: int,
        graph: TokenGraph | int,
        heads: int = 8,
        *,
        bias: bool = True,
        normalizer: str = "softmax",
        source_dim: int | None = None,
    ) -> None:
        super().__init__(dim, source_dim)
        check_normalizer(normalizer)
        check_heads(dim, heads)
        self.heads, self.normalizer = heads, normalizer
        self.graph = Full(graph) if isinstance(graph, int) else graph
        self.weight = nn.Parameter(torch.empty(self.graph.num_edges, heads))
        self.value = nn.Linear(self.source_dim, dim, bias)
        self.out = nn.Linear(dim, dim, bias)
        self._kept_as = _new_name()
        self.reset_parameters()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._kept_as = _new_name()

    def reset_parameters(self) -> None:
        """Weights of a combination start with a sum of squares of 1, logits of a softmax at 1."""
        each = max(self.graph.num_edges / max(self.graph.num_targets, 1), 1.0)
        nn.init.normal_(self.weight, std=each**-0.5 if self.normalizer == "none" else 1.0)
        for linear in (self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def check_graph(self, graph: TokenGraph) -> None:
        own = self.graph
        if (graph.num_targets, graph.num_sources) == (own.num_targets, own.num_sources) and (
            graph is own or graph.derive(self._kept_as, None, partial(_contains, own))
        ):
            return
        raise ValueError(
            f"graph must be one with the edges that have weights, {own!r}; got {graph!r}"
        )

    def mix(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        v = self.value(source.z).unflatten(-1, (self.heads, -1))  # (..., M, H, C)
        return self.out(combine(self.weights(), v, self.graph).flatten(-2))

    def weights(self) -> Tensor:
        """(E, H), in the order of `self.graph.edge_index()`."""
        return normalize(self.weight, self.graph, self.normalizer)

    def step(
        self, tokens: Tokens, graph: TokenGraph, state: Any = None, source: Any = None
    ) -> tuple[Tokens, Any]:
        """The values of all tokens so far are the state.

        Raises:
            TypeError: a token has weights for later ones.
            ValueError: `graph` lacks an edge that has a weight.
        """
        check_step(tokens, graph, self.dim)
        v = self.value(tokens.z).unflatten(-1, (self.heads, -1))
        v = v if state is None else torch.cat([state, v], dim=-3)
        known, first = graph.num_sources, graph.num_sources - graph.num_targets
        j, i = self.graph.edge_index()
        mine = (i >= first) & (i < known)
        if (j[mine] >= known).any():
            raise TypeError("LearnedMixing cannot be run step by step: it listens to later tokens")
        rows = Edges(torch.stack([j[mine], i[mine] - first]), graph.num_targets, known)
        if known > self.graph.num_targets or not graph.contains(rows):
            raise ValueError(
                f"graph must be one with the edges that have weights, {self.graph!r}; got {graph!r}"
            )
        weights = self.weights()[mine.to(v.device)]
        return tokens.replace(z=self.out(combine(weights, v, rows).flatten(-2))), v

    def flops(self, tokens: Tokens) -> int:
        """Two projections, 4 N D^2, and 2 D per edge that has a weight."""
        projections = linear_flops(self.value, tokens.z) + linear_flops(self.out, tokens.z)
        return projections + tokens.z.shape[:-2].numel() * self.graph.num_edges * 2 * self.dim


def _new_name() -> str:
    """Under which a graph keeps whether it has the edges, of no other layer of any process."""
    return f"has the edges of learned mixing {uuid.uuid4().hex}"


def _contains(own: TokenGraph, graph: TokenGraph) -> bool:
    return graph.contains(own)
