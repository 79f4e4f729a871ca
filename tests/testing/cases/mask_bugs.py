"""Models that depend on padding, and models that are not finite for an empty set."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.testing.cases.base import (
    DIM,
    NUM_HEADS,
    Block,
    InjectedBug,
    Masked,
    masked,
    mlp,
    padded,
    seeded,
)


class SoftmaxOfAll(Block):
    """Masks padded tokens in the output only."""

    def mix(self, x: Tensor, mask: Tensor) -> Tensor:
        return super().mix(x, mask) * mask.unsqueeze(-1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        weights = scores.softmax(dim=-1)  # bug
        return weights @ v


class MaskedTooLate(Block):
    """Padding is removed from the weights, but stays in their normalizer."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        weights = scores.softmax(dim=-1)  # bug
        weights = weights.masked_fill(~mask[:, None, None, :], 0.0)
        return weights @ v


class FinitePadding(Block):
    """A finite number for padding, and scores that are not small beside it."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        scores = 25 * q @ k.transpose(-2, -1)
        scores = scores + -30.0 * (~mask)[:, None, None, :]
        return scores.softmax(dim=-1) @ v  # bug


class InvertedMask(Block):
    """Passes a mask that is True for padding where True should mean a token."""

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
    """Attention without a bug; a subclass writes the pooling."""

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


class MeanOfEmptySet(Pooled):
    """0 / 0."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.norm(self.block(x, mask)) * mask.unsqueeze(-1)
        pooled = h.sum(dim=1) / mask.sum(dim=1, keepdim=True)  # bug
        return self.head(pooled)


class SoftmaxOfEmptySet(Block):
    """Over -inf alone: 0 / 0."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        scores = scores.masked_fill(~mask[:, None, None, :], float("-inf"))
        return scores.softmax(dim=-1) @ v  # bug


class AttentionToEmptySet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(DIM), mlp()
        self.attention = nn.MultiheadAttention(DIM, NUM_HEADS, batch_first=True)

    def forward(self, x: Tensor, key_padding_mask: Tensor) -> Tensor:
        h = self.norm(x)
        h, _ = self.attention(h, h, h, key_padding_mask=key_padding_mask)  # bug
        return x + self.mlp(x + h)


class NormOfEmptySet(Pooled):
    """A Euclidean norm that is 0, where its derivative is not finite."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.norm(self.block(x, mask)) * mask.unsqueeze(-1)
        total = h.sum(dim=1)
        norm = total.square().sum(dim=-1, keepdim=True).sqrt()  # bug
        return self.head(total / (norm + 1e-6))


class PairMaskDropped(nn.Module):
    """A mask of pairs that the second layer does not get."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (
            nn.MultiheadAttention(DIM, NUM_HEADS, batch_first=True) for _ in range(2)
        )

    def forward(self, x: Tensor, attn_mask: Tensor) -> Tensor:
        x = x + self.first(x, x, x, attn_mask=attn_mask, need_weights=False)[0]
        return x + self.second(x, x, x, need_weights=False)[0]  # bug


def _ring() -> tuple[Tensor, Tensor]:
    """Sets, and a mask that hides all but a token itself and the one before it."""
    x, _ = masked()
    itself = torch.eye(x.shape[1]).bool()
    return x, ~(itself | itself.roll(1, 0))


def _between(kind: type[nn.Module]) -> nn.Module:
    return Masked(Block(), kind(), Block())


def _alone(kind: type[nn.Module]) -> nn.Module:
    return kind()


def _bug(name: str, build, kind: type[nn.Module], law: str, example=masked) -> InjectedBug:
    return InjectedBug(name, seeded(lambda: build(kind), example), law)


READS_PADDING = [
    _bug("softmax_of_all", _between, SoftmaxOfAll, "padding"),
    _bug("masked_too_late", _between, MaskedTooLate, "padding"),
    _bug("finite_padding", _between, FinitePadding, "padding"),
    _bug("inverted_mask", _alone, InvertedMask, "padding", padded),
    _bug("joint_norm", _between, JointNorm, "padding"),
    _bug("instance_norm", _between, InstanceNorm, "padding"),
    _bug("mean_of_all", _alone, MeanOfAll, "padding"),
    _bug("max_of_all", _alone, MaxOfAll, "padding", padded),
    _bug("counted_padding", _alone, CountedPadding, "padding"),
]

DROPS_MASKS = [
    InjectedBug(
        "pair_mask_dropped",
        seeded(PairMaskDropped, _ring),
        "mask_honored",
        laws=("mask_honored",),  # a mask of one set for all is held still by permutations
    ),
]

FAILS_ON_EMPTY_SETS = [
    _bug("mean_of_empty_set", _alone, MeanOfEmptySet, "empty_neighborhood"),
    _bug("softmax_of_empty_set", _between, SoftmaxOfEmptySet, "empty_neighborhood"),
    _bug("attention_to_empty_set", _alone, AttentionToEmptySet, "empty_neighborhood", padded),
    _bug("norm_of_empty_set", _alone, NormOfEmptySet, "empty_neighborhood"),
]
