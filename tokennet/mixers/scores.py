"""The scores of attention: from queries and keys to scores, and from scores to weights.

`SCORES` has the names of those that `Attention(score=...)` accepts as a string: all but `Location`,
which needs the number of sources.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from tokennet.checks import check_type, checked, lookup
from tokennet.graphs import TokenGraph
from tokennet.layer import HoldsFunctions
from tokennet.ops import Additive, EdgeFeatures, Softmax, attend, attention_weights, combine
from tokennet.ops.normalizers import NORMALIZERS
from tokennet.ops.terms import Activation, Bias


class Score(nn.Module):
    r"""How a target scores its sources, and how the scores become weights.

        w_ij = normalizer_j(s_ij),   s_ij = score(q_i, k_j),   q = query(z),  k = key(source)

    Subclass it where none of `tokennet.mixers.scores` is the score you need. It belongs to one
    `Attention`, which tells it the sizes of its parameters. Scores that are dot products, or
    additive, run on all backends of `attend` with the normalizer "softmax"; with others along
    the edges, see `tokennet.ops.weights`.

    Args:
        normalizer: "softmax", "hard" (the best source alone, with the derivative of
            softmax), "sigmoid" or "none"; see `tokennet.ops.normalizers`.
        query: token-wise module from z (..., N, D) to queries (..., N, D). A linear map by
            default; with `nn.Identity()` for both, the scores are a Gram matrix.
        key: token-wise module from the source to keys.

    Raises:
        ValueError: an unknown normalizer.

    >>> import torch
    >>> from tokennet import Attention
    >>> class Distance(Score):
    ...     def of_key(self, k):
    ...         return k - k.mean(-3, keepdim=True)
    >>> Attention(8, 2, score=Distance("sigmoid")).attention_weights(torch.zeros(3, 8)).shape
    torch.Size([9, 2])
    """

    is_product = True
    """Whether the score is a dot product, so that queries and keys may be rotated."""
    identity_maps = False
    """Whether queries and keys are the tokens themselves unless maps are given."""
    reads_index = False
    """Whether the index of a source enters."""
    adds_features = True
    """Whether features of edges may be added to keys."""
    scale: float | None = 1.0
    additive: Additive | None = None
    """The form of a score that is not a dot product."""

    @checked()
    def __init__(
        self,
        normalizer: str = "softmax",
        *,
        query: Callable[[Tensor], Tensor] | None = None,
        key: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        lookup("normalizer", normalizer, NORMALIZERS)
        self.normalizer = normalizer
        self.maps = (
            _module(query),
            _module(key),
        )  # in a tuple, because it is the mixer that registers them
        self._is_built = False

    def build(self, num_heads: int, channels: int, key_channels: int) -> None:
        """Make the parameters; done by the layer that the score is given to.

        Raises:
            ValueError: it belongs to another layer already.
        """
        if self._is_built:
            raise ValueError(
                f"score must be of this layer alone; this {type(self).__name__} belongs to another"
            )
        self._is_built = True
        self.make_parameters(num_heads, channels, key_channels)
        self.reset_parameters()

    def make_parameters(self, num_heads: int, channels: int, key_channels: int) -> None:
        """What is learned besides the maps; by default nothing."""

    def reset_parameters(self) -> None:
        """Initial values of what `make_parameters` makes."""

    def of_query(self, q: Tensor) -> Tensor:
        """Queries (..., N, H, C) as they enter the product."""
        return q

    def of_key(self, k: Tensor) -> Tensor:
        """Keys (..., M, H, C) as they enter the product."""
        return k

    def of_index(self, index: Tensor) -> Tensor | None:
        """Keys (M, H, C) of sources by their index, for scores that do not read the source."""
        return None

    def flops(self, num_targets: int, num_edges: int, dim: int) -> int:
        """What the score costs more than a dot product."""
        return 0

    def weights(
        self,
        q: Tensor,
        k: Tensor,
        graph: TokenGraph,
        bias: Bias | None = None,
        edges: EdgeFeatures | None = None,
        softmax: Softmax | None = None,
    ) -> Tensor:
        """Weights (..., E, H) in the order of the graph's `edge_index()`; none is dropped."""
        k = k.to(q.dtype)  # autocast may have made only one of them shorter
        return attention_weights(
            q, k, graph, bias, scale=self.scale, score=self.additive, edges=edges,
            softmax=softmax, normalizer=self.normalizer,
        )  # fmt: skip

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        graph: TokenGraph,
        bias: Bias | None = None,
        edges: EdgeFeatures | None = None,
        backend: str = "auto",
        softmax: Softmax | None = None,
    ) -> Tensor:
        """Values weighted and summed, (..., N, H, Cv)."""
        if not q.dtype == k.dtype == v.dtype:  # autocast may have made only some of them shorter
            q, k = q.to(v.dtype), k.to(v.dtype)
        if self.goes_by_edges(edges is not None):
            weights = self.weights(q, k, graph, bias, edges, softmax)
            weights = weights if softmax is None else softmax.dropped(weights)
            return combine(weights, v, graph, edges)
        return attend(
            q, k, v, graph, bias, scale=self.scale, score=self.additive, edges=edges,
            softmax=softmax, backend=backend,
        )  # fmt: skip

    def goes_by_edges(self, with_features: bool) -> bool:
        """Whether the weights are made edge by edge, because `attend` does not know them."""
        return self.normalizer != "softmax" or (with_features and self.additive is not None)

    def extra_repr(self) -> str:
        return self.normalizer


class _Function(HoldsFunctions):
    """A map to queries or keys that is given as a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, z: Tensor) -> Tensor:
        return self.function(z)


def _module(function: Any) -> Any:
    return function if function is None or isinstance(function, nn.Module) else _Function(function)


class ScaledDotProduct(Score):
    r"""s_ij = q_i . k_j / sqrt(C), of Vaswani et al., 2017 (arXiv 1706.03762).

    >>> from tokennet import Attention
    >>> layer = Attention(8, 2, score=ScaledDotProduct("hard"))
    >>> layer.attention_weights(torch.randn(3, 8)).unflatten(0, (3, 3)).sum(1)  # one source each
    tensor([[1., 1.],
            [1., 1.],
            [1., 1.]], grad_fn=<SumBackward1>)
    """

    scale = None


class DotProduct(Score):
    r"""s_ij = q_i . k_j, "dot" in Luong, Pham, Manning, 2015 (arXiv 1508.04025).

    >>> from tokennet import Attention
    >>> gram = DotProduct("none", query=nn.Identity(), key=nn.Identity())
    >>> Attention(2, 1, score=gram).attention_weights(torch.eye(2)).flatten()
    tensor([1., 0., 0., 1.])
    """


class General(Score):
    r"""A bilinear form: s_ij = q_i^T W_h k_j, with W_h (C, C) for each head.

    "general" in Luong, Pham, Manning, 2015 (arXiv 1508.04025). Queries and keys are the tokens
    themselves unless maps are given; with one head that is the score of the paper.

    >>> from tokennet import Attention
    >>> layer = Attention(8, 2, score=General())
    >>> layer.score.weight.shape, layer(torch.zeros(5, 8)).shape
    (torch.Size([2, 4, 4]), torch.Size([5, 8]))
    """

    identity_maps = True

    def make_parameters(self, num_heads: int, channels: int, key_channels: int) -> None:
        self.weight = nn.Parameter(torch.empty(num_heads, channels, key_channels))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=(self.weight.shape[1] * self.weight.shape[2]) ** -0.5)

    def of_query(self, q: Tensor) -> Tensor:
        return torch.einsum("...hc,hcd->...hd", q, self.weight)

    def flops(self, num_targets: int, num_edges: int, dim: int) -> int:
        return 2 * num_targets * self.weight.numel()


class Bahdanau(Score):
    r"""An additive score: s_ij = a_h . tanh(q_i + k_j).

    Bahdanau, Cho, Bengio, 2014 (arXiv 1409.0473). With `activation="leaky_relu"`, that of
    GATv2 (Brody, Alon, Yahav, 2021, arXiv 2105.14491), the fused kernel runs it too. It is to
    a layer what `tokennet.ops.Additive` is to one call of `attend`, which it makes.

    >>> from tokennet import Attention
    >>> layer = Attention(8, 2, score=Bahdanau(activation="leaky_relu"))
    >>> layer.score.weight.shape, layer(torch.zeros(5, 8)).shape
    (torch.Size([2, 4]), torch.Size([5, 8]))
    """

    is_product = False

    @checked()
    def __init__(
        self,
        normalizer: str = "softmax",
        *,
        activation: Activation = "tanh",
        negative_slope: float = 0.2,
        query: Callable[[Tensor], Tensor] | None = None,
        key: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(normalizer, query=query, key=key)
        self.activation, self.negative_slope = activation, negative_slope

    def make_parameters(self, num_heads: int, channels: int, key_channels: int) -> None:
        self.weight = nn.Parameter(torch.empty(num_heads, channels))

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight)

    def flops(self, num_targets: int, num_edges: int, dim: int) -> int:
        return num_edges * dim

    @property
    def additive(self) -> Additive:  # type: ignore[override]
        return Additive(self.weight, self.negative_slope, self.activation)


class Cosine(Score):
    r"""The angle between query and key: s_ij = q_i . k_j / (|q_i| |k_j| t_h).

    Content-based addressing of Graves, Wayne, Danihelka, 2014 (arXiv 1410.5401).

    Args:
        temperature: t, at the start where it is learned.
        learned: whether each head learns its t.

    >>> from tokennet import Attention
    >>> angle = Cosine("none", temperature=1.0, query=nn.Identity(), key=nn.Identity())
    >>> z = torch.tensor([[3.0, 0.0], [0.0, 5.0]])
    >>> Attention(2, 1, score=angle).attention_weights(z).flatten().tolist()
    [1.0, 0.0, 0.0, 1.0]
    """

    adds_features = False

    @checked()
    def __init__(
        self,
        normalizer: str = "softmax",
        *,
        temperature: float = 0.1,
        learned: bool = True,
        query: Callable[[Tensor], Tensor] | None = None,
        key: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(normalizer, query=query, key=key)
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.temperature, self.learned = temperature, learned

    @property
    def scale(self) -> float:  # type: ignore[override]
        """Of the cosines; where the temperature is learned, the queries are scaled instead."""
        return 1.0 if self.learned else 1 / self.temperature

    def make_parameters(self, num_heads: int, channels: int, key_channels: int) -> None:
        if self.learned:
            self.log_temperature = nn.Parameter(torch.empty(num_heads))

    def reset_parameters(self) -> None:
        if self.learned:
            nn.init.constant_(self.log_temperature, math.log(self.temperature))

    def of_query(self, q: Tensor) -> Tensor:
        q = self.of_key(q)
        return q * (-self.log_temperature).exp()[:, None] if self.learned else q

    def of_key(self, k: Tensor) -> Tensor:
        return normalize(k, dim=-1, eps=1e-6)


class Location(Score):
    r"""The target alone says where to look: s_ij = q_i . t_{h, index of j}.

    The location-based score of Luong, Pham, Manning, 2015 (arXiv 1508.04025): a product of the
    target with a learned table that has `size` rows for each head; the source does not enter.

    Args:
        size: the largest number of sources, in each set of a ragged batch.

    Raises:
        ValueError: called with more sources.

    >>> from tokennet import Attention
    >>> layer = Attention(8, 2, score=Location(size=10))
    >>> layer(torch.zeros(5, 8)).shape, layer.symmetry.relabeling
    (torch.Size([5, 8]), 'trivial')
    """

    is_product = False
    reads_index = True

    @checked()
    def __init__(
        self,
        size: int,
        normalizer: str = "softmax",
        *,
        query: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(normalizer, query=query)
        self.size = size

    def make_parameters(self, num_heads: int, channels: int, key_channels: int) -> None:
        self.table = nn.Parameter(torch.empty(self.size, num_heads, channels))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.table, std=self.table.shape[-1] ** -0.5)

    def of_index(self, index: Tensor) -> Tensor:
        if not torch.compiler.is_compiling() and len(index) and index.max() >= self.size:
            raise ValueError(f"sources must be at most {self.size}, got index {int(index.max())}")
        return self.table.index_select(0, index)


SCORES: dict[str, type[Score]] = {
    "scaled_dot_product": ScaledDotProduct,
    "dot_product": DotProduct,
    "general": General,
    "additive": Bahdanau,
    "cosine": Cosine,
}


def make_score(score: Score | str | None) -> Score:
    """The score of a name in `SCORES`; of None, the scaled dot product.

    Raises:
        TypeError, ValueError: it is neither a score nor the name of one that needs no sizes.
    """
    if score is None:
        return ScaledDotProduct()
    if isinstance(score, Score):
        return score
    check_type("score", score, str, "a Score, a name or None")
    return lookup("score", score, SCORES, also="or a Score such as Location(size)")()
