"""A model whose attention is wrong on one backend."""

from __future__ import annotations

from torch import Tensor, nn

from tests.testing.cases.base import Block, InjectedBug, seeded, tensor


class WrongOnOneBackend(nn.Module):
    """Attention in which the sparse path scales the scores with another number."""

    backend = "auto"

    def forward(self, x: Tensor) -> Tensor:
        scale = 0.5 + 1e-2 * (self.backend == "sparse")
        scores = scale * (x @ x.transpose(-2, -1))  # bug
        return scores.softmax(-1) @ x


DIFFERS_BY_BACKEND = [
    InjectedBug(
        "sparse_backend_scales_differently",
        seeded(lambda: nn.Sequential(Block(), WrongOnOneBackend()), tensor),
        "backend_agreement",
    ),
]
