"""From tokens to a tensor: the end of a net."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch_geometric.utils import scatter

from tokennet.mixers import Attention
from tokennet.mixers.latent_graphs import attention_flops, for_each_set, latent_graphs
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens


class Readout(nn.Module):
    """Pools the tokens of each set, then maps to the output: norm, `pool`, linear.

    The output has shape (..., out_features); for a ragged batch, one row for each set.

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
    """Whether the tokens are pooled away; if not, the output has a row for each of them."""

    def __init__(self, dim: int, out_features: int) -> None:
        super().__init__()
        self.norm: nn.Module = nn.LayerNorm(dim)
        self.head: nn.Module = nn.Linear(dim, out_features)

    @abstractmethod
    def pool(self, tokens: Tokens) -> Tensor:
        """Normalized tokens to (..., D), or (..., number of sets, D)."""

    def forward(self, tokens: Tokens) -> Tensor:
        return self.head(self.pool(tokens.replace(z=self.norm(tokens.z))))

    def step(self, tokens: Tokens) -> Tensor:
        """The output for the next tokens of a sequence.

        Raises:
            TypeError: the readout pools all tokens, so that it cannot go step by step.
        """
        if self.is_invariant:
            raise TypeError(f"{type(self).__name__} does not support incremental decoding")
        return self(tokens)

    def flops(self, tokens: Tokens) -> int:
        linears = [part for part in self.head.modules() if isinstance(part, nn.Linear)]
        return sum(2 * part.in_features * part.out_features for part in linears) * self._rows(
            tokens
        )

    def _rows(self, tokens: Tokens) -> int:
        return tokens.z.shape[:-2].numel() * len(tokens.graph.parts)


class TokenReadout(Readout):
    """An output for every token: (..., N, out_features).

    >>> TokenReadout(8, 3)(Tokens(torch.zeros(5, 8))).shape
    torch.Size([5, 3])
    """

    is_invariant = False

    def pool(self, tokens: Tokens) -> Tensor:
        return tokens.z

    def _rows(self, tokens: Tokens) -> int:
        return tokens.z.shape[:-1].numel()


class MeanReadout(Readout):
    """The mean of the tokens of each set; of an empty set, 0.

    >>> MeanReadout(8, 3)(Tokens.batch([Tokens(torch.zeros(n, 8)) for n in (2, 5)])).shape
    torch.Size([2, 3])
    """

    def pool(self, tokens: Tokens) -> Tensor:
        return _pooled(tokens, "mean")


class SumReadout(Readout):
    """The sum of the tokens of each set, so that numbers of tokens can be told apart.

    With a token-wise net before it, the Deep Sets of Zaheer et al., 2017 (arXiv 1703.06114).

    >>> SumReadout(8, 3)(Tokens.batch([Tokens(torch.zeros(n, 8)) for n in (2, 5)])).shape
    torch.Size([2, 3])
    """

    def pool(self, tokens: Tokens) -> Tensor:
        return _pooled(tokens, "sum")


class MaxReadout(Readout):
    """The largest value of each channel over the tokens of each set; of an empty set, 0.

    As in PointNet: Qi et al., 2017 (arXiv 1612.00593).

    >>> MaxReadout(8, 3)(Tokens.batch([Tokens(torch.zeros(n, 8)) for n in (2, 5)])).shape
    torch.Size([2, 3])
    """

    def pool(self, tokens: Tokens) -> Tensor:
        return _pooled(tokens, "max")


def _pooled(tokens: Tokens, reduce: str) -> Tensor:
    graph, z = tokens.graph, tokens.z
    if graph.is_ragged:
        batch = graph.batch(z.device)
        return scatter(z, batch, dim=-2, dim_size=graph.num_graphs, reduce=reduce)
    if reduce == "max":
        return z.amax(-2) if tokens.num_tokens else z.new_zeros(*z.shape[:-2], z.shape[-1])
    return z.sum(-2) / (max(tokens.num_tokens, 1) if reduce == "mean" else 1)


class ClassTokenReadout(Readout):
    """One token stands for its set, as a class token does.

    Args:
        index: place of the token within its set; negative counts from the end.

    Raises:
        ValueError: a set has no such token.

    >>> ClassTokenReadout(8, 3)(Tokens(torch.zeros(5, 8))).shape
    torch.Size([3])
    """

    symmetry = Symmetry({"index"})

    def __init__(self, dim: int, out_features: int, index: int = 0) -> None:
        super().__init__(dim, out_features)
        self.index = index

    def pool(self, tokens: Tokens) -> Tensor:
        graph = tokens.graph
        ragged = graph.is_ragged
        sizes = graph.sizes if graph.is_ragged else [tokens.num_tokens]
        places, start = [], 0
        for size in sizes:
            if not -size <= self.index < size:
                raise ValueError(f"index {self.index} names no token of a set of {size}")
            places.append(start + self.index % size)
            start += size
        picked = tokens.z[..., places, :]  # (..., number of sets, D)
        return picked if ragged else picked.squeeze(-2)


class AttentionReadout(Readout):
    """A learned question asked of the tokens: attention with one query for each set.

    Pooling by multihead attention of Lee et al., 2019 (arXiv 1810.00825).

    Args:
        num_heads: number of heads; divides `dim`.

    >>> AttentionReadout(8, 3, num_heads=2)(Tokens(torch.zeros(4, 5, 8))).shape
    torch.Size([4, 3])
    """

    def __init__(self, dim: int, out_features: int, num_heads: int = 4) -> None:
        super().__init__(dim, out_features)
        self.question = nn.Parameter(torch.randn(1, dim) * dim**-0.5)
        self.attention = Attention(dim, num_heads)

    def pool(self, tokens: Tokens) -> Tensor:
        graphs = latent_graphs(tokens.graph, 1)
        question = for_each_set(self.question, graphs.within, tokens.z)
        answer = self.attention(question, tokens.z, graphs.gather)  # (..., number of sets, D)
        return answer if tokens.graph.is_ragged else answer.squeeze(-2)

    def flops(self, tokens: Tokens) -> int:
        sets, n = len(tokens.graph.parts), tokens.num_tokens
        asked = tokens.z.shape[:-2].numel() * attention_flops(self.attention, sets, n, n)
        return super().flops(tokens) + asked


def make_readout(name: str, dim: int, out_features: int) -> Readout:
    """A readout by its name in `READOUTS`, or ValueError.

    >>> type(make_readout("mean", 8, 3)).__name__
    'MeanReadout'
    """
    if name not in READOUTS:
        raise ValueError(f"readout must be one of {', '.join(READOUTS)}; got {name!r}")
    return READOUTS[name](dim, out_features)


READOUTS: dict[str, type[Readout]] = {
    "token": TokenReadout,
    "mean": MeanReadout,
    "sum": SumReadout,
    "max": MaxReadout,
    "one": ClassTokenReadout,
    "attention": AttentionReadout,
}
