"""Modules of passing models that look as if they broke a law, or that are hard to check."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.testing.cases.base import DIM, NUM_TOKENS, Block, mlp


class ClassToken(nn.Module):
    """Reads token 0, which is a learned one put before the others."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.block = nn.Parameter(torch.randn(1, 1, DIM)), Block()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        return self.block(x)[:, 0]


class Registers(nn.Module):
    """Learned tokens that take part and are dropped at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.block = nn.Parameter(torch.randn(2, DIM)), Block()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.tokens.expand(x.shape[0], -1, -1)], dim=1)
        return self.block(x)[:, :-2]


class SortedFeatures(nn.Module):
    """Each feature sorted by itself (Zhang et al., 2020, arXiv 1906.06565): blind to ties."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.weight = mlp(), nn.Parameter(torch.randn(NUM_TOKENS, DIM))

    def forward(self, x: Tensor) -> Tensor:
        return (self.embed(x).sort(dim=1).values * self.weight).sum(1)


class BestTokens(nn.Module):
    """The mean of the three tokens of highest score: of equal ones, it does not matter which."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.head = nn.Linear(DIM, 1), nn.Linear(DIM, 5)

    def forward(self, x: Tensor) -> Tensor:
        best = self.score(x).squeeze(-1).topk(3, dim=1).indices.unsqueeze(-1)
        return self.head(x.take_along_dim(best, dim=1).mean(1))


class SortedAndBack(nn.Module):
    """Sorts tokens, works on each, and puts them back."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.mlp = nn.Linear(DIM, 1), mlp()

    def forward(self, x: Tensor) -> Tensor:
        order = self.score(x).argsort(dim=1)  # (B, N, 1)
        h = self.mlp(x.take_along_dim(order, dim=1))
        return h.take_along_dim(order.argsort(dim=1), dim=1)


class Chunked(Block):
    """Three queries at a time."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        parts = [F.scaled_dot_product_attention(part, k, v) for part in q.split(3, dim=2)]
        return torch.cat(parts, dim=2)


class InPlace(Block):
    """Writes into views, set by set and head by head."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        out = torch.empty_like(v)
        for b in range(q.shape[0]):
            for h in range(q.shape[1]):
                scores = q[b, h] @ k[b, h].T
                scores.mul_(q.shape[-1] ** -0.5)
                out[b, h] = scores.softmax(-1) @ v[b, h]
        return out.add_(v).relu_()


class AcrossHeads(Block):
    """Attends over the heads of each token; odd, but no token receives from another."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


class Coordinates(nn.Module):
    """Positional encodings of coordinates that are features of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequency", 2.0 ** torch.arange(4))
        self.embed, self.block = nn.Linear(DIM + 16, DIM), Block()

    def forward(self, x: Tensor) -> Tensor:
        angle = x[..., :2, None] * self.frequency  # (B, N, 2, 4)
        encoding = torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(2)
        return self.block(self.embed(torch.cat([x, encoding], dim=-1)))


class RandomFeatures(nn.Module):
    """Linear attention with random features that are drawn once and kept in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.value = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
        self.register_buffer("omega", torch.randn(DIM, 12))

    def forward(self, x: Tensor) -> Tensor:
        phi = (self.key(x) @ self.omega).exp()
        return x + phi @ (phi.mT @ self.value(x)) / (phi @ phi.sum(1).unsqueeze(-1))


class TrainedNorm(nn.Module):
    """A batch norm that has seen data, and uses what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(DIM), nn.Linear(DIM, DIM)
        with torch.no_grad():
            self.norm(2 * torch.randn(64, DIM) + 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x.transpose(1, 2)).transpose(1, 2).relu())


class Constrained(nn.Module):
    """Weights that are computed: spectral norm, weight norm, orthogonal."""

    def __init__(self) -> None:
        super().__init__()
        self.phi = parametrizations.spectral_norm(nn.Linear(DIM, DIM))
        self.mix = parametrizations.orthogonal(nn.Linear(DIM, DIM))
        self.head = parametrizations.weight_norm(nn.Linear(DIM, 5))

    def forward(self, x: Tensor) -> Tensor:
        h = self.phi(x).relu()
        return self.head((h + self.mix(h.mean(1, keepdim=True))).logsumexp(dim=1))


class Float32Constant(nn.Module):
    """A constant from numpy: it cannot run in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.basis = np.linspace(-1, 1, DIM * DIM, dtype=np.float32).reshape(DIM, DIM)
        self.block = Block()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x @ torch.from_numpy(self.basis).to(x.device))


class Float32Only(nn.Module):
    """Refuses float64, as wrappers of fused kernels do."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float64:
            raise TypeError("this kernel accepts float32, float16 or bfloat16")
        return self.block(x)


class Score(nn.Module):
    """One number for each token, (B, N)."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = Block(), nn.Linear(DIM, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x)).squeeze(-1)


class LeftPaddedConvolution(nn.Module):
    """A convolution with padding on the left, and a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(DIM, DIM, kernel_size=3, padding=2)
        self.gru = nn.GRU(DIM, DIM, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x.transpose(1, 2))[..., :-2].transpose(1, 2)
        return x + self.gru(h.relu())[0]
