"""Attention on any token graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tokennet.graphs import TokenGraph
from tokennet.layer import check_step, linear_flops
from tokennet.mixers.base import Mixer, check_edge_attr, check_heads
from tokennet.mixers.place import Place, source_index, target_index
from tokennet.mixers.score import Score
from tokennet.mixers.scores import make_score
from tokennet.ops import EdgeFeatures
from tokennet.ops.call import Bias
from tokennet.positional import RelativePosition
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens


class Attention(Mixer):
    r"""Multi-head attention along the edges of the graph.

        out_i = W_o concat_h \sum_{j -> i} softmax_j(q_i^h . k_j^h / sqrt(C)) v_j^h
        q = W_q z,  k = W_k source,  v = W_v source

    Vaswani et al., 2017 (arXiv 1706.03762) on the complete graph. With the same weights it
    equals `nn.MultiheadAttention`; with W_o the identity, PyG's
    `TransformerConv(root_weight=False)`. The parameters do not depend on the graph.

    Args:
        dim: channels D of tokens and output.
        num_heads: number of heads; divides `dim`.
        bias: whether the four linear maps have a bias.
        score: another score, normalizer, or other maps to queries and keys: one of
            `tokennet.scores`, a `Score` of your own, or the name of one in `SCORES`.
        position: positions that enter the scores: `Rotary`, `ALiBi`, `T5Bias`, `LearnedOffset`.
        edge_dim: number of features F of each edge; they are read from `graph.edge_attr`, and
            W_e f is added to keys and values, as in `TransformerConv(edge_dim=...)`.
        source_dim: channels of the other set in cross-attention, `dim` by default.
        backend: see `attend`.

    Raises:
        ValueError: `num_heads` does not divide `dim`; the graph lacks `edge_attr` of shape
            (E, edge_dim) where `edge_dim` is given; score, position, features of edges or
            backend do not go together.

    >>> import torch
    >>> from tokennet import Causal, Tokens
    >>> layer = Attention(32, num_heads=4)
    >>> layer(Tokens(torch.zeros(2, 10, 32), Causal(10))).z.shape
    torch.Size([2, 10, 32])
    >>> layer(torch.zeros(2, 10, 32), source=torch.zeros(2, 7, 32)).shape
    torch.Size([2, 10, 32])
    >>> from tokennet import scores
    >>> gram = scores.Cosine(query=nn.Identity(), key=nn.Identity())
    >>> clustering = Attention(32, score=gram)
    >>> clustering(torch.zeros(10, 32)).shape
    torch.Size([10, 32])
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        bias: bool = True,
        score: Score | str | None = None,
        position: RelativePosition | None = None,
        edge_dim: int | None = None,
        source_dim: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(dim, source_dim)
        self.num_heads, self.channels = num_heads, check_heads(dim, num_heads)
        self.backend = backend
        self.position = position
        self.score = make_score(score)
        self._reads_places = position is not None or self.score.reads_index
        self.query = self._map(0, dim, bias)
        self.key = self._map(1, self.source_dim, bias)
        self.value = nn.Linear(self.source_dim, dim, bias)
        self.out = nn.Linear(dim, dim, bias)
        self.edge = None if edge_dim is None else nn.Linear(edge_dim, dim, bias=False)
        self._build(self.score)
        self.reset_parameters()

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
            self._check_position(score, self.position, key_channels)
        kind = type(score).__name__
        if self.edge is not None and (not score.adds_features or key_channels != self.channels):
            raise ValueError(f"edge_dim must be None: features do not add to the keys of {kind}")
        if self.backend != "auto" and score.goes_by_edges(self.edge is not None):
            raise ValueError(
                f"backend must be 'auto': {kind}({score.normalizer!r}) goes edge by edge, "
                f"got {self.backend!r}"
            )

    def _check_position(self, score: Score, position: RelativePosition, channels: int) -> None:
        if not isinstance(position, RelativePosition):
            raise TypeError(
                f"position must be a RelativePosition, got {type(position).__name__}; codes that "
                "are added to the tokens are layers of their own"
            )
        if position.num_heads not in (None, self.num_heads):
            raise ValueError(
                f"position must be for {self.num_heads} heads, not for {position.num_heads}"
            )
        if position.rotates and not score.is_product:
            kind = type(score).__name__
            raise ValueError(f"position must not rotate: {kind} is no product of query and key")
        position.check_channels(channels)

    def reset_parameters(self) -> None:
        for linear in (self.query, self.key, self.value, self.out, self.edge):
            if isinstance(linear, nn.Linear) and not any(linear is one for one in self.score.maps):
                nn.init.xavier_uniform_(linear.weight)
                if linear.bias is not None:
                    nn.init.zeros_(linear.bias)
        self.score.reset_parameters()

    @property
    def symmetry(self) -> Symmetry:  # type: ignore[override]
        reads = {"graph"}
        if self.position is not None:
            reads |= self.position.symmetry.reads
        if self.score.reads_index:
            reads |= {"index"}
        return Symmetry(reads)

    def check_graph(self, graph: TokenGraph) -> None:
        if self.edge is not None:
            check_edge_attr(graph, self.edge.in_features)

    def mix(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        score = self._found("score")
        targets, sources = self._places(tokens, source, graph)
        one = tokens.z.dim() == source.z.dim() == 2
        q = self._queries(score, tokens.z, targets, one)
        k = self._keys(score, source.z, sources, one)
        v = self._heads(self._found("value")(source.z), one)  # (..., M, H, C)
        return self._attend(score, q, k, v, graph, targets, sources, one)

    def weights(
        self,
        tokens: Tokens | Tensor,
        source: Tokens | Tensor | None = None,
        graph: TokenGraph | None = None,
    ) -> Tensor:
        """Attention weights (..., E, H) of a call, in the order of the graph's `edge_index()`."""
        tokens, source, graph = self.inputs(tokens, source, graph)
        targets, sources = self._places(tokens, source, graph)
        score = self.score
        q, k = self._queries(score, tokens.z, targets), self._keys(score, source.z, sources)
        k = k.to(q.dtype)  # autocast may have made one of them only shorter
        return score.weights(q, k, graph, self._bias(targets, sources), self._edges(graph, q))

    def step(
        self, tokens: Tokens, graph: TokenGraph, state: Any = None, source: Any = None
    ) -> tuple[Tokens, Any]:
        """The keys and values of all tokens so far are the state, and their `pos` if it is read."""
        check_step(tokens, graph, self.dim)
        self.check_graph(graph)
        score, targets = self.score, self._last_places(tokens, graph)
        new = [self._keys(score, tokens.z, targets), self._heads(self.value(tokens.z))]
        if self.position is not None and self.position.by == "pos":
            places = targets.positions[..., None, :]  # type: ignore[index, union-attr]  # (..., m, 1, P)
            new.append(places.expand(*tokens.z.shape[:-1], 1, places.shape[-1]))
        if state is not None:
            new = [torch.cat([old, one], dim=-3) for old, one in zip(state, new, strict=True)]
        sources, graph = self._remembered(new, graph)
        q, k, v = self._queries(score, tokens.z, targets), new[0], new[1]
        return tokens.replace(z=self._attend(score, q, k, v, graph, targets, sources)), tuple(new)

    def flops(self, tokens: Tokens) -> int:
        """Four projections, 8 N D^2, and 4 D per edge for the scores and the sum.

        An additive score adds D per edge, a general one 2 N D C. Features add 4 H F per edge,
        and 4 N D F to ask of them and to bring them back.
        """
        batch, num_edges = tokens.z.shape[:-2].numel(), tokens.graph.num_edges
        maps = (self.query, self.key, self.value, self.out)
        each = sum(map_flops(module, tokens.z) for module in maps)
        each += batch * self.score.flops(tokens.num_tokens, num_edges, self.dim)
        edges = 4 * num_edges * self.dim
        if self.edge is not None:
            features = self.edge.in_features
            edges += 4 * features * (num_edges * self.num_heads + tokens.num_tokens * self.dim)
        return each + batch * edges

    def _found(self, name: str) -> Any:
        """A module of this layer, or a function of its score, without the search of `nn.Module`."""
        found = self._modules.get(name)
        return getattr(self, name) if found is None else found

    def _heads(self, z: Tensor, one: bool = False) -> Tensor:
        """(..., N, D) to (..., N, H, C), or of one set to (1, N, H, C), which kernels want."""
        # `unflatten` is written in Python, and takes as long as a small product does.
        lead = (1, z.shape[0]) if one else z.shape[:-1]
        return z.view(*lead, self.num_heads, z.shape[-1] // self.num_heads)

    def _queries(self, score: Score, z: Tensor, place: Place | None, one: bool = False) -> Tensor:
        return self._turned(score.of_query(self._heads(self._found("query")(z), one)), place)

    def _keys(self, score: Score, z: Tensor, place: Place | None, one: bool = False) -> Tensor:
        key = self._found("key")
        if key is None:
            k = score.of_index(place.indices)  # type: ignore[union-attr]
            return k.expand(*z.shape[:-2], *k.shape)  # type: ignore[union-attr]
        return self._turned(score.of_key(self._heads(key(z), one)), place)

    def _turned(self, x: Tensor, place: Place | None) -> Tensor:
        if place is None or place.positions is None:
            return x
        return self.position.rotate(x, place.positions)  # type: ignore[union-attr]

    def _attend(
        self,
        score: Score,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        graph: TokenGraph,
        targets: Place | None,
        sources: Place | None,
        one: bool = False,
    ) -> Tensor:
        if not q.dtype == k.dtype == v.dtype:  # autocast may have made some of them only shorter
            q, k = q.to(v.dtype), k.to(v.dtype)
        bias, edges = self._bias(targets, sources), self._edges(graph, q)
        out = score.attend(q, k, v, graph, bias, edges, self.backend)
        joined = out.reshape(out.shape[1], self.dim) if one else out.flatten(-2)  # (..., N, D)
        return self._found("out")(joined)

    def _edges(self, graph: TokenGraph, like: Tensor) -> EdgeFeatures | None:
        if self.edge is None:
            return None
        weight = self.edge.weight.unflatten(0, (self.num_heads, self.channels))  # (H, C, F)
        return EdgeFeatures(graph.edge_attr.to(like), key=weight, value=weight)  # type: ignore[union-attr]

    def _bias(self, targets: Place | None, sources: Place | None) -> Bias | None:
        if self.position is None:
            return None
        return self.position.bias(targets.positions, sources.positions)  # type: ignore[arg-type, union-attr]

    def _places(
        self, tokens: Tokens, source: Tokens, graph: TokenGraph
    ) -> tuple[Place | None, Place | None]:
        """Of targets and sources; None where nothing reads them."""
        if not self._reads_places:
            return None, None
        targets = Place.of(self.position, tokens, target_index(tokens, graph))
        if source is tokens:
            return targets, targets
        return targets, Place.of(self.position, source, source_index(source, graph))

    def _last_places(self, tokens: Tokens, graph: TokenGraph) -> Place | None:
        if not self._reads_places:
            return None
        count, total = graph.num_targets, graph.num_sources
        indices = torch.arange(total - count, total, device=tokens.z.device)
        return Place.of(self.position, tokens, indices)

    def _remembered(
        self, state: list[Tensor], graph: TokenGraph
    ) -> tuple[Place | None, TokenGraph]:
        """Where the tokens are whose keys the state holds, and the graph from them."""
        if self.position is None:
            return None, graph
        total = graph.num_sources
        indices = torch.arange(total - state[0].shape[-3], total, device=state[0].device)
        by_pos = self.position.by == "pos"
        return Place(indices, state[2].squeeze(-2) if by_pos else indices[:, None]), graph


def map_flops(module: nn.Module | None, z: Tensor) -> int:
    """Of a module on tokens (..., N, D)."""
    if module is None or isinstance(module, nn.Identity):
        return 0
    if isinstance(module, nn.Linear):
        return linear_flops(module, z)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module(z)
    return counter.get_total_flops()
