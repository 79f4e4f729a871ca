"""Models of sets that obey every law."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.testing.planted.base import (
    DIM,
    HEADS,
    IN_ORDER,
    NODES,
    SETS,
    Block,
    Mean,
    Truthful,
    made,
    mlp,
    tensor,
)
from tests.testing.planted.causal import CausalBlock
from tests.testing.planted.lookalikes import (
    AcrossHeads,
    BestTokens,
    Chunked,
    ClassToken,
    Constrained,
    Coordinates,
    InPlace,
    Past,
    RandomFeatures,
    Registers,
    Score,
    SingleConstant,
    SingleOnly,
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
        self.attention = nn.MultiheadAttention(DIM, HEADS, dropout=0.1, batch_first=True)
        self.norm1, self.norm2, self.mlp = nn.LayerNorm(DIM), nn.LayerNorm(DIM), mlp()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        heard, _ = self.attention(x, x, x)
        x = self.norm1(x + self.dropout(heard))
        return self.norm2(x + self.dropout(self.mlp(x)))


class Gain(Block):
    """Scores so large that the softmax nearly chooses."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return super().attend(self.gain * q, self.gain * k, v, mask)


class Single(Block):
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


class Questions(nn.Module):
    """Attention of learned questions to the tokens, PMA (Lee et al., 2019, arXiv 1810.00825)."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.questions = nn.Parameter(torch.randn(1, count, DIM))
        self.attention = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
        self.norm, self.mlp = nn.LayerNorm(DIM), mlp()

    def forward(self, x: Tensor) -> Tensor:
        asked = self.questions.expand(x.shape[0], -1, -1)
        h = asked + self.attention(asked, x, x, need_weights=False)[0]
        return self.norm(h + self.mlp(h))


class InducedPoints(nn.Module):
    """Tokens listen to the answers to learned questions, ISAB of the Set Transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = Questions(3)
        self.attention = nn.MultiheadAttention(DIM, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        points = self.ask(x)
        return x + self.attention(x, points, points, need_weights=False)[0]


def loud(factor: float = 1.0, offset: float = 0.0) -> nn.Module:
    """A transformer whose last layer is large, or has a large bias, or is zero."""
    head = nn.Linear(DIM, 5)
    with torch.no_grad():
        head.weight.mul_(factor)
        head.bias.mul_(factor).add_(offset)
    return nn.Sequential(Block(), Block(), nn.LayerNorm(DIM), head)


def encoder(depth: int, **options: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(DIM, HEADS, 16, batch_first=True, **options)
    return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)


def tied_weights() -> nn.Module:
    block = Block()
    return nn.Sequential(block, block, copy.deepcopy(block))


def _scaled(factor: float) -> Callable[[], Tensor]:
    return lambda: factor * tensor()


def _truthful(
    name: str, *layers: Callable[[], nn.Module], example: Callable[[], Any] = tensor, **more: Any
) -> Truthful:
    def model() -> nn.Module:
        parts = [layer() for layer in layers]
        return parts[0] if len(parts) == 1 else nn.Sequential(*parts)

    return Truthful(name, made(model, example), **more)


SETS_OBEY = [
    _truthful("deep_sets", DeepSets),
    _truthful("set_layers", SetLayer, nn.ReLU, SetLayer, Mean),
    _truthful("pre_norm", Block, Block),
    _truthful("post_norm", PostNorm, PostNorm),
    _truthful("encoder", lambda: encoder(2)),
    _truthful("deep_encoder", lambda: encoder(24, norm_first=True)),
    _truthful("gain_10", Block, lambda: Gain(10**0.5)),
    _truthful("gain_20", Block, lambda: Gain(20**0.5)),
    _truthful("loud", lambda: loud(factor=1e4)),
    _truthful("offset", lambda: loud(offset=100.0)),
    _truthful("silent", lambda: loud(factor=0.0)),
    _truthful("large_input", Block, Block, example=_scaled(1e3)),
    _truthful("small_input", Block, Block, example=_scaled(1e-3)),
    _truthful("rms_norm_in_float32", RMSNorm, Block, RMSNorm, exact=False),
    _truthful("softmax_in_float32", Single, Single, exact=False),
    _truthful("class_token", ClassToken),
    _truthful("registers", Registers, Registers),
    _truthful("questions", Block, lambda: Questions(1), lambda: nn.Flatten(1)),
    _truthful("set_transformer", InducedPoints, InducedPoints, lambda: Questions(2)),
    _truthful("sorted_features", SortedFeatures),
    _truthful("best_tokens", Block, BestTokens),
    _truthful("sorted_and_back", Block, SortedAndBack, Block),
    _truthful("token_wise", mlp, lambda: nn.LayerNorm(DIM), mlp),
    _truthful("chunked", Block, Chunked),
    _truthful("in_place", Block, InPlace),
    _truthful("across_heads", AcrossHeads, Block),
    _truthful("coordinates", Coordinates),
    _truthful("random_features", RandomFeatures),
    _truthful("trained_norm", Block, TrainedNorm),
    _truthful("constrained", Constrained),
    _truthful("tied_weights", tied_weights),
    _truthful("single_constant", SingleConstant, exact=False),
    _truthful("single_only", SingleOnly, Mean, exact=False),
    _truthful("score_of_each", Score),
    # Sizes that coincide: tokens, channels and heads; tokens and outputs; sets and tokens.
    _truthful("all_of_8", lambda: Block(num_heads=8), example=lambda: torch.randn(8, 8, DIM)),
    _truthful("pooled_to_7", lambda: DeepSets(out=NODES)),
    _truthful("as_many_sets", DeepSets, example=lambda: torch.randn(NODES, NODES, DIM)),
    _truthful("pooled_to_3", lambda: DeepSets(out=SETS)),
    _truthful("causal", CausalBlock, CausalBlock, kwargs={"causal": True}, laws=IN_ORDER),
    _truthful("past", Past, CausalBlock, kwargs={"causal": True}, laws=IN_ORDER),
]
