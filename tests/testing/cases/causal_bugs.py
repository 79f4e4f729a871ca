"""Models that claim to be causal and depend on later tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.testing.cases.base import CAUSAL_LAWS, DIM, Block, InjectedBug, mlp, seeded, tensor


class CausalBlock(Block):
    """Without a bug: token i attends to 0 .. i."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class FiniteFuture(Block):
    """A finite number for the future, and scores that are not small beside it."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        n = q.shape[2]
        future = torch.ones(n, n, dtype=torch.bool, device=q.device).triu(1)
        bias = torch.zeros(n, n, dtype=q.dtype, device=q.device).masked_fill(future, -30.0)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=12.0)  # bug


class OffByOne(Block):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        allowed = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device)
        return F.scaled_dot_product_attention(  # bug
            q,
            k,
            v,
            attn_mask=allowed.tril(diagonal=1),
            dropout_p=0.0,
        )


class MaskAfterSoftmax(Block):
    """The future is removed from the weights, but stays in their normalizer."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)  # bug
        return weights.tril() @ v


class TopTokens(nn.Module):
    """Only the three tokens of highest score go through the expert (mixture of depths).

    Whether a token is chosen depends on those after it, and no gradient shows it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.router, self.expert = nn.Linear(DIM, 1), mlp()

    def forward(self, x: Tensor) -> Tensor:
        score = self.router(x)  # (B, N, 1)
        chosen = score >= score.topk(3, dim=1).values[:, -1:]  # bug
        return x + torch.where(chosen, self.expert(x), 0.0)


class CenteredConvolution(nn.Module):
    """Padding on both sides where it belongs on the left."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(DIM, DIM, kernel_size=3, padding="same")
        self.out = nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x.transpose(1, 2)).transpose(1, 2)  # bug
        return x + self.out(y.relu())


class BothWays(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(DIM, DIM, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.lstm(x)  # bug
        return x + self.out(h)


class SequenceGate(nn.Module):
    """Squeeze and excite over the whole sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(DIM, DIM), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x.mean(dim=1, keepdim=True))  # bug


def _causal(name: str, kind: type[nn.Module]) -> InjectedBug:
    make = seeded(lambda: nn.Sequential(CausalBlock(), kind(), CausalBlock()), tensor)
    return InjectedBug(name, make, "causality", {"causal": True}, laws=CAUSAL_LAWS)


READS_FUTURE = [
    _causal("finite_mask_of_the_future", FiniteFuture),
    _causal("mask_off_by_one", OffByOne),
    _causal("future_in_the_normalizer", MaskAfterSoftmax),
    _causal("top_tokens", TopTokens),
    _causal("centered_convolution", CenteredConvolution),
    _causal("both_ways", BothWays),
    _causal("gate_of_the_sequence", SequenceGate),
]
