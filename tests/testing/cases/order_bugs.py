"""Models of sets that depend on the order of the tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.testing.cases.base import (
    DIM,
    NUM_TOKENS,
    TIED,
    Block,
    InjectedBug,
    Mean,
    after_block,
    between_blocks,
    mlp,
    seeded,
    tensor,
)


class LearnedTable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(DIM, DIM)
        self.table = nn.Parameter(0.02 * torch.randn(16, DIM))

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        h = h + self.table[: x.shape[1]]  # bug
        return h


class ZeroTable(nn.Module):
    """A table that starts as zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(DIM, DIM)
        self.positions = nn.Parameter(torch.zeros(1, NUM_TOKENS, DIM))
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.embed(x) + self.positions)  # bug


class TinyPositions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(DIM, DIM)
        self.positions = nn.Embedding(16, DIM)

    def forward(self, x: Tensor) -> Tensor:
        encoding = self.positions(torch.arange(x.shape[1], device=x.device))
        return self.embed(x) + 1e-6 * encoding  # bug


class Sinusoidal(nn.Module):
    """Vaswani et al., 2017 (arXiv 1706.03762)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(DIM, DIM)
        self.register_buffer("frequency", 100 ** -(torch.arange(0, DIM, 2) / DIM))

    def forward(self, x: Tensor) -> Tensor:
        index = torch.arange(x.shape[1], device=x.device).to(x.dtype)
        angle = index[:, None] * self.frequency  # (N, D / 2)
        encoding = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
        return self.embed(x) * DIM**0.5 + encoding  # bug


class GatedPositions(nn.Module):
    """A branch with positional encodings behind a gate that starts as zero (ReZero)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.branch = nn.LayerNorm(DIM), mlp()
        self.table = nn.Parameter(torch.randn(16, DIM))
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x) + self.table[: x.shape[1]]  # bug
        return x + self.gate * self.branch(y)


class RelativeBias(Block):
    """A learned bias for each distance, as in T5."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(self.num_heads, 2 * NUM_TOKENS - 1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        index = torch.arange(q.shape[2], device=q.device)
        distance = index - index[:, None] + NUM_TOKENS - 1
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        scores = scores + self.bias[:, distance]  # bug
        return scores.softmax(-1) @ v


class Rotary(Block):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v)

    def rotate(self, x: Tensor) -> Tensor:
        index = torch.arange(x.shape[2], dtype=x.dtype, device=x.device)
        angle = index[:, None] * 0.1 ** torch.arange(x.shape[-1] // 2, device=x.device)
        a, b = x.chunk(2, dim=-1)
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)  # bug


class CausalByAccident(Block):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)  # bug


class TriangularMask(Block):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        n = q.shape[2]
        scores = torch.einsum("bhic,bhjc->bhij", q, k) / q.shape[-1] ** 0.5
        past = torch.tril(torch.ones(n, n, dtype=torch.bool, device=q.device))
        scores = scores.masked_fill(~past, float("-inf"))  # bug
        return torch.einsum("bhij,bhjc->bhic", scores.softmax(dim=-1), v)


class TokenMixing(nn.Module):
    """An MLP over the tokens, as in an MLP-Mixer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.tokens, self.channels = mlp(NUM_TOKENS), mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)  # bug
        return x + self.channels(self.norm2(x))


class RecurrentPooling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(DIM, DIM, batch_first=True)
        self.head = nn.Linear(DIM, 5)

    def forward(self, x: Tensor) -> Tensor:
        _, state = self.gru(x)  # bug
        return self.head(state[-1])


class FirstToken(nn.Module):
    """Reads token 0 as if it were a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.LayerNorm(DIM), nn.Linear(DIM, 5)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x[:, 0]  # bug
        return self.head(self.norm(pooled))


class LastToken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.LayerNorm(DIM), nn.Linear(DIM, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        last = h[:, -1, :]  # bug
        return self.head(last)


class FlattenedHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(NUM_TOKENS * DIM, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.relu().flatten(1))  # bug


class RunningMean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value, self.out = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        context = self.value(x).cumsum(dim=1)  # bug
        return x + self.out(context / x.shape[1])


class TokenShift(nn.Module):
    """Half of the channels come from the token before, as in RWKV."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(DIM), mlp()

    def forward(self, x: Tensor) -> Tensor:
        here, before = self.norm(x).chunk(2, dim=-1)
        before = before.roll(1, dims=1)  # bug
        return x + self.mlp(torch.cat([here, before], dim=-1))


class LocalConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(DIM), mlp()
        self.conv = nn.Conv1d(DIM, DIM, kernel_size=3, padding=1, groups=DIM)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.norm(x).transpose(1, 2)).transpose(1, 2)  # bug
        return x + self.mlp(y)


def _pooled(kind: type[nn.Module]) -> nn.Module:
    return nn.Sequential(kind(), Block(), Mean())


def _ordered(name: str, build, kind: type[nn.Module]) -> InjectedBug:
    return InjectedBug(
        name, seeded(lambda: build(kind), tensor), "node_permutation", also_broken=TIED
    )


READS_ORDER = [
    _ordered("learned_table", _pooled, LearnedTable),
    _ordered("sinusoidal_encoding", between_blocks, Sinusoidal),
    _ordered("table_of_zeros", _pooled, ZeroTable),
    _ordered("gated_positions", between_blocks, GatedPositions),
    _ordered("tiny_positions", between_blocks, TinyPositions),
    _ordered("relative_bias", between_blocks, RelativeBias),
    _ordered("rotary_encoding", between_blocks, Rotary),
    _ordered("causal_by_accident", between_blocks, CausalByAccident),
    _ordered("triangular_mask", _pooled, TriangularMask),
    _ordered("mlp_over_tokens", between_blocks, TokenMixing),
    _ordered("recurrent_pooling", after_block, RecurrentPooling),
    _ordered("first_token", after_block, FirstToken),
    _ordered("last_token", after_block, LastToken),
    _ordered("flattened_head", after_block, FlattenedHead),
    _ordered("running_mean", between_blocks, RunningMean),
    _ordered("token_shift", between_blocks, TokenShift),
    _ordered("convolution_over_tokens", _pooled, LocalConvolution),
]
