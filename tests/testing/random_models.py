"""Models that draw random numbers: symmetric in distribution, and broken."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DIM = 6


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.score = nn.Linear(DIM, DIM), nn.Linear(DIM, 1)
        self.table = nn.Parameter(torch.randn(16, DIM))


class Dropout(Base):
    """Dropout of each entry, on in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        h = F.dropout(self.inner(x), 0.3)
        return h + F.dropout(h.mean(1, keepdim=True), 0.3)


class StochasticDepth(Base):
    """A residual branch that a whole set skips."""

    def forward(self, x: Tensor) -> Tensor:
        kept = (torch.rand(len(x), 1, 1) < 0.7).to(x)
        return x + kept * self.inner(x).tanh().mean(1, keepdim=True)


class RandomFeatures(Base):
    """Random Fourier features that are drawn anew."""

    def forward(self, x: Tensor) -> Tensor:
        return (x @ torch.randn(DIM, 16, dtype=x.dtype)).cos().mean(1)


class Sampled(Base):
    """A token that is sampled by its score."""

    def forward(self, x: Tensor) -> Tensor:
        chosen = torch.multinomial(self.score(x).squeeze(-1).softmax(-1), 1)
        return x.take_along_dim(chosen[..., None], 1).squeeze(1) @ self.inner.weight


class RandomOrder(Base):
    """A recurrent pass over the tokens in a random order, with noise for each and a class token."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.table[None, :1].expand(len(x), -1, -1), x], 1)
        x = x + 0.1 * torch.randn_like(x)
        state = x[:, 0]
        for number in (1 + torch.randperm(x.shape[1] - 1)).tolist():
            state = (self.inner(state) + x[:, number]).tanh()
        return state


class PositionsAndDropout(Base):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.inner(x) + self.table[: x.shape[1]], 0.3)


class MoreDropoutForLater(Base):
    """The mean is right, the spread is not."""

    def forward(self, x: Tensor) -> Tensor:
        p = torch.linspace(0.1, 0.8, x.shape[1]).to(x)[:, None]
        kept = (torch.rand_like(x) > p).to(x)
        return self.inner(x) * kept / (1 - p)


class SampledByIndex(Base):
    def forward(self, x: Tensor) -> Tensor:
        weights = self.score(x).squeeze(-1) + torch.arange(x.shape[1]).to(x)
        chosen = torch.multinomial(weights.softmax(-1), 1)
        return x.take_along_dim(chosen[..., None], 1).squeeze(1)


class OrderOfIndex(Base):
    def forward(self, x: Tensor) -> Tensor:
        x, state = x + 0.1 * torch.randn_like(x), x[:, 0] * 0
        for number in range(x.shape[1]):
            state = (self.inner(state) + x[:, number]).tanh()
        return state


class DropsTheFirst(Base):
    """Tokens are dropped at random, the first three times as often."""

    def forward(self, x: Tensor) -> Tensor:
        p = torch.full(x.shape[:2], 0.2, dtype=x.dtype)
        p[:, 0] = 0.6
        return (x * (torch.rand_like(p) > p)[..., None]).sum(1)


SYMMETRIC = (Dropout, StochasticDepth, RandomFeatures, Sampled, RandomOrder)
BROKEN = (PositionsAndDropout, MoreDropoutForLater, SampledByIndex, OrderOfIndex, DropsTheFirst)
