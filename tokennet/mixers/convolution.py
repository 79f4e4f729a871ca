"""Convolution along a sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokennet.checks import check_size, checked
from tokennet.graphs import Offsets, TokenGraph
from tokennet.layer import check_step
from tokennet.mixers.fixed_pattern import FixedPatternMixer
from tokennet.tokens import Tokens


class Convolution(FixedPatternMixer):
    r"""A convolution along a sequence, for local mixing: weights are parameters, tied by offset.

        out_i = \sum_k W_k z_{i + o_k} + b

    The offsets o_k are -r s, ..., -s, 0, s, ..., r s for `dilation` s and kernel size 2r + 1,
    or, where `causal`, 0 and those before it: the layer of a temporal convolutional network
    (Bai, Kolter, Koltun, 2018, arXiv 1803.01271). With `groups=dim` it is depthwise, W_k is
    diagonal, which suffices where token-wise functions of the net mix channels. Past the ends
    tokens count as 0, or the sequence is a ring. Equal to `nn.Conv1d` with the same weights.

    It needs a graph with the edges of `Offsets(n, offsets)`, such as `Window(n, r s)`, or
    `Causal(n)` where it is causal. Then it supports incremental decoding as well.

    Args:
        dim: channels D.
        kernel_size: number of offsets; odd unless `causal`.
        dilation: distance s between them.
        causal: whether a token attends only to itself and those before it.
        periodic: whether the sequence is a ring.
        groups: as in `nn.Conv1d`; `dim` for a depthwise convolution.
        bias: whether there is a b.

    Raises:
        ValueError: a kernel or dilation below 1, an even kernel that is not causal, a causal
            ring, a graph that lacks some of the edges, or a `source`.

    >>> from tokennet import Causal
    >>> layer = Convolution(8, kernel_size=3, dilation=4, causal=True)
    >>> layer(torch.zeros(2, 30, 8), graph=Causal(30)).shape
    torch.Size([2, 30, 8])
    """

    @checked()
    def __init__(
        self,
        dim: int,
        kernel_size: int = 3,
        *,
        dilation: int = 1,
        causal: bool = False,
        periodic: bool = False,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(dim)
        check_size("kernel_size", kernel_size, 1)
        check_size("dilation", dilation, 1)
        if causal and periodic:
            raise ValueError("causal and periodic exclude each other: a ring has no past")
        if not causal:
            check_odd(kernel_size)
        self.causal, self.periodic = causal, periodic
        self._reach, self._dilation = (kernel_size - 1) * dilation, dilation
        self.conv = nn.Conv1d(dim, dim, kernel_size, dilation=dilation, groups=groups, bias=bias)

    @property
    def before(self) -> int:
        """How far before a token the first is that it receives from."""
        return self._reach if self.causal else self._reach // 2

    @property
    def after(self) -> int:
        """How far after a token the last is that it receives from."""
        return 0 if self.causal else self._reach // 2

    @property
    def offsets(self) -> tuple[int, ...]:
        """Of the tokens that a token receives from."""
        return tuple(range(-self.before, self.after + 1, self._dilation))

    @property
    def pattern(self) -> tuple[Any, ...]:  # type: ignore[override]
        return (_offsets, self.offsets, self.periodic)

    def mix_set(self, z: Tensor, graph: TokenGraph) -> Tensor:
        return self._convolve(with_border(z, -2, self.before, self.after, self.periodic))

    def step(
        self, tokens: Tokens, graph: TokenGraph, state: Any = None, source: Any = None
    ) -> tuple[Tokens, Any]:
        """The tokens that later tokens attend to are the state."""
        if not self.causal:
            return super().step(tokens, graph, state, source)
        check_step(tokens, graph, self.dim)
        self.check_graph(graph)
        if state is None:
            state = tokens.z.new_zeros(*tokens.z.shape[:-2], self.before, self.dim)
        z = torch.cat([state, tokens.z], dim=-2)
        state = z[..., z.shape[-2] - self.before :, :]
        return tokens.replace(z=self._convolve(z)), state

    def _convolve(self, z: Tensor) -> Tensor:
        if z.shape[-2] <= self.before + self.after or z.numel() == 0:
            return z[..., :0, :] if z.numel() else z  # no tokens but the border
        # Tokens that are mixed lie `dilation` apart: as columns of a grid they are neighbors,
        # and channels stay last. Several times faster than `self.conv(z.mT)`.
        size, (dilation,) = z.shape[-2], self.conv.dilation
        columns = F.pad(z.reshape(-1, size, self.dim), (0, 0, 0, -size % dilation))
        out = F.conv2d(
            columns.unflatten(1, (-1, dilation)).permute(0, 3, 1, 2),  # (B, D, N / s, s)
            self.conv.weight[..., None],
            self.conv.bias,
            groups=self.conv.groups,
        )
        out = out.permute(0, 2, 3, 1).flatten(1, 2)[:, : size - self.before - self.after]
        return out.reshape(*z.shape[:-2], *out.shape[1:])

    def flops(self, tokens: Tokens) -> int:
        """2 D^2 / groups for each edge of the pattern."""
        return self.pattern_edges(tokens) * 2 * self.dim**2 // self.conv.groups


def _offsets(graph: TokenGraph, offsets: tuple[int, ...], periodic: bool) -> TokenGraph:
    return Offsets(graph.num_sources, offsets, periodic).last(graph.num_targets)


def check_odd(kernel_size: int) -> None:
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(
            f"kernel_size must be odd, so that a token is in the middle; got {kernel_size}"
        )


def with_border(z: Tensor, dim: int, before: int, after: int, periodic: bool) -> Tensor:
    """Lengthen a dimension, counted from the end, by zeros or by what a ring has there."""
    if z.numel() == 0:
        return z
    if not periodic:
        return F.pad(z, [*(-2 * dim - 2) * [0], before, after])
    size = z.shape[dim]
    return z.index_select(dim, torch.arange(-before, size + after, device=z.device) % size)


def convolve_grid(conv: nn.Conv2d, z: Tensor, shape: Any, radius: int, periodic: bool) -> Tensor:
    """Tokens (..., n, D) of a grid of this shape to (B, height, width, D), B in place of (...)."""
    image = z.unflatten(-2, shape)  # (..., height, width, D)
    for dim in (-2, -3):
        image = with_border(image, dim, radius, radius, periodic)
    out = conv(image.reshape(-1, *image.shape[-3:]).permute(0, 3, 1, 2))
    return out.permute(0, 2, 3, 1)
