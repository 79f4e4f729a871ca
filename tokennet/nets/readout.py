"""Readouts, from tokens to an output tensor, the last part of a net; `READOUTS` has their names."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Set

import torch
from torch import Tensor, nn

from tokennet.checks import checked, lookup
from tokennet.graphs import TokenGraph
from tokennet.layer import IncrementalDecodingError, Upstream, check_channels, map_flops
from tokennet.mixers import Attention
from tokennet.mixers.latents import latents_on
from tokennet.nets.prepend import DropTokens
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens, over_sets


class Readout(nn.Module):
    """Pools the tokens of each set, then maps to the output: norm, `pool`, linear.

    Subclass it for a pooling that `READOUTS` does not have. The output has shape
    (..., out_features); for a ragged batch, a row for each set.

    Args:
        dim: channels D of the tokens.
        out_features: size of the output.

    >>> class First(Readout):
    ...     def pool(self, tokens):
    ...         return tokens.z[..., 0, :]
    >>> First(8, 3)(Tokens(torch.zeros(2, 5, 8))).shape
    torch.Size([2, 3])
    """

    symmetry = Symmetry()
    is_invariant = True
    """Whether the tokens are pooled; if not, the output has a row for each token."""

    @checked()
    def __init__(self, dim: int, out_features: int) -> None:
        super().__init__()
        self.dim = dim
        self.norm: nn.Module = nn.LayerNorm(dim)
        self.head: nn.Module = nn.Linear(dim, out_features)

    def reads_after(self, upstream: Upstream) -> Set[str]:
        """What the readout reads of the input of a net; see `TokenLayer.reads_after`."""
        return self.symmetry.reads - upstream.hidden

    @abstractmethod
    def pool(self, tokens: Tokens) -> Tensor:
        """Normalized tokens to (..., D), or (..., number of sets, D)."""

    def forward(self, tokens: Tokens | Tensor) -> Tensor:
        tokens = Tokens(tokens) if isinstance(tokens, Tensor) else tokens
        check_channels(tokens.z, self.dim)
        return self.head(self.pool(tokens.replace(z=self.norm(tokens.z))))

    def step(self, tokens: Tokens) -> Tensor:
        """The output for the next tokens of a sequence.

        Raises:
            IncrementalDecodingError: the readout pools the tokens, which needs all of them.
        """
        if self.is_invariant:
            raise IncrementalDecodingError(self)
        return self(tokens)

    def flops(self, tokens: Tokens) -> int:
        z = tokens.z
        if self.is_invariant:  # a row for each set
            z = z.new_zeros(*z.shape[:-2], tokens.graph.num_graphs, tokens.dim)
        return map_flops(z, self.head)


class TokenReadout(Readout):
    """An output for every token: (..., N, out_features).

    Use it to label tokens: nodes of a graph, pixels, the next id of a text.

    >>> TokenReadout(8, 3)(Tokens(torch.zeros(5, 8))).shape
    torch.Size([5, 3])
    """

    is_invariant = False

    def pool(self, tokens: Tokens) -> Tensor:
        return tokens.z


class MeanReadout(Readout):
    """The mean of the tokens of each set; of an empty set, 0.

    Use it where the number of tokens should not matter; `SumReadout` keeps it.

    >>> MeanReadout(8, 3)(Tokens.batch([Tokens(torch.zeros(n, 8)) for n in (2, 5)])).shape
    torch.Size([2, 3])
    """

    def pool(self, tokens: Tokens) -> Tensor:
        return _by_set(over_sets(tokens.z, tokens.graph, "mean"), tokens.graph)


class SumReadout(Readout):
    """The sum of the tokens of each set, which depends on how many tokens there are.

    Use it for counts and other extensive quantities. With a token-wise net before it, these are
    the Deep Sets of Zaheer et al., 2017 (arXiv 1703.06114).

    >>> SumReadout(8, 3)(Tokens.batch([Tokens(torch.zeros(n, 8)) for n in (2, 5)])).shape
    torch.Size([2, 3])
    """

    def pool(self, tokens: Tokens) -> Tensor:
        return _by_set(over_sets(tokens.z, tokens.graph, "sum"), tokens.graph)


class MaxReadout(Readout):
    """The largest value of each channel over the tokens of each set; of an empty set, 0.

    Use it where it matters whether some token has a feature, as in PointNet: Qi et al., 2017
    (arXiv 1612.00593).

    >>> MaxReadout(8, 3)(Tokens.batch([Tokens(torch.zeros(n, 8)) for n in (2, 5)])).shape
    torch.Size([2, 3])
    """

    def pool(self, tokens: Tokens) -> Tensor:
        return _by_set(over_sets(tokens.z, tokens.graph, "amax"), tokens.graph)


def _by_set(pooled: Tensor, graph: TokenGraph) -> Tensor:
    """(..., number of sets, D); without that dimension unless the graph is a ragged batch."""
    return pooled if graph.is_ragged else pooled.squeeze(-2)


class ClassTokenReadout(Readout):
    """The token at one index of each set, such as a class token, or the last token of a text.

    Use it after `PrependTokens`, or with `index=-1` after causal layers.

    Args:
        index: of the token within its set; negative counts from the end.

    Raises:
        ValueError: a set has no such token.

    >>> ClassTokenReadout(8, 3)(Tokens(torch.zeros(5, 8))).shape
    torch.Size([3])
    """

    symmetry = Symmetry({"index"})

    @checked(index=None)
    def __init__(self, dim: int, out_features: int, index: int = 0) -> None:
        super().__init__(dim, out_features)
        self.index = index

    def reads_after(self, upstream: Upstream) -> Set[str]:
        reads = super().reads_after(upstream)
        return reads - {"index"} if 0 <= self.index < upstream.prepended else reads

    def pool(self, tokens: Tokens) -> Tensor:
        indices, start = [], 0
        for size in tokens.graph.sizes:
            if not -size <= self.index < size:
                raise ValueError(f"index {self.index} names no token of a set of {size}")
            indices.append(start + self.index % size)
            start += size
        return _by_set(tokens.z[..., indices, :], tokens.graph)


class ClassAndMeanReadout(ClassTokenReadout):
    """The class token beside the mean of the tokens after the prepended ones, 2 D channels.

    Use it after `PrependTokens`, to read what the class token collects and what all patches hold:
    the linear head of DINOv2, Oquab et al., 2023 (arXiv 2304.07193).

    Args:
        index: of the class token within its set.
        prefix: number of first tokens that the mean leaves out: class token and registers.

    Raises:
        ValueError: a set has no token at `index`, or fewer than `prefix`.

    >>> ClassAndMeanReadout(8, 3)(Tokens(torch.zeros(2, 5, 8))).shape
    torch.Size([2, 3])
    """

    @checked(index=None, prefix=0)
    def __init__(self, dim: int, out_features: int, index: int = 0, prefix: int = 1) -> None:
        super().__init__(dim, out_features, index)
        self.rest = DropTokens(prefix)
        self.head = nn.Linear(2 * dim, out_features)

    def reads_after(self, upstream: Upstream) -> Set[str]:
        return super().reads_after(upstream) | self.rest.reads_after(upstream)[0]

    def pool(self, tokens: Tokens) -> Tensor:
        rest = self.rest(tokens)
        mean = _by_set(over_sets(rest.z, rest.graph, "mean"), rest.graph)
        return torch.cat([super().pool(tokens), mean], dim=-1)


class AttentionReadout(Readout):
    """A learned query attends to the tokens of each set: a weighted mean.

    Use it where some tokens matter more than others: pooling by multihead attention of Lee et
    al., 2019 (arXiv 1810.00825).

    Args:
        num_heads: number of heads; divides `dim`.

    >>> AttentionReadout(8, 3, num_heads=2)(Tokens(torch.zeros(4, 5, 8))).shape
    torch.Size([4, 3])
    """

    @checked()
    def __init__(self, dim: int, out_features: int, num_heads: int = 4) -> None:
        super().__init__(dim, out_features)
        self.query = nn.Parameter(torch.randn(1, dim) * dim**-0.5)
        self.attention = Attention(dim, num_heads)

    def pool(self, tokens: Tokens) -> Tensor:
        query, graphs = latents_on(tokens.graph, self.query, tokens.z)
        return _by_set(self.attention(query, tokens.z, graphs.gather), tokens.graph)

    def flops(self, tokens: Tokens) -> int:
        query, graphs = latents_on(tokens.graph, self.query, tokens.z)
        return super().flops(tokens) + self.attention.flops(query, tokens.z, graphs.gather)


def make_readout(name: str, dim: int, out_features: int) -> Readout:
    """A readout by its name in `READOUTS`, or ValueError.

    >>> type(make_readout("mean", 8, 3)).__name__
    'MeanReadout'
    """
    return lookup("readout", name, READOUTS)(dim, out_features)


READOUTS: dict[str, type[Readout]] = {
    "token": TokenReadout,
    "mean": MeanReadout,
    "sum": SumReadout,
    "max": MaxReadout,
    "class_token": ClassTokenReadout,
    "class_and_mean": ClassAndMeanReadout,
    "attention": AttentionReadout,
}
