"""Feature maps of linear attention: dot products of positive features replace the scores."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tokennet.checks import check_size, checked


class FeatureMap(nn.Module):
    """From vectors to positive features, given by their logarithms.

    Subclass it for features of your own. Logarithms, because sums of features can then be
    stabilized as a softmax is: nothing overflows, and the largest features of a set never vanish.

    >>> from tokennet import LinearAttention
    >>> class Squares(FeatureMap):
    ...     def forward(self, x):
    ...         return (x.square() + 1e-6).log()
    >>> LinearAttention(8, 2, Squares())(torch.zeros(5, 8)).shape
    torch.Size([5, 8])
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., F), the logarithm of each feature."""

    def redraw(self, generator: torch.Generator | None = None) -> None:
        """Draw random features again; nothing to do where none are random."""

    def flops(self, channels: int) -> int:
        """Of one vector."""
        return 0


class EluFeatures(FeatureMap):
    """phi(x) = elu(x) + 1, a feature for each channel.

    Katharopoulos et al., 2020 (arXiv 2006.16236).

    >>> EluFeatures()(torch.tensor([-2.0, 0.0, 3.0])).exp()
    tensor([0.1353, 1.0000, 4.0000])
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x.clamp(min=0).log1p(), x)


class _RandomFeatures(FeatureMap):
    """Features along random directions, which are the same for all heads.

    Args:
        channels: C.
        num_features: F; C log C by default, and C at least.
    """

    projection: Tensor

    @checked()
    def __init__(self, channels: int, num_features: int | None = None) -> None:
        super().__init__()
        if num_features is None:
            num_features = max(channels, int(channels * math.log(channels)))
        check_size("num_features", num_features, 1)
        self.register_buffer("projection", torch.empty(num_features, channels))
        self.redraw()

    @torch.no_grad()
    def redraw(self, generator: torch.Generator | None = None) -> None:
        rows, columns = self.projection.shape
        self.projection.copy_(orthogonal_gaussian(rows, columns, generator))

    def project(self, x: Tensor) -> Tensor:
        return x @ self.projection.to(x.dtype).T  # (..., F)

    def flops(self, channels: int) -> int:
        return 2 * self.projection.numel()


class SoftmaxFeatures(_RandomFeatures):
    r"""FAVOR+: random features whose dot products are those of softmax attention on average.

        phi_f(x) = exp(w_f . y - |y|^2 / 2) / sqrt(F),   y = x / C^{1/4}
        E[phi(q) . phi(k)] = exp(q . k / sqrt(C)),   w_f ~ N(0, 1), orthogonal in blocks of C

    Choromanski et al., 2020 (arXiv 2009.14794). The factor 1 / sqrt(F) is left out: it cancels.

    >>> _ = torch.manual_seed(0)
    >>> features = SoftmaxFeatures(4, num_features=20_000)
    >>> q, k = torch.tensor([0.5, 0.0, 0.5, 0.0]), torch.tensor([0.5, 0.5, 0.0, 0.0])
    >>> round(float((features(q) + features(k)).exp().mean().log()), 1)  # q . k / sqrt(C) = 1 / 8
    0.1
    """

    def forward(self, x: Tensor) -> Tensor:
        y = x * x.shape[-1] ** -0.25
        return self.project(y) - y.square().sum(-1, keepdim=True) / 2


class ReLUFeatures(_RandomFeatures):
    """phi_f(x) = relu(w_f . x) + epsilon, the generalized attention of Performers.

    Choromanski et al., 2020 (arXiv 2009.14794); with the same directions that of PyG's
    `PerformerAttention`.

    >>> ReLUFeatures(4)(torch.zeros(3, 4)).exp()[0]
    tensor([0.0010, 0.0010, 0.0010, 0.0010, 0.0010])
    """

    epsilon = 1e-3

    def forward(self, x: Tensor) -> Tensor:
        return (self.project(x).relu() + self.epsilon).log()


FEATURE_MAPS: dict[str, Callable[[int], FeatureMap]] = {
    "elu": lambda channels: EluFeatures(),
    "relu": ReLUFeatures,
    "softmax": SoftmaxFeatures,
}


def orthogonal_gaussian(
    rows: int, columns: int, generator: torch.Generator | None = None
) -> Tensor:
    """Random vectors, each distributed as N(0, 1), orthogonal within blocks of `columns` rows.

    >>> w = orthogonal_gaussian(3, 5).double()
    >>> bool((w @ w.T - torch.diag(w.square().sum(1))).abs().max() < 1e-12)
    True
    """
    blocks = -(-rows // columns)
    gaussian = torch.randn(blocks, columns, columns, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    q = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]  # QR alone prefers some rotations
    directions = q.mT.flatten(0, 1)[:rows]
    norms = torch.randn(rows, columns, generator=generator, dtype=torch.float64).norm(dim=1)
    return directions * norms[:, None]
