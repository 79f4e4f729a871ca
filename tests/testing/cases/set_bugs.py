"""Models of sets that mix tokens or sets, break ties by index, or are random."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.testing.cases.base import (
    DIM,
    NUM_HEADS,
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

ALL_OTHERS = ("node_permutation", "tied_inputs", "batch_composition")
"""Laws that a random model breaks as well."""


class HeadsByReshape(nn.Module):
    """Splits heads by a view that also splits the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, 3, NUM_HEADS, n, d // NUM_HEADS).unbind(1)  # bug
        out = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(out.transpose(1, 2).reshape(b, n, d))


class HeadsNotTransposed(Block):
    """Forgets to bring the tokens back before heads are merged."""

    def mix(self, x: Tensor, mask: Tensor | None) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v)  # (B, H, N, C)
        return self.out(out.reshape(b, n, d))  # bug


class ExpertCapacity(nn.Module):
    """Each expert processes the first two tokens that are routed to it and drops the others."""

    def __init__(self, experts: int = 2, capacity: int = 2) -> None:
        super().__init__()
        self.capacity = capacity
        self.router = nn.Linear(DIM, experts)
        self.experts = nn.ModuleList(mlp() for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        gates = self.router(x).softmax(dim=-1)  # (B, N, experts)
        chosen = F.one_hot(gates.argmax(dim=-1), len(self.experts)).to(gates.dtype)
        rank = chosen.cumsum(dim=1)  # bug
        gates = gates * chosen * (rank <= self.capacity)
        answers = torch.stack([expert(x) for expert in self.experts], dim=-1)
        return x + (answers * gates.unsqueeze(2)).sum(-1)


class SortedByRectified(nn.Module):
    """SortPool by a key that is 0 for most tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(DIM, DIM), mlp(5 * DIM, 3)
        with torch.no_grad():
            self.embed.bias[-1] = -1.0

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x).relu()
        h = h.take_along_dim(h[..., -1:].argsort(dim=1, descending=True), dim=1)  # bug
        return self.head(h[:, :5].flatten(1))


class RankEmbedding(nn.Module):
    """An embedding of the rank of each token: equal tokens get different ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.rank = nn.Linear(DIM, 1), nn.Embedding(16, DIM)

    def forward(self, x: Tensor) -> Tensor:
        score = self.score(x).squeeze(-1)
        return x + self.rank(score.argsort(dim=1).argsort(dim=1))  # bug


class Leader(nn.Module):
    """Marks the token of highest score: of equal tokens, the first."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.mark = nn.Linear(DIM, 1), nn.Parameter(torch.randn(DIM))

    def forward(self, x: Tensor) -> Tensor:
        score = self.score(x).squeeze(-1)
        return x + F.one_hot(score.argmax(dim=1), x.shape[1]).unsqueeze(-1) * self.mark  # bug


class DroppedTokens(nn.Module):
    """Keeps the three tokens of highest score: of two equal tokens at the threshold, one."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.mlp = nn.Linear(DIM, 1), mlp()

    def forward(self, x: Tensor) -> Tensor:
        score = self.score(x)  # (B, N, 1)
        kept = torch.zeros_like(score).scatter(1, score.topk(3, dim=1).indices, 1.0)  # bug
        return x + kept * self.mlp(x)


class WinnerTakesAll(nn.Module):
    """Each feature is kept in one token only."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        h = self.encode(x)
        winner = torch.zeros_like(h).scatter(1, h.argmax(dim=1, keepdim=True), 1.0)  # bug
        return x + self.decode(winner * h)


class CenteredBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mlp = nn.Linear(DIM, DIM), mlp()

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        h = h - h.mean(0)  # bug
        return x + self.mlp(h)


class BatchStatistics(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x).transpose(1, 2)  # (B, D, N)
        h = F.batch_norm(h, None, None, training=True)  # bug
        return x + self.out(h.transpose(1, 2).relu())


class UntrackedNorm(nn.Module):
    """A batch norm without running statistics to use in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(DIM, track_running_stats=False)
        self.mlp = mlp()

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        h = self.norm(flat).view_as(x)  # bug
        return x + self.mlp(h)


class SequenceFirst(nn.Module):
    """Attention over the sets of the batch in place of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(DIM), nn.MultiheadAttention(DIM, NUM_HEADS)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        h, _ = self.attention(h, h, h, need_weights=False)  # bug
        return x + h


class SequenceFirstLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(DIM, DIM)
        self.layer = nn.TransformerEncoderLayer(DIM, NUM_HEADS, dim_feedforward=16, dropout=0.1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        return self.layer(h)  # bug


class SoftmaxOverBatch(nn.Module):
    """Attention pooling whose softmax is over the wrong dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.head = nn.Linear(DIM, 1), nn.Linear(DIM, 5)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.score(x).softmax(dim=0)  # bug
        return self.head((weights * x).sum(1))


class SharedScale(nn.Module):
    """Rounds to 8 bits at one scale for the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        h = self.linear(x)
        h = (h / h.abs().max() * 127).round()  # bug
        return x + h / 127


class DropoutLeftOn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(DIM), mlp()

    def forward(self, x: Tensor) -> Tensor:
        h = self.mlp(self.norm(x))
        return x + F.dropout(h, 0.1)  # bug


class RedrawnFeatures(nn.Module):
    """Linear attention with random features that are drawn at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.value = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.key(x), self.value(x)
        phi = (k @ torch.randn(DIM, 12, dtype=x.dtype, device=x.device)).relu() + 0.1  # bug
        total = phi.transpose(1, 2) @ v  # (B, 12, D)
        return x + phi @ total / (phi @ phi.sum(1).unsqueeze(-1))


def _pooled(kind: type[nn.Module]) -> nn.Module:
    return nn.Sequential(Block(), kind(), Mean())


def _bug(name: str, build, kind: type[nn.Module], law: str, also_broken=()) -> InjectedBug:
    return InjectedBug(name, seeded(lambda: build(kind), tensor), law, also_broken=also_broken)


MIXES_TOKENS = [
    _bug("heads_by_reshape", between_blocks, HeadsByReshape, "node_permutation", TIED),
    _bug("heads_not_transposed", _pooled, HeadsNotTransposed, "node_permutation", TIED),
    _bug("expert_capacity", between_blocks, ExpertCapacity, "node_permutation", TIED),
    _bug("sorted_by_rectified", after_block, SortedByRectified, "node_permutation", TIED),
    _bug("rank_embedding", between_blocks, RankEmbedding, "tied_inputs"),
    _bug("leader", between_blocks, Leader, "tied_inputs"),
    _bug("dropped_tokens", between_blocks, DroppedTokens, "tied_inputs"),
    _bug("winner_takes_all", between_blocks, WinnerTakesAll, "tied_inputs"),
]

MIXES_SETS = [
    _bug("centered_batch", between_blocks, CenteredBatch, "batch_composition"),
    _bug("batch_statistics", between_blocks, BatchStatistics, "batch_composition"),
    _bug("untracked_norm", _pooled, UntrackedNorm, "batch_composition"),
    _bug("sequence_first", between_blocks, SequenceFirst, "batch_composition"),
    _bug("sequence_first_layer", _pooled, SequenceFirstLayer, "batch_composition"),
    _bug("softmax_over_batch", after_block, SoftmaxOverBatch, "batch_composition"),
    _bug("shared_scale", between_blocks, SharedScale, "batch_composition"),
]

IS_RANDOM = [
    _bug("dropout_left_on", between_blocks, DropoutLeftOn, "deterministic", ALL_OTHERS),
    _bug("redrawn_features", _pooled, RedrawnFeatures, "deterministic", ALL_OTHERS),
]
