"""The scores of attention, a class each; `SCORES` has the names of those without a size."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from tokennet.mixers.score import Score
from tokennet.ops import Additive
from tokennet.ops.call import Activation


class ScaledDotProduct(Score):
    r"""s_ij = q_i . k_j / sqrt(C), of Vaswani et al., 2017 (arXiv 1706.03762).

    >>> from tokennet import Attention
    >>> layer = Attention(8, 2, score=ScaledDotProduct("hard"))
    >>> layer.weights(torch.randn(3, 8)).unflatten(0, (3, 3)).sum(1)  # one source each
    tensor([[1., 1.],
            [1., 1.],
            [1., 1.]], grad_fn=<SumBackward1>)
    """

    scale = None


class DotProduct(Score):
    r"""s_ij = q_i . k_j, "dot" in Luong, Pham, Manning, 2015 (arXiv 1508.04025).

    >>> from tokennet import Attention
    >>> gram = DotProduct("none", query=nn.Identity(), key=nn.Identity())
    >>> Attention(2, 1, score=gram).weights(torch.eye(2)).flatten()
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
    a layer what `tokennet.attend.Additive` is to one call of `attend`, which it makes.

    >>> from tokennet import Attention
    >>> layer = Attention(8, 2, score=Bahdanau(activation="leaky_relu"))
    >>> layer.score.weight.shape, layer(torch.zeros(5, 8)).shape
    (torch.Size([2, 4]), torch.Size([5, 8]))
    """

    is_product = False

    def __init__(
        self,
        normalizer: str = "softmax",
        *,
        activation: Activation = "tanh",
        negative_slope: float = 0.2,
        query: nn.Module | None = None,
        key: nn.Module | None = None,
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
    def additive(self) -> Additive:
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
    >>> Attention(2, 1, score=angle).weights(z).flatten().tolist()
    [1.0, 0.0, 0.0, 1.0]
    """

    adds_features = False

    def __init__(
        self,
        normalizer: str = "softmax",
        *,
        temperature: float = 0.1,
        learned: bool = True,
        query: nn.Module | None = None,
        key: nn.Module | None = None,
    ) -> None:
        super().__init__(normalizer, query=query, key=key)
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.temperature, self.learned = temperature, learned
        if not learned:
            self.scale = 1 / temperature

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
    r"""The target alone says where to look: s_ij = q_i . t_{h, place of j}.

    The location-based score of Luong, Pham, Manning, 2015 (arXiv 1508.04025): a product of the
    target with a learned table, here of `size` places in the array for each head; the source
    does not enter.

    Args:
        size: number of places; sources are at most so many, in each set of a ragged batch.

    Raises:
        ValueError: called with more sources.

    >>> from tokennet import Attention
    >>> layer = Attention(8, 2, score=Location(size=10))
    >>> layer(torch.zeros(5, 8)).shape, layer.symmetry.relabeling
    (torch.Size([5, 8]), 'trivial')
    """

    is_product = False
    reads_index = True

    def __init__(
        self, size: int, normalizer: str = "softmax", *, query: nn.Module | None = None
    ) -> None:
        super().__init__(normalizer, query=query)
        self.size = size

    def make_parameters(self, num_heads: int, channels: int, key_channels: int) -> None:
        self.table = nn.Parameter(torch.empty(self.size, num_heads, channels))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.table, std=self.table.shape[-1] ** -0.5)

    def of_index(self, index: Tensor) -> Tensor:
        if not torch.compiler.is_compiling() and len(index) and index.max() >= self.size:
            raise ValueError(f"sources must be at most {self.size}, got place {int(index.max())}")
        return self.table.index_select(0, index)


SCORES: dict[str, type[Score]] = {
    "scaled_dot_product": ScaledDotProduct,
    "dot_product": DotProduct,
    "general": General,
    "additive": Bahdanau,
    "cosine": Cosine,
    "location": Location,
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
    if not isinstance(score, str):
        raise TypeError(f"score must be a Score, a name or None, got {type(score).__name__}")
    if score not in SCORES:
        raise ValueError(f"score must be one of {', '.join(SCORES)}; got {score!r}")
    if score == "location":
        raise ValueError("score 'location' needs its number of places: write Location(size)")
    return SCORES[score]()
