"""Attention in time linear in the number of tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tokennet.checks import check_size, checked, lookup
from tokennet.graphs import Causal, TokenGraph
from tokennet.layer import check_step, map_flops
from tokennet.mixers._feature_maps import FEATURE_MAPS, FeatureMap
from tokennet.mixers._linear_sums import attend_causal, features, linear_attend
from tokennet.mixers.base import WeightedMixer, check_heads, reset_linears
from tokennet.ops import normalize
from tokennet.ops.batching import complete_or_causal
from tokennet.tokens import Tokens


class LinearAttention(WeightedMixer):
    r"""Multi-head attention whose scores are dot products of positive features.

        out_i = W_o concat_h \sum_{j -> i} w_ij v_j / \sum_{j -> i} w_ij
        w_ij = phi(q_i^h) . phi(k_j^h),   q = W_q z,  k = W_k source,  v = W_v source

    Katharopoulos et al., 2020 (arXiv 2006.16236), with phi = elu + 1; as a Performer
    (Choromanski et al., 2020, arXiv 2009.14794) with `features="softmax"`, random features
    for which this is softmax attention on average. The sums over j are taken once for all
    targets, or run along a causal set: O(N) time and memory, never N x N. Use it for long
    complete or causal sets.

    It honors graphs that are complete or causal, set by set, in any order of the tokens, also
    where such edges are listed. In a ragged batch each set has sums of its own.

    Args:
        dim: channels D of tokens and output.
        num_heads: number of heads; divides `dim`.
        features: "elu", "softmax" (FAVOR+), "relu", or a `FeatureMap` of D / heads channels.
        bias: whether the four linear maps have a bias.
        source_dim: channels of the other set in cross-attention, `dim` by default.
        chunk: tokens of a causal set whose scores are computed pair by pair; a matter of
            speed and memory alone.

    Raises:
        ValueError: `num_heads` does not divide `dim`, `features` is not known, or a set of the
            graph is neither complete nor causal.

    >>> from tokennet import Causal
    >>> layer = LinearAttention(32, num_heads=4, features="softmax")
    >>> layer(Tokens(torch.zeros(2, 1000, 32), Causal(1000))).z.shape
    torch.Size([2, 1000, 32])
    >>> layer(torch.zeros(2, 10, 32), source=torch.zeros(2, 700, 32)).shape
    torch.Size([2, 10, 32])
    """

    @checked()
    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        features: str | FeatureMap = "elu",
        *,
        bias: bool = True,
        source_dim: int | None = None,
        chunk: int = 64,
    ) -> None:
        super().__init__(dim, source_dim)
        self.num_heads, self.channels = num_heads, check_heads(dim, num_heads)
        if not isinstance(features, FeatureMap):
            make = lookup("features", features, FEATURE_MAPS, also="or a FeatureMap")
            features = make(self.channels)
        self.features, self.chunk = features, check_size("chunk", chunk, 1)
        self.query = nn.Linear(dim, dim, bias)
        self.key = nn.Linear(self.source_dim, dim, bias)
        self.value = nn.Linear(self.source_dim, dim, bias)
        self.out = nn.Linear(dim, dim, bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        reset_linears(self.query, self.key, self.value, self.out)

    def redraw(self, generator: torch.Generator | None = None) -> None:
        """Draw random features anew, as Performers do now and then in training."""
        self.features.redraw(generator)

    def check_graph(self, graph: TokenGraph) -> None:
        complete_or_causal(graph)

    def mix(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        q, k, v = self.query(tokens.z), self.key(source.z), self.value(source.z)
        sets = complete_or_causal(graph, tokens.z.device)
        with torch.autocast(q.device.type, enabled=False):
            out = linear_attend(
                self._log_features(q), self._log_features(k), self._heads(v), sets, self.chunk
            )
        return self.out(out.flatten(-2).to(v.dtype))

    def step(
        self, tokens: Tokens, graph: TokenGraph, state: Any = None, source: Any = None
    ) -> tuple[Tokens, Any]:
        """The running sums are the state, of the same size for any number of tokens."""
        check_step(tokens, graph, self.dim)
        if not graph.cached(_is_causal_step):
            raise ValueError(
                "graph must let each new token attend to all tokens so far and to no later one, "
                f"as Causal(n).last(m) does; got {graph!r}"
            )
        q, k, v = (linear(tokens.z) for linear in (self.query, self.key, self.value))
        with torch.autocast(q.device.type, enabled=False):
            out, state = attend_causal(
                self._log_features(q), self._log_features(k), self._heads(v), self.chunk, state
            )
        return tokens.replace(z=self.out(out.flatten(-2).to(v.dtype))), state

    def weigh(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        """Weights (..., E, H), in memory for E F H numbers; the call itself never forms them."""
        q, _ = features(self._log_features(self.query(tokens.z)))
        k, size = features(self._log_features(self.key(source.z)))
        j, i = graph.edge_index(q.device)
        scores = (q[..., i, :, :] * k[..., j, :, :]).sum(-1).log() + size[..., j, :]
        return normalize(scores, graph)

    def flops(self, tokens: Tokens) -> int:
        """8 N D^2 + N (4 F (D + H) + 2 H f), for F features of a head, each map of which costs f.

        By the factored sums of Katharopoulos et al., 2020, section 3.2: four projections, 2 N D^2
        each; for each token, phi(q) and phi(k) of each head, the sums of phi(k) v and of phi(k),
        2 F (D + H), and as much for their products with phi(q). Edges do not count.
        """
        projections = map_flops(tokens.z, self.query, self.key, self.value, self.out)
        rows = tokens.z.shape[:-1].numel()
        log_features = self._log_features(tokens.z.new_zeros(1, self.dim))
        sums = 4 * log_features.shape[-1] * (self.dim + self.num_heads)
        mapped = 2 * self.num_heads * self.features.flops(self.channels)
        return projections + rows * (sums + mapped)

    def _log_features(self, z: Tensor) -> Tensor:
        return self.features(self._heads(z))  # (..., N, H, F)

    def _heads(self, z: Tensor) -> Tensor:
        """(..., N, H, C), in float32 at least: sums over many tokens need it."""
        precise = torch.promote_types(z.dtype, torch.float32)
        return z.to(precise).unflatten(-1, (self.num_heads, self.channels))


def redraw_features(net: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draw the random features of all linear attention in a net anew.

    >>> layer = LinearAttention(8, num_heads=2, features="softmax")
    >>> before = layer.features.projection.clone()
    >>> redraw_features(layer)
    >>> torch.equal(layer.features.projection, before)
    False
    """
    for module in net.modules():
        if isinstance(module, FeatureMap):
            module.redraw(generator)


def _is_causal_step(graph: TokenGraph) -> bool:
    past = Causal(graph.num_sources).last(graph.num_targets)
    return graph.num_edges == past.num_edges and graph.contains(past) and not graph.has_multi_edges
