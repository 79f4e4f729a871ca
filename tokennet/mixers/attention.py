"""Attention on any token graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tokennet.checks import check_size, checked
from tokennet.graphs import TokenGraph
from tokennet.layer import map_flops, weight_of
from tokennet.mixers._decoding import State, cached_step, kept_positions
from tokennet.mixers._positions import Positions, check_position, positions_of
from tokennet.mixers.base import WeightedMixer, check_backend, check_heads, reset_linears
from tokennet.mixers.scores import Score, make_score
from tokennet.ops import EdgeFeatures
from tokennet.ops.call import Bias
from tokennet.positional import RelativePosition
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens


class Attention(WeightedMixer):
    r"""Multi-head attention along the edges of the graph: the mixer of transformers.

        out_i = W_o concat_h \sum_{j -> i} softmax_j(q_i^h . k_j^h / sqrt(C)) v_j^h
        q = W_q z,  k = W_k source,  v = W_v source

    Use it where the weights should depend on the tokens; on sparse graphs it costs O(edges).
    Vaswani et al., 2017 (arXiv 1706.03762) on the complete graph. With the same weights it
    equals `nn.MultiheadAttention`; with W_o the identity, PyG's
    `TransformerConv(root_weight=False)`. The parameters do not depend on the graph.

    Args:
        dim: channels D of tokens and output.
        num_heads: number of heads; divides `dim`.
        bias: whether the four linear maps have a bias.
        score: another score, normalizer, or other maps to queries and keys: one of
            `tokennet.mixers.scores`, a `Score` of your own, or the name of one in `SCORES`.
        position: positions that enter the scores: `Rotary`, `ALiBi`, `T5Bias`, `LearnedOffset`.
        edge_dim: number of features F of each edge; they are read from `graph.edge_attr`, and
            W_e f is added to keys and values, as in `TransformerConv(edge_dim=...)`.
        num_edge_types: number of types of edges; they are read from `graph.edge_type`, and a
            learned number b[type, head] is added to the scores.
        source_dim: channels of the other set in cross-attention, `dim` by default.
        backend: see `attend`.

    Raises:
        ValueError: `num_heads` does not divide `dim`; the graph lacks `edge_attr` of shape
            (E, edge_dim) where `edge_dim` is given, or `edge_type` where `num_edge_types` is;
            score, position, features of edges or backend do not go together.

    >>> import torch
    >>> from tokennet import Causal, Tokens
    >>> layer = Attention(32, num_heads=4)
    >>> layer(Tokens(torch.zeros(2, 10, 32), Causal(10))).z.shape
    torch.Size([2, 10, 32])
    >>> layer(torch.zeros(2, 10, 32), source=torch.zeros(2, 7, 32)).shape
    torch.Size([2, 10, 32])
    >>> from tokennet.mixers import scores
    >>> gram = scores.Cosine(query=nn.Identity(), key=nn.Identity())
    >>> clustering = Attention(32, score=gram)
    >>> clustering(torch.zeros(10, 32)).shape
    torch.Size([10, 32])
    """

    @checked()
    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        bias: bool = True,
        score: Score | str | None = None,
        position: RelativePosition | None = None,
        edge_dim: int | None = None,
        num_edge_types: int | None = None,
        source_dim: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(dim, source_dim)
        check_heads(dim, num_heads)
        self.num_heads = num_heads
        self.backend = check_backend(backend)
        self.position = position
        self.score = make_score(score)
        self.query = self._map(0, dim, bias)
        self.key = self._map(1, self.source_dim, bias)
        self.value = nn.Linear(self.source_dim, dim, bias)
        self.out = nn.Linear(dim, dim, bias)
        self.edge = None if edge_dim is None else nn.Linear(edge_dim, dim, bias=False)
        self.type_bias = None
        if num_edge_types is not None:
            self.num_edge_types = check_size("num_edge_types", num_edge_types, 1)
            self.type_bias = nn.Parameter(torch.empty(num_edge_types, num_heads))
        self._build(self.score)
        self.reset_parameters()

    @property
    def channels(self) -> int:
        """C, those of a head."""
        return check_heads(self.dim, self.num_heads)

    @property
    def reads_positions(self) -> bool:
        """Whether the scores depend on where tokens are."""
        parts = self._modules
        return parts.get("position") is not None or parts["score"].reads_index  # type: ignore

    def mix(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        targets = sources = None
        if self.reads_positions:
            targets, sources = positions_of(self.position, tokens, source, graph)
        q = self.queries(tokens.z, targets)  # (..., N, H, C)
        k = self.keys(source.z, sources)  # (..., M, H, C)
        v = self.values(source.z)  # (..., M, H, C)
        return self.attend(q, k, v, graph, targets, sources)  # (..., N, D)

    # Parts are read from `_modules`: for `self.query`, PyTorch searches as long as a small product
    # takes. And `torch.unflatten` is not written in Python, as the method is.

    def queries(self, z: Tensor, at: Positions | None = None) -> Tensor:
        """(..., N, D) to (..., N, H, C)."""
        score: Any = self._modules["score"]
        if not score._is_built:
            raise ValueError(
                "score must be given when the layer is made, Attention(dim, score=...): its maps "
                "and parameters become part of the layer"
            )
        q: Tensor = self._modules["query"](z)  # type: ignore[misc]
        q = score.of_query(torch.unflatten(q, -1, (self.num_heads, -1)))
        return q if at is None or at.pos is None else self.position.rotate(q, at.pos)  # type: ignore[union-attr]

    def keys(self, z: Tensor, at: Positions | None = None) -> Tensor:
        """(..., M, Ds) to (..., M, H, C)."""
        key, score = self._modules["key"], self._modules["score"]
        if key is None:  # the score reads the index of a source, and not the source
            return score.of_index(at.indices).expand(*z.shape[:-1], self.num_heads, -1)  # type: ignore
        k: Tensor = score.of_key(torch.unflatten(key(z), -1, (self.num_heads, -1)))  # type: ignore
        return k if at is None or at.pos is None else self.position.rotate(k, at.pos)  # type: ignore[union-attr]

    def values(self, z: Tensor) -> Tensor:
        """(..., M, Ds) to (..., M, H, C)."""
        v: Tensor = self._modules["value"](z)  # type: ignore[misc]
        return torch.unflatten(v, -1, (self.num_heads, -1))

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        graph: TokenGraph,
        targets: Positions | None,
        sources: Positions | None,
    ) -> Tensor:
        """What the targets receive, (..., N, D)."""
        bias, edges = self._terms(q, graph, targets, sources)
        out = self._modules["score"].attend(q, k, v, graph, bias, edges, self.backend)  # type: ignore
        return self._modules["out"](out.flatten(-2))  # type: ignore[misc]

    def weigh(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        targets = sources = None
        if self.reads_positions:
            targets, sources = positions_of(self.position, tokens, source, graph)
        q, k = self.queries(tokens.z, targets), self.keys(source.z, sources)
        return self.score.weights(q, k, graph, *self._terms(q, graph, targets, sources))

    def _terms(
        self, q: Tensor, graph: TokenGraph, targets: Any, sources: Any
    ) -> tuple[Bias | None, EdgeFeatures | None]:
        """What scores depend on besides queries and keys."""
        bias = None if self.position is None else self.position.bias(targets.pos, sources.pos)
        if self.type_bias is not None:
            bias = self._bias_of_types(graph, bias)
        if self.edge is None:
            return bias, None
        weight = weight_of(self.edge).unflatten(0, (self.num_heads, self.channels))
        return bias, EdgeFeatures(graph.edge_attr.to(q), key=weight, value=weight)  # type: ignore[union-attr]

    def _bias_of_types(self, graph: TokenGraph, bias: Bias | None) -> Tensor:
        """(E, H): the bias of the type of each edge, and that of positions."""
        table = self.type_bias
        assert table is not None
        of_types = table.index_select(0, graph.cached(_types, device=table.device))
        if bias is None:
            return of_types
        if isinstance(bias, Tensor):
            raise ValueError(
                "num_edge_types and position go together only where all sets of a batch share the "
                f"positions; those of position are a bias of shape {tuple(bias.shape)}"
            )
        source, target = graph.edge_index(table.device)
        heads = torch.arange(self.num_heads, device=table.device)
        return of_types + bias(heads, target[:, None], source[:, None])

    def step(
        self, tokens: Tokens, graph: TokenGraph, state: Any = None, source: Any = None
    ) -> tuple[Tokens, Any]:
        """The keys and values of all tokens so far are the state, and their `pos` if it is read."""
        return cached_step(self, tokens, graph, state)

    def kept_sources(self, state: State, graph: TokenGraph) -> tuple[Positions | None, TokenGraph]:
        """Positions of tokens whose keys are kept, and the graph from them to the new tokens."""
        return kept_positions(self.position, state, graph), graph

    def _map(self, end: int, in_features: int, bias: bool) -> Any:
        given = self.score.maps[end]
        if given is not None:
            return given
        return nn.Identity() if self.score.identity_maps else nn.Linear(in_features, self.dim, bias)

    def _build(self, score: Score) -> None:
        """Sizes for the score, and whether all that was given goes together."""
        key_channels = self.channels
        if isinstance(self.key, nn.Identity):
            key_channels = check_heads(self.source_dim, self.num_heads)
        score.build(self.num_heads, self.channels, key_channels)
        if score.reads_index:
            self.key = None
        if self.position is not None:
            check_position(self.position, score, self.num_heads, key_channels)
        kind = type(score).__name__
        if self.edge is not None and (not score.adds_features or key_channels != self.channels):
            raise ValueError(f"edge_dim must be None: features do not add to the keys of {kind}")
        if self.backend != "auto" and score.goes_by_edges(self.edge is not None):
            raise ValueError(
                f"backend must be 'auto': {kind}({score.normalizer!r}) goes edge by edge, "
                f"got {self.backend!r}"
            )

    def reset_parameters(self) -> None:
        maps = [part for part in (self.query, self.key) if part not in self.score.maps]
        reset_linears(*maps, self.value, self.out, self.edge)
        if self.type_bias is not None:
            nn.init.normal_(self.type_bias, std=0.02)
        self.score.reset_parameters()

    @property
    def symmetry(self) -> Symmetry:  # type: ignore[override]
        reads = {"graph"}
        if self.position is not None:
            reads |= self.position.symmetry.reads
        if self.score.reads_index:
            reads |= {"index"}
        return Symmetry(reads)

    def flops(self, tokens: Any, source: Any = None, graph: Any = None) -> int:
        """Four projections, 8 N D^2, and 4 D per edge for the scores and the sum.

        An additive score adds D per edge, a general one 2 N D C. Features add 4 H F per edge,
        and 4 N D F to ask of them and to bring them back.
        """
        tokens, source, graph = self.inputs(tokens, source, graph)
        n, num_edges = tokens.num_tokens, graph.num_edges
        flops = 4 * num_edges * self.dim + self.score.flops(n, num_edges, self.dim)
        if self.edge is not None:
            flops += 4 * self.edge.in_features * (num_edges * self.num_heads + n * self.dim)
        flops *= tokens.z.shape[:-2].numel()
        flops += map_flops(tokens.z, self.query, self.out)
        return flops + map_flops(source.z, self.key, self.value)


def _types(graph: TokenGraph) -> Tensor:
    assert graph.edge_type is not None
    return graph.edge_type
