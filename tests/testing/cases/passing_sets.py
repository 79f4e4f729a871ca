"""Passing models of sets: transformers, DeepSets, pooling, and those of `passing_modules`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.testing.cases.base import (
    CAUSAL_LAWS,
    DIM,
    NUM_HEADS,
    NUM_SETS,
    NUM_TOKENS,
    Block,
    Mean,
    PassingModel,
    mlp,
    seeded,
    tensor,
)
from tests.testing.cases.causal_bugs import CausalBlock
from tests.testing.cases.passing_modules import (
    AcrossHeads,
    BestTokens,
    Chunked,
    ClassToken,
    Constrained,
    Coordinates,
    Float32Constant,
    Float32Only,
    InPlace,
    LeftPaddedConvolution,
    RandomFeatures,
    Registers,
    Score,
    SortedAndBack,
    SortedFeatures,
    TrainedNorm,
)


class DeepSets(nn.Module):
    """Zaheer et al., 2017 (arXiv 1703.06114)."""

    def __init__(self, out: int = 5) -> None:
        super().__init__()
        self.phi, self.rho = mlp(), mlp(DIM, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.rho(self.phi(x).sum(dim=1))


class SetLayer(nn.Module):
    """The equivariant layer of DeepSets, with the largest token."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.all = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.own(x) - self.all(x.max(dim=1, keepdim=True).values)


class PostNorm(nn.Module):
    """`nn.MultiheadAttention` and norms after the sums."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(DIM, NUM_HEADS, dropout=0.1, batch_first=True)
        self.norm1, self.norm2, self.mlp = nn.LayerNorm(DIM), nn.LayerNorm(DIM), mlp()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        received, _ = self.attention(x, x, x)
        x = self.norm1(x + self.dropout(received))
        return self.norm2(x + self.dropout(self.mlp(x)))


class Gain(Block):
    """Scores so large that the softmax is almost one-hot."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return super().attend(self.gain * q, self.gain * k, v, mask)


class SoftmaxInFloat32(Block):
    """Softmax in float32, as in many language models."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        return scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype) @ v


class RMSNorm(nn.Module):
    """Zhang and Sennrich, 2019 (arXiv 1910.07467), in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(DIM))

    def forward(self, x: Tensor) -> Tensor:
        h = x.float()
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * h.to(x.dtype)


class LearnedQueries(nn.Module):
    """Attention of learned queries to the tokens, PMA (Lee et al., 2019, arXiv 1810.00825)."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, count, DIM))
        self.attention = nn.MultiheadAttention(DIM, NUM_HEADS, batch_first=True)
        self.norm, self.mlp = nn.LayerNorm(DIM), mlp()

    def forward(self, x: Tensor) -> Tensor:
        queries = self.queries.expand(x.shape[0], -1, -1)
        h = queries + self.attention(queries, x, x, need_weights=False)[0]
        return self.norm(h + self.mlp(h))


class InducedPoints(nn.Module):
    """ISAB of the Set Transformer: tokens attend to learned queries that attended to tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.gather = LearnedQueries(3)
        self.attention = nn.MultiheadAttention(DIM, NUM_HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        points = self.gather(x)
        return x + self.attention(x, points, points, need_weights=False)[0]


def scaled_head(factor: float = 1.0, offset: float = 0.0) -> nn.Module:
    """A transformer whose last layer is large, or has a large bias, or is zero."""
    head = nn.Linear(DIM, 5)
    with torch.no_grad():
        head.weight.mul_(factor)
        head.bias.mul_(factor).add_(offset)
    return nn.Sequential(Block(), Block(), nn.LayerNorm(DIM), head)


def encoder(depth: int, **options: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(DIM, NUM_HEADS, 16, batch_first=True, **options)
    return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)


class PairMask(nn.Module):
    """Attention with a mask of pairs that is True for the visible."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(DIM, 3 * DIM)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return x + F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def pairs() -> tuple[Tensor, Tensor]:
    """Sets, and for each a mask of pairs in which every token is visible to itself."""
    x = tensor()
    visible = torch.rand(*x.shape[:2], x.shape[1]) < 0.3
    return x, visible | torch.eye(x.shape[1]).bool()


def tied_weights() -> nn.Module:
    block = Block()
    return nn.Sequential(block, block, copy.deepcopy(block))


def _scaled(factor: float) -> Callable[[], Tensor]:
    return lambda: factor * tensor()


def _passing(
    name: str, *layers: Callable[[], nn.Module], example: Callable[[], Any] = tensor, **fields: Any
) -> PassingModel:
    def model() -> nn.Module:
        parts = [layer() for layer in layers]
        return parts[0] if len(parts) == 1 else nn.Sequential(*parts)

    return PassingModel(name, seeded(model, example), **fields)


PASSING_SETS = [
    _passing("deep_sets", DeepSets),
    _passing("pair_mask", PairMask, example=pairs),
    _passing("set_layers", SetLayer, nn.ReLU, SetLayer, Mean, selects=True),
    _passing("pre_norm", Block, Block),
    _passing("post_norm", PostNorm, PostNorm),
    _passing("encoder", lambda: encoder(2)),
    _passing("deep_encoder", lambda: encoder(24, norm_first=True), slow=True),
    _passing("gain_10", Block, lambda: Gain(10**0.5)),
    _passing("gain_20", Block, lambda: Gain(20**0.5), selects=True),
    _passing("large_output", lambda: scaled_head(factor=1e4)),
    _passing("output_with_offset", lambda: scaled_head(offset=100.0)),
    _passing("zero_output", lambda: scaled_head(factor=0.0)),
    _passing("large_input", Block, Block, example=_scaled(1e3)),
    _passing("small_input", Block, Block, example=_scaled(1e-3)),
    _passing("rms_norm_in_float32", RMSNorm, Block, RMSNorm, exact=False),
    _passing("softmax_in_float32", SoftmaxInFloat32, SoftmaxInFloat32, exact=False),
    _passing("class_token", ClassToken),
    _passing("registers", Registers, Registers),
    _passing("learned_queries", Block, lambda: LearnedQueries(1), lambda: nn.Flatten(1)),
    _passing("set_transformer", InducedPoints, InducedPoints, lambda: LearnedQueries(2)),
    _passing("sorted_features", SortedFeatures, selects=True),
    _passing("best_tokens", Block, BestTokens, selects=True),
    _passing("sorted_and_back", Block, SortedAndBack, Block, selects=True),
    _passing("token_wise", mlp, lambda: nn.LayerNorm(DIM), mlp),
    _passing("chunked", Block, Chunked),
    _passing("in_place", Block, InPlace),
    _passing("across_heads", AcrossHeads, Block),
    _passing("coordinates", Coordinates),
    _passing("random_features", RandomFeatures),
    _passing("trained_norm", Block, TrainedNorm),
    _passing("constrained", Constrained),
    _passing("tied_weights", tied_weights),
    _passing("float32_constant", Float32Constant, exact=False),
    _passing("float32_only", Float32Only, Mean, exact=False),
    _passing("score_of_each_token", Score),
    # Sizes that coincide: tokens, channels and heads; tokens and outputs; sets and tokens.
    _passing("all_of_8", lambda: Block(num_heads=8), example=lambda: torch.randn(8, 8, DIM)),
    _passing("pooled_to_7", lambda: DeepSets(out=NUM_TOKENS)),
    _passing(
        "same_number_of_sets_as_tokens",
        DeepSets,
        example=lambda: torch.randn(NUM_TOKENS, NUM_TOKENS, DIM),
    ),
    _passing("pooled_to_3", lambda: DeepSets(out=NUM_SETS)),
    _passing("causal", CausalBlock, CausalBlock, options={"causal": True}, laws=CAUSAL_LAWS),
    _passing(
        "left_padded_convolution",
        LeftPaddedConvolution,
        CausalBlock,
        options={"causal": True},
        laws=CAUSAL_LAWS,
    ),
]
