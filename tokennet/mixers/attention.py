"""Attention on any token graph."""

from __future__ import annotations

from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn

from tokennet.checks import check_made, check_size, checked
from tokennet.graphs import TokenGraph
from tokennet.layer import map_flops, weight_of
from tokennet.mixers._decoding import State, cached_step, kept_positions
from tokennet.mixers._positions import Positions, check_position, positions_of
from tokennet.mixers.base import WeightedMixer, check_backend, check_heads, reset_linears
from tokennet.mixers.scores import Score, make_score
from tokennet.ops import EdgeFeatures, Softmax
from tokennet.ops.call import Bias
from tokennet.positional import RelativePosition
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens


class AttentionOptions(TypedDict, total=False):
    """What today's models add to attention: further arguments of `Attention`."""

    num_kv_heads: int | None
    dropout: float
    softcap: float | None
    sinks: bool
    qk_norm: bool | type[nn.Module]
    head_dim: int | None
    gate: bool


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
        num_kv_heads: heads of keys and values, which divides `num_heads`; each is shared by
            several heads of queries (grouped queries, Ainslie et al., 2023, arXiv 2305.13245;
            1 is multi-query attention). `num_heads` by default.
        dropout: probability that a weight is dropped, in training only.
        softcap: c, bounds the scores as c tanh(s / c) before biases are added.
        sinks: whether each head learns a logit in the denominator of its softmax, as gpt-oss.
        qk_norm: whether queries and keys are normalized over the C channels of a head, before
            they are rotated: True for `nn.RMSNorm`, or another norm of that size.
        head_dim: C, channels of a head, where all heads together have more or fewer than `dim`,
            as in T5 and Qwen3; `dim / num_heads` by default.
        gate: whether what the heads receive is multiplied by sigmoid(W_g z) before W_o, as in
            Qwen3-Next (Qiu et al., 2025, arXiv 2505.06708).

    Raises:
        ValueError: `num_heads` does not divide `dim` where `head_dim` is not given, or
            `num_kv_heads` not `num_heads`; the graph lacks `edge_attr` of shape (E, edge_dim) where
            `edge_dim` is given, or `edge_type` where `num_edge_types` is; score, position, features
            of edges, backend or what becomes of scores do not go together.

    >>> import torch
    >>> from tokennet import Causal, Tokens
    >>> layer = Attention(32, num_heads=4)
    >>> layer(Tokens(torch.zeros(2, 10, 32), Causal(10))).z.shape
    torch.Size([2, 10, 32])
    >>> layer(torch.zeros(2, 10, 32), source=torch.zeros(2, 7, 32)).shape
    torch.Size([2, 10, 32])
    >>> gpt_oss = Attention(32, num_heads=4, num_kv_heads=2, sinks=True, qk_norm=True)
    >>> gpt_oss.key.out_features, gpt_oss(torch.zeros(10, 32)).shape
    (16, torch.Size([10, 32]))
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
        **options: Unpack[AttentionOptions],
    ) -> None:
        super().__init__(dim, source_dim)
        self.num_heads, self._head_dim = num_heads, options.get("head_dim")
        check_size("num_heads", num_heads, 1)
        width = num_heads * self.channels
        self._shared_heads = self._check_kv_heads(options.get("num_kv_heads"))
        self.dropout = options.get("dropout", 0.0)
        self.softcap = options.get("softcap")
        Softmax(self.softcap, dropout=self.dropout)  # which checks them
        self.backend = check_backend(backend)
        self.position = position
        self.score = make_score(score)
        self.query = self._map(0, dim, bias)
        self.key = self._map(1, self.source_dim, bias)
        self.value = nn.Linear(self.source_dim, self.num_kv_heads * self.channels, bias)
        self.out = nn.Linear(width, dim, bias)
        self.gate = nn.Linear(dim, width, bias) if options.get("gate", False) else None
        self.edge = None if edge_dim is None else nn.Linear(edge_dim, width, bias=False)
        self.type_bias = None
        if num_edge_types is not None:
            self.num_edge_types = check_size("num_edge_types", num_edge_types, 1)
            self.type_bias = nn.Parameter(torch.empty(num_edge_types, num_heads))
        self.q_norm, self.k_norm = _norms(options.get("qk_norm", False), self.channels)
        sinks = options.get("sinks", False)
        self.sinks = nn.Parameter(torch.empty(num_heads)) if sinks else None
        self._is_plain = not (sinks or self.dropout or self.softcap)
        self._build(self.score)
        self.reset_parameters()

    @property
    def channels(self) -> int:
        """C, those of a head."""
        if self._head_dim is None:
            return check_heads(self.dim, self.num_heads)
        return check_size("head_dim", self._head_dim, 1)

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
        return self.attend(q, k, v, graph, targets, sources, tokens.z)  # (..., N, D)

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
        norm = self._modules.get("q_norm")
        q = q if norm is None else norm(q)
        return q if at is None or at.pos is None else self.position.rotate(q, at.pos)  # type: ignore[union-attr]

    def keys(self, z: Tensor, at: Positions | None = None) -> Tensor:
        """(..., M, Ds) to (..., M, K, C), of K = num_kv_heads."""
        key, score = self._modules["key"], self._modules["score"]
        if key is None:  # the score reads the index of a source, and not the source
            return score.of_index(at.indices).expand(*z.shape[:-1], self.num_heads, -1)  # type: ignore
        heads = self._shared_heads or self.num_heads
        k: Tensor = score.of_key(torch.unflatten(key(z), -1, (heads, -1)))  # type: ignore
        norm = self._modules.get("k_norm")
        k = k if norm is None else norm(k)
        return k if at is None or at.pos is None else self.position.rotate(k, at.pos)  # type: ignore[union-attr]

    def values(self, z: Tensor) -> Tensor:
        """(..., M, Ds) to (..., M, K, C), of K = num_kv_heads."""
        v: Tensor = self._modules["value"](z)  # type: ignore[misc]
        return torch.unflatten(v, -1, (self._shared_heads or self.num_heads, -1))

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        graph: TokenGraph,
        targets: Positions | None,
        sources: Positions | None,
        z: Tensor,
    ) -> Tensor:
        """What the targets z receive, (..., N, D)."""
        bias, edges = self._terms(q, graph, targets, sources)
        softmax = None if self._is_plain else self._softmax()
        score: Any = self._modules["score"]
        out = score.attend(q, k, v, graph, bias, edges, self.backend, softmax).flatten(-2)
        gate = self._modules.get("gate")
        out = out if gate is None else out * gate(z).sigmoid()
        return self._modules["out"](out)  # type: ignore[misc]

    def weigh(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        targets = sources = None
        if self.reads_positions:
            targets, sources = positions_of(self.position, tokens, source, graph)
        q, k = self.queries(tokens.z, targets), self.keys(source.z, sources)
        terms = self._terms(q, graph, targets, sources)
        return self.score.weights(q, k, graph, *terms, self._softmax())

    def _softmax(self) -> Softmax | None:
        """What else becomes of scores; weights are dropped in training only."""
        if self._is_plain:
            return None
        return Softmax(self.softcap, self.sinks, self.dropout if self.training else 0.0)

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
        heads = self.num_kv_heads if end else self.num_heads
        if self.score.identity_maps:
            if self._head_dim is not None:
                raise ValueError(
                    f"head_dim must be None with {type(self.score).__name__}, whose queries and "
                    f"keys are the tokens themselves, got {self._head_dim}"
                )
            return nn.Identity()
        return nn.Linear(in_features, heads * self.channels, bias)

    @property
    def num_kv_heads(self) -> int:
        """Heads of keys and values; those of queries where no other number was given."""
        return self.num_heads if self._shared_heads is None else self._shared_heads

    def _check_kv_heads(self, num_kv_heads: int | None) -> int | None:
        if num_kv_heads is None:
            return None
        if self.num_heads % check_size("num_kv_heads", num_kv_heads, 1):
            raise ValueError(
                f"num_kv_heads must divide num_heads = {self.num_heads}, got {num_kv_heads}"
            )
        return num_kv_heads

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
        if self.num_kv_heads != self.num_heads and (
            score.additive is not None or score.reads_index or isinstance(self.key, nn.Identity)
        ):
            raise ValueError(
                f"num_kv_heads must be None with {kind}: heads share keys where scores are dot "
                f"products of mapped tokens, got {self.num_kv_heads}"
            )
        if self.sinks is not None and score.normalizer != "softmax":
            raise ValueError(f"sinks must be False with the normalizer {score.normalizer!r}")
        if self.edge is not None and (not score.adds_features or key_channels != self.channels):
            raise ValueError(f"edge_dim must be None: features do not add to the keys of {kind}")
        if self.backend != "auto" and score.goes_by_edges(self.edge is not None):
            raise ValueError(
                f"backend must be 'auto': {kind}({score.normalizer!r}) goes edge by edge, "
                f"got {self.backend!r}"
            )

    def reset_parameters(self) -> None:
        maps = [part for part in (self.query, self.key) if part not in self.score.maps]
        reset_linears(*maps, self.value, self.out, self.edge, self.gate)
        if self.type_bias is not None:
            nn.init.normal_(self.type_bias, std=0.02)
        if self.sinks is not None:
            nn.init.zeros_(self.sinks)
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
        """Four projections, 8 N D^2, and 4 D per edge for the scores and the sum, with D = H C.

        An additive score adds D per edge, a general one 2 N D C. Features add 4 H F per edge,
        and 4 N D F to ask of them and to bring them back. A gate adds 2 N D^2.
        """
        tokens, source, graph = self.inputs(tokens, source, graph)
        n, num_edges, width = tokens.num_tokens, graph.num_edges, self.num_heads * self.channels
        flops = 4 * num_edges * width + self.score.flops(n, num_edges, width)
        if self.edge is not None:
            flops += 4 * self.edge.in_features * (num_edges * self.num_heads + n * width)
        flops *= tokens.z.shape[:-2].numel()
        flops += map_flops(tokens.z, self.query, self.out, self.gate)
        return flops + map_flops(source.z, self.key, self.value)


def _norms(qk_norm: Any, channels: int) -> tuple[nn.Module | None, nn.Module | None]:
    """Of queries and of keys."""
    if qk_norm is False:
        return None, None
    if qk_norm is True:
        return nn.RMSNorm(channels, eps=1e-6), nn.RMSNorm(channels, eps=1e-6)
    if not callable(qk_norm):
        raise TypeError(f"qk_norm must be a bool or a norm such as nn.LayerNorm, got {qk_norm!r}")
    norms = [check_made("qk_norm", qk_norm, nn.Module, channels) for _ in range(2)]
    return norms[0], norms[1]


def _types(graph: TokenGraph) -> Tensor:
    assert graph.edge_type is not None
    return graph.edge_type
