"""What enters scores besides queries and keys: additive scores, features of edges, biases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import dropout, leaky_relu

from tokennet.checks import check_number

Activation = Literal["leaky_relu", "tanh"]


def _tanh(inner: Tensor, negative_slope: float) -> Tensor:
    return inner.tanh()


ACTIVATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "leaky_relu": leaky_relu,
    "tanh": _tanh,
}


@dataclass(frozen=True)
class Additive:
    r"""Additive scores, for `attend(..., score=Additive(weight))`.

        score_ij = scale a_h . LeakyReLU(q_i + k_j)

    GATv2 (Brody, Alon, Yahav, 2021, arXiv 2105.14491). With `activation="tanh"` the scores of
    Bahdanau, Cho, Bengio, 2014 (arXiv 1409.0473), which the fused kernel does not support.

    >>> import torch
    >>> from tokennet import Full, attend
    >>> q = k = v = torch.ones(4, 2, 8)
    >>> attend(q, k, v, Full(4), score=Additive(torch.ones(2, 8))).shape
    torch.Size([4, 2, 8])
    """

    weight: Tensor
    """(H, C), a_h"""
    negative_slope: float = 0.2
    """Of the LeakyReLU."""
    activation: Activation = "leaky_relu"

    def __post_init__(self) -> None:
        check_number("negative_slope", self.negative_slope)

    def activate(self, inner: Tensor) -> Tensor:
        return ACTIVATIONS[self.activation](inner, self.negative_slope)


@dataclass(frozen=True)
class EdgeFeatures:
    r"""Features of edges in keys and values, for `attend(..., edges=EdgeFeatures(...))`.

        k_ij = k_j + K_h f_ij        v_ij = v_j + U_h f_ij

    as in PyG's `TransformerConv(edge_dim=...)` (Shi et al., 2020, arXiv 2009.03509). With dot
    products no (E, H, C) tensor is made: q . (k + K f) = q . k + (K^T q) . f, and
    \sum p U f = U \sum p f. Additive scores take them within the LeakyReLU, and no `value`.

    >>> import torch
    >>> from tokennet import Full, attend
    >>> q = k = v = torch.ones(2, 1, 3)
    >>> edges = EdgeFeatures(torch.ones(4, 5), value=torch.ones(1, 3, 5))
    >>> attend(q, k, v, Full(2), edges=edges)[0, 0].tolist()
    [6.0, 6.0, 6.0]
    """

    attr: Tensor
    """(E, D), f, in the order of `graph.edge_index()`"""
    key: Tensor | None = None
    """(H, C, D), K; None for 0"""
    value: Tensor | None = None
    """(H, Cv, D), U; None for 0"""

    def as_values(self, summed: Tensor) -> Tensor:
        """What features, summed by their weights, (B, N, H, D), are worth: (B, N, H, Cv)."""
        return torch.einsum("bnhd,hcd->bnhc", summed, self.value.to(summed))  # type: ignore[union-attr]


@dataclass(frozen=True)
class Softmax:
    r"""How scores become weights, for `attend(..., softmax=Softmax(...))`.

        s_ij = c tanh(scale q_i . k_j / c) + bias_h(i, j)
        w_ij = d_ij exp(s_ij) / (exp(a_h) + \sum_{j' -> i} exp(s_ij'))

    c is `softcap`, which bounds the scores (Gemma 2, 2024, arXiv 2408.00118); a_h are `sinks`, a
    logit of each head that takes weight and gives no value (gpt-oss, 2025; Xiao et al., 2023,
    arXiv 2309.17453); d_ij is 0 with probability `dropout` and else 1 / (1 - dropout), by torch's
    generator, as in `scaled_dot_product_attention`: in every call, so give it in training only.
    `explain` says which backends know which of them.

    >>> import torch
    >>> from tokennet import Full, attend
    >>> q = k = torch.zeros(3, 1, 2)
    >>> attend(q, k, torch.ones(3, 1, 1), Full(3), softmax=Softmax(sinks=torch.zeros(1)))[0]
    tensor([[0.7500]])
    """

    softcap: float | None = None
    """c > 0; None for no bound"""
    sinks: Tensor | None = None
    """(H,), a_h; None for none"""
    dropout: float = 0.0
    """Probability that a weight is dropped, at most 1."""

    def __post_init__(self) -> None:
        if self.softcap is not None and not check_number("softcap", self.softcap) > 0:
            raise ValueError(f"softcap must be positive, got {self.softcap!r}")
        if not 0 <= check_number("dropout", self.dropout) <= 1:
            raise ValueError(f"dropout must be from 0 to 1, got {self.dropout!r}")

    @property
    def kind(self) -> tuple[bool, bool, bool]:
        """What of it is there: a bound, sinks, dropout."""
        return self.softcap is not None, self.sinks is not None, self.dropout > 0

    def capped(self, scores: Tensor) -> Tensor:
        """Scores, before their bias, bounded by `softcap`."""
        return scores if self.softcap is None else self.softcap * (scores / self.softcap).tanh()

    def dropped(self, weights: Tensor) -> Tensor:
        """Weights, some of them 0 by chance."""
        return dropout(weights, self.dropout) if self.dropout else weights


PLAIN = Softmax()
"""Of calls without."""

Bias = Tensor | Callable[[Tensor, Tensor, Tensor], Tensor]


class Terms(NamedTuple):
    """The same as kernels along edges read it; edges in the caller's order."""

    bias: Tensor | None = None
    """(E, H) added to the scores"""
    weight: Tensor | None = None
    """(H, C) of additive scores; None for dot products"""
    edge_attr: Tensor | None = None
    """(E, D)"""
    edge_query: Tensor | None = None
    """(N, H, D) queries for the features, for dot products"""
    edge_key: Tensor | None = None
    """(D, H, C) what features add to the keys, for additive scores"""

    def to(self, dtype: torch.dtype) -> Terms:
        return Terms(*[None if term is None else term.to(dtype) for term in self])
