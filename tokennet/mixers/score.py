"""What attention makes of queries and keys: scores, and weights from them."""

from __future__ import annotations

from torch import Tensor, nn

from tokennet.graphs import TokenGraph
from tokennet.ops import Additive, EdgeFeatures, attend, attention_weights, combine
from tokennet.ops.call import Bias
from tokennet.ops.normalizers import check_normalizer


class Score(nn.Module):
    r"""How a target scores its sources, and how the scores become weights.

        w_ij = normalizer_j(s_ij),   s_ij = score(q_i, k_j),   q = query(z),  k = key(source)

    Given to one `Attention`, which tells it the sizes of its parameters. Scores that are dot
    products, or additive, run on all backends of `attend` with the normalizer "softmax"; with
    others along the edges, see `tokennet.ops.weights`.

    Args:
        normalizer: "softmax", "hard" (the best source alone, with the derivative of
            softmax), "sigmoid" or "none"; see `tokennet.ops.normalizers`.
        query: token-wise module from z (..., N, D) to queries (..., N, D). A linear map by
            default; with `nn.Identity()` for both, the scores are a Gram matrix.
        key: from the source to keys, likewise.

    Raises:
        ValueError: an unknown normalizer.

    >>> import torch
    >>> from tokennet import Attention
    >>> class Distance(Score):
    ...     def of_key(self, k):
    ...         return k - k.mean(-3, keepdim=True)
    >>> Attention(8, 2, score=Distance("sigmoid")).weights(torch.zeros(3, 8)).shape
    torch.Size([9, 2])
    """

    is_product = True
    """Whether the score is a dot product, so that queries and keys may be rotated."""
    identity_maps = False
    """Whether queries and keys are the tokens themselves unless maps are given."""
    reads_index = False
    """Whether the place of a source in the array enters."""
    adds_features = True
    """Whether features of edges may be added to keys."""
    scale: float | None = 1.0

    def __init__(
        self,
        normalizer: str = "softmax",
        *,
        query: nn.Module | None = None,
        key: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_normalizer(normalizer)
        self.normalizer = normalizer
        self.maps = (query, key)  # in a tuple, because it is the mixer that registers them
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
        """Keys (M, H, C) of places in the array, for scores that do not look at the source."""
        return None

    @property
    def additive(self) -> Additive | None:
        """The form of a score that is not a dot product."""
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
    ) -> Tensor:
        """Weights (..., E, H) in the order of the graph's `edge_index()`."""
        scale, score, normalizer = self.scale, self.additive, self.normalizer
        return attention_weights(
            q, k, graph, bias, scale=scale, score=score, edges=edges, normalizer=normalizer
        )

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        graph: TokenGraph,
        bias: Bias | None = None,
        edges: EdgeFeatures | None = None,
        backend: str = "auto",
    ) -> Tensor:
        """Values weighted and summed, (..., N, H, Cv)."""
        if self.goes_by_edges(edges is not None):
            return combine(self.weights(q, k, graph, bias, edges), v, graph, edges)
        scale, score = self.scale, self.additive
        return attend(q, k, v, graph, bias, scale=scale, score=score, edges=edges, backend=backend)

    def goes_by_edges(self, with_features: bool) -> bool:
        """Whether the weights are made edge by edge, because `attend` does not know them."""
        return self.normalizer != "softmax" or (with_features and self.additive is not None)

    def extra_repr(self) -> str:
        return self.normalizer
