"""Linear combinations of tokens whose weights are parameters, one for each edge."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tokennet.checks import check_size, checked, lookup
from tokennet.graphs import Edges, Full, TokenGraph
from tokennet.layer import IncrementalDecodingError, check_step, map_flops
from tokennet.mixers.base import Mixer, WeightedMixer, check_heads, reset_linears
from tokennet.mixers.fixed_pattern import FixedPatternMixer
from tokennet.ops import combine, normalize
from tokennet.ops.normalizers import NORMALIZERS
from tokennet.tokens import Tokens


class LearnedMixing(FixedPatternMixer, WeightedMixer):
    r"""Attention whose weights do not depend on the tokens: one parameter for each edge and head.

        out_i = W_o concat_h \sum_{j -> i} w_ij^h v_j^h,   v = W_v source
        w^h = normalizer_j(a_ij^h),   a (E, H) learned

    With the softmax, the random Synthesizer of Tay et al., 2020 (arXiv 2005.00743); with
    "none", any linear map of the tokens along the graph. `value` and `out` are those of an
    `Attention` of the same sizes: put it in its place to see what weights that depend on the
    tokens add.

    Where no token has weights for later tokens, as on `Causal`, sets may be shorter: they are
    mixed as the first tokens are.

    Args:
        dim: channels D of tokens and output.
        graph: the edges that have weights, or the number of tokens of a complete graph; of one
            set, whose weights all sets of a ragged batch share.
        num_heads: number of heads; divides `dim`.
        bias: whether the two linear maps have a bias.
        normalizer: "softmax", "hard", "sigmoid" or "none"; see `tokennet.ops.normalizers`.
        source_dim: channels of the other set, `dim` by default; `graph` is then bipartite.

    Raises:
        ValueError: `graph` is a ragged batch; called on a graph that lacks one of these edges.

    >>> from tokennet import Causal
    >>> layer = LearnedMixing(8, Causal(5), num_heads=2)
    >>> layer(torch.zeros(3, 5, 8), graph=Causal(5)).shape
    torch.Size([3, 5, 8])
    >>> layer(torch.zeros(3, 4, 8), graph=Causal(4)).shape
    torch.Size([3, 4, 8])
    """

    @checked()
    def __init__(
        self,
        dim: int,
        graph: TokenGraph | int,
        num_heads: int = 8,
        *,
        bias: bool = True,
        normalizer: str = "softmax",
        source_dim: int | None = None,
    ) -> None:
        super().__init__(dim, source_dim)
        lookup("normalizer", normalizer, NORMALIZERS)
        check_heads(dim, num_heads)
        if isinstance(graph, TokenGraph) and graph.is_ragged:
            raise ValueError(f"graph must be that of one set, got {graph!r}")
        self.num_heads, self.normalizer = num_heads, normalizer
        self.graph = graph if isinstance(graph, TokenGraph) else Full(check_size("graph", graph))
        self.weight = nn.Parameter(torch.empty(self.graph.num_edges, num_heads))
        self.value = nn.Linear(self.source_dim, dim, bias)
        self.out = nn.Linear(dim, dim, bias)
        self.reset_parameters()

    @property
    def pattern(self) -> tuple[Any, ...]:  # type: ignore[override]
        return (_first_rows, self.graph)

    def reset_parameters(self) -> None:
        """Weights of a combination start with a sum of squares of 1, logits of a softmax at 1."""
        each = max(self.graph.num_edges / max(self.graph.num_targets, 1), 1.0)
        nn.init.normal_(self.weight, std=each**-0.5 if self.normalizer == "none" else 1.0)
        reset_linears(self.value, self.out)

    def check_graph(self, graph: TokenGraph) -> None:
        if graph is not self.graph:
            super().check_graph(graph)

    def resolve(
        self, tokens: Tokens, source: Tokens | Tensor | None, graph: TokenGraph | None
    ) -> tuple[Tokens, TokenGraph]:
        return Mixer.resolve(self, tokens, source, graph)  # unlike its base, from another set too

    def mix_set(self, z: Tensor, graph: TokenGraph) -> Tensor:
        """Sources (..., m, D) to targets (..., n, D)."""
        return self._combined(self._values(z), *_rows(self.graph, 0, graph.num_sources))  # type: ignore[misc]

    def weigh(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        """Weights (..., E, H), the same for the whole batch; 0 for edges that have none."""
        number, edge = (index.to(self.weight.device) for index in self._edges_of(graph))
        weights = self.weight.new_zeros(graph.num_edges, self.num_heads)
        weights = weights.index_add(0, edge, self._normalized().index_select(0, number))
        batch = torch.broadcast_shapes(tokens.z.shape[:-2], source.z.shape[:-2])
        return weights.expand(*batch, -1, -1)

    def step(
        self, tokens: Tokens, graph: TokenGraph, state: Any = None, source: Any = None
    ) -> tuple[Tokens, Any]:
        """The values of all tokens so far are the state.

        Raises:
            TypeError: a token has weights for later tokens.
            ValueError: `graph` lacks an edge that has a weight.
        """
        check_step(tokens, graph, self.dim)
        v = self._values(tokens.z)
        v = v if state is None else torch.cat([state, v], dim=-3)
        known = graph.num_sources
        rows = _rows(self.graph, known - graph.num_targets, known)
        if rows is None and known <= self.graph.num_targets:
            raise IncrementalDecodingError(self, "it attends to later tokens")
        if rows is None or not graph.contains(rows[1]):
            raise ValueError(
                f"graph must have the edges of {self.graph!r} to these tokens; got {graph!r}"
            )
        return tokens.replace(z=self._combined(v, *rows)), v

    def flops(self, tokens: Tokens) -> int:
        """4 N D^2 + 2 D E, for E edges that have a weight.

        By the formula of the random Synthesizer, A V (Tay et al., 2020): projections of values and
        of the output, 2 N D^2 each, and a multiply-add per edge and channel. The scores are
        parameters: they cost nothing but the normalization, which is not counted.
        """
        projections = map_flops(tokens.z, self.value, self.out)
        return projections + self.pattern_edges(tokens) * 2 * self.dim

    def _values(self, z: Tensor) -> Tensor:
        return self.value(z).unflatten(-1, (self.num_heads, -1))  # (..., M, H, C)

    def _normalized(self) -> Tensor:
        return normalize(self.weight, self.graph, self.normalizer)  # (E, H)

    def _combined(self, v: Tensor, number: Tensor | None, graph: TokenGraph) -> Tensor:
        weights = self._normalized()
        if number is not None:
            weights = weights.index_select(0, number.to(weights.device))
        return self.out(combine(weights, v, graph).flatten(-2))

    def _edges_of(self, graph: TokenGraph) -> tuple[Tensor, Tensor]:
        """Numbers of the weights that play a part on a graph, and of the edges that have them."""
        if graph is self.graph:
            return (torch.arange(graph.num_edges),) * 2
        numbers, keys, offset = [torch.arange(0)], [torch.arange(0)], [0, 0]
        for part in graph.parts:
            number, rows = _rows(self.graph, 0, part.num_sources)  # type: ignore[misc]
            j, i = rows.edge_index()
            numbers.append(torch.arange(len(j)) if number is None else number)
            keys.append((i + offset[0]) * graph.num_sources + j + offset[1])
            offset = [offset[0] + part.num_targets, offset[1] + part.num_sources]
        j, i = graph.edge_index()
        listed, order = (i * graph.num_sources + j).sort(stable=True)
        return torch.cat(numbers), order[torch.searchsorted(listed, torch.cat(keys))]


def _first_rows(graph: TokenGraph, own: TokenGraph) -> TokenGraph:
    """All edges that have weights, or those among the first tokens."""
    rows = _rows(own, 0, graph.num_sources)
    return own if rows is None else rows[1]


def _rows(own: TokenGraph, first: int, known: int) -> tuple[Tensor | None, TokenGraph] | None:
    """Edges to the targets `first` .. `known` - 1: their numbers, None for all, and graph.

    None where there are no such targets, or they attend to others than the first `known`.
    """
    if first == 0 and known == own.num_sources:
        return None, own
    if known > own.num_targets or not own.is_square:
        return None
    j, i = own.edge_index()
    number = ((i >= first) & (i < known)).nonzero().squeeze(1)
    j, i = j[number], i[number] - first
    if (j >= known).any():
        return None
    return number, Edges(torch.stack([j, i]), known - first, known)
