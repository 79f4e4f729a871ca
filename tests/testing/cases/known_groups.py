"""Models whose group of permutations of the tokens is known, for tests of `discover_group`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tokennet import TokenNet
from tokennet.nets import IOSpec, build_net


def token_net(
    mixer: str = "attention",
    readout: str = "token",
    positions: str = "none",
    num_tokens: int | None = None,
) -> TokenNet:
    spec = IOSpec(4, 3, readout, num_tokens)
    return build_net(mixer, spec, 16, 2, num_heads=2, positions=positions)


class TwoKinds(nn.Module):
    """A set transformer that embeds its first tokens as another kind than the others."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first, self.kinds, self.net = first, nn.Embedding(2, 4), token_net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + self.kinds((torch.arange(x.shape[-2]) < self.first).long()))


class Blocks(nn.Module):
    """Tokens in blocks: means of the blocks, a function of each mean, and the mean of these."""

    def __init__(self, blocks: int, size: int) -> None:
        super().__init__()
        self.shape, self.inner, self.outer = (blocks, size), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        blocks = x.unflatten(-2, self.shape)  # (..., blocks, size, 4)
        means = blocks.mean(-2, keepdim=True)
        overall = self.outer(means).tanh().mean(-3, keepdim=True)
        return (self.inner(blocks).sin() * means + overall * blocks).flatten(-3, -2)


class CircularConv(nn.Module):
    def __init__(self, symmetric: bool = False) -> None:
        super().__init__()
        self.weight, self.symmetric = nn.Parameter(torch.randn(3, 4, 5)), symmetric

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight + self.weight.flip(-1) if self.symmetric else self.weight
        padded = nn.functional.pad(x.mT, (2, 2), mode="circular")
        return nn.functional.conv1d(padded, weight).mT.tanh()


KNOWN_GROUPS: dict[str, tuple[Callable[[], nn.Module], int, str]] = {
    "set transformer": (lambda: token_net(), 32, "S_32"),
    "pooled set transformer": (lambda: token_net(readout="mean"), 32, "S_32"),
    "two kinds of tokens": (lambda: TwoKinds(8), 32, "S_8 x S_24"),
    "circular convolution": (CircularConv, 32, "C_32"),
    "symmetric circular convolution": (lambda: CircularConv(True), 32, "D_32"),
    "positional table": (lambda: token_net(positions="index", num_tokens=12), 12, "trivial"),
    "MLP-Mixer": (lambda: token_net("mlp", num_tokens=12), 12, "trivial"),
    "means of means": (lambda: Blocks(8, 4), 32, "S_4 wr S_8"),
    "means of few means": (lambda: Blocks(2, 3), 6, "S_3 wr S_2"),
    "128 tokens": (lambda: token_net(), 128, "S_128"),
    "128 tokens around a circle": (CircularConv, 128, "C_128"),
}
"""Name: model, number of tokens, and the name of the group."""
