"""Models in which padding speaks, and some that fail where nothing else does."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tests.testing.planted.base import (
    DIM,
    HEADS,
    Block,
    Masked,
    Planted,
    made,
    masked,
    mlp,
    padded,
)


class SoftmaxOfAll(Block):
    """Silences padded tokens in the output only."""

    def mix(self, x: Tensor, mask: Tensor) -> Tensor:
        return super().mix(x, mask) * mask.unsqueeze(-1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        weights = scores.softmax(dim=-1)  # bug
        return weights @ v


class MaskedTooLate(Block):
    """Padding is cut out of the weights, but stays in their normalizer."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        weights = scores.softmax(dim=-1)  # bug
        weights = weights.masked_fill(~mask[:, None, None, :], 0.0)
        return weights @ v


class FinitePadding(Block):
    """A mask that is merely unlikely, and scores that are not small."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        scores = 25 * q @ k.transpose(-2, -1)
        scores = scores + -30.0 * (~mask)[:, None, None, :]
        return scores.softmax(dim=-1) @ v  # bug


class InvertedMask(Block):
    """Takes a mask that is True for padding to one that is True for tokens."""

    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:
        return super().forward(x, padding_mask)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        padding = mask[:, None, None, :]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=padding)  # bug


class JointNorm(nn.Module):
    """Normalizes over tokens and channels together, padding included."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = mlp()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = F.layer_norm(x, x.shape[1:])  # bug
        return x + self.mlp(h)


class InstanceNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp = nn.InstanceNorm1d(DIM, affine=True), mlp()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.norm(x.transpose(1, 2))  # bug
        return x + self.mlp(h.transpose(1, 2))


class Pooled(nn.Module):
    """Sound attention, and a pooling to be written."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.norm, self.head = Block(), nn.LayerNorm(DIM), nn.Linear(DIM, 5)


class MeanOfAll(Pooled):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.norm(self.block(x, mask))
        pooled = h.mean(dim=1)  # bug
        return self.head(pooled)


class MaxOfAll(Pooled):
    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:
        h = self.norm(self.block(x, ~padding_mask))
        pooled = h.amax(dim=1)  # bug
        return self.head(pooled)


class CountedPadding(Pooled):
    """Padding adds 0 to the sum, and 1 to the number of tokens."""

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        h = self.norm(self.block(x, attention_mask)).masked_fill(~attention_mask.unsqueeze(-1), 0.0)
        pooled = h.sum(dim=1) / h.shape[1]  # bug
        return self.head(pooled)


class MeanOfNothing(Pooled):
    """0 / 0."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.norm(self.block(x, mask)) * mask.unsqueeze(-1)
        pooled = h.sum(dim=1) / mask.sum(dim=1, keepdim=True)  # bug
        return self.head(pooled)


class SoftmaxOfNothing(Block):
    """Over -inf alone."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        scores = scores.masked_fill(~mask[:, None, None, :], float("-inf"))
        return scores.softmax(dim=-1) @ v  # bug


class AttentionToNothing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(DIM), mlp()
        self.attention = nn.MultiheadAttention(DIM, HEADS, batch_first=True)

    def forward(self, x: Tensor, key_padding_mask: Tensor) -> Tensor:
        h = self.norm(x)
        h, _ = self.attention(h, h, h, key_padding_mask=key_padding_mask)  # bug
        return x + self.mlp(x + h)


class LengthOfNothing(Pooled):
    """A length that is 0, and whose derivative there is not finite."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.norm(self.block(x, mask)) * mask.unsqueeze(-1)
        total = h.sum(dim=1)
        length = total.square().sum(dim=-1, keepdim=True).sqrt()  # bug
        return self.head(total / (length + 1e-6))


def _between(kind: type[nn.Module]) -> nn.Module:
    return Masked(Block(), kind(), Block())


def _alone(kind: type[nn.Module]) -> nn.Module:
    return kind()


def _planted(name: str, build, kind: type[nn.Module], law: str, example=masked) -> Planted:
    return Planted(name, made(lambda: build(kind), example), law)


PADDING = [
    _planted("softmax_of_all", _between, SoftmaxOfAll, "padding"),
    _planted("masked_too_late", _between, MaskedTooLate, "padding"),
    _planted("finite_padding", _between, FinitePadding, "padding"),
    _planted("inverted_mask", _alone, InvertedMask, "padding", padded),
    _planted("joint_norm", _between, JointNorm, "padding"),
    _planted("instance_norm", _between, InstanceNorm, "padding"),
    _planted("mean_of_all", _alone, MeanOfAll, "padding"),
    _planted("max_of_all", _alone, MaxOfAll, "padding", padded),
    _planted("counted_padding", _alone, CountedPadding, "padding"),
]

NOTHING_THERE = [
    _planted("mean_of_nothing", _alone, MeanOfNothing, "empty_neighborhood"),
    _planted("softmax_of_nothing", _between, SoftmaxOfNothing, "empty_neighborhood"),
    _planted("attention_to_nothing", _alone, AttentionToNothing, "empty_neighborhood", padded),
    _planted("length_of_nothing", _alone, LengthOfNothing, "empty_neighborhood"),
]
