"""`BlockConfig`, the norms, residuals, activations and dropout of a net's blocks; further norms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tokennet.checks import check_made, checked
from tokennet.layer import TokenLayer
from tokennet.nets.block import PostNorm, Residual, SwiGLU, TokenWise, mlp


class BatchNorm(nn.BatchNorm1d):
    r"""Batch normalization of each channel over all tokens of all sets.

        out_id = g_d (z_id - mean_d) / sqrt(var_d + eps) + b_d

    Ioffe, Szegedy, 2015 (arXiv 1502.03167); the norm of `gin` and `gps`. Mean and variance are
    over all tokens; a ragged batch has no padding that could be counted.

    In training mode the statistics carry information from each token to all others, whatever
    the graph: the net is still equivariant, but sets of a batch depend on each other, and causal
    nets on later tokens. In eval mode it is a function of single tokens, and all laws hold. z
    has shape (..., N, D); arguments are those of `nn.BatchNorm1d`.

    >>> import torch
    >>> BatchNorm(8)(torch.randn(2, 5, 8)).mean((0, 1)).abs().max() < 1e-6
    tensor(True)
    """

    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z.flatten(0, -2)).view_as(z)


class Affine(nn.Module):
    """A factor and a shift for each channel, in place of a norm where no statistics are wanted.

    Touvron et al., 2021 (ResMLP, arXiv 2105.03404). z has shape (..., D).

    >>> Affine(3)(torch.ones(2, 3)).tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """

    @checked()
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, z: Tensor) -> Tensor:
        return self.weight * z + self.bias


class LayerScale(nn.Module):
    """A factor for each channel of a residual branch, small at the start, to train deep nets.

    Touvron et al., 2021 (arXiv 2103.17239). z has shape (..., D).

    >>> LayerScale(3, start=0.5)(torch.ones(3)).tolist()
    [0.5, 0.5, 0.5]
    """

    @checked()
    def __init__(self, dim: int, start: float = 1e-4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((dim,), start))

    def forward(self, z: Tensor) -> Tensor:
        return self.weight * z


@checked()
@dataclass(frozen=True)
class BlockConfig:
    """Norms, residual connections, activation and dropout of all blocks of a net.

    Use it to write a net of blocks, or as `config=` of a named architecture, in place of repeating
    `Residual` and `mlp` with the same options.

    >>> from tokennet import Attention
    >>> [type(layer).__name__ for layer in BlockConfig(post_norm=True).block([Attention(8, 2)], 8)]
    ['PostNorm', 'PostNorm']
    """

    post_norm: bool = False
    """norm(z + layer(z)) as in 2017, instead of z + layer(norm(z))."""
    norm: Callable[[int], nn.Module] = nn.LayerNorm
    """From the channels to a normalization, such as `BatchNorm`."""
    activation: Callable[[], nn.Module] = nn.GELU
    """Activation of the token-wise MLPs."""
    dropout: float = 0.0
    """On every residual branch and within the MLPs."""
    tokenwise: Callable[[int, int | None], TokenLayer] | None = None
    """From dim and hidden to the token-wise layer, such as experts; an MLP by default."""
    layer_scale: float | None = None
    """Initial value of a learned factor for each channel of a branch; None for no factor."""
    gated: bool = False
    """Whether the MLPs are `SwiGLU`, without biases and without dropout within."""

    def __post_init__(self) -> None:
        if self.gated and self.tokenwise is not None:
            raise ValueError(f"gated must be False where tokenwise is given, got {self.gated}")

    def around(self, layer: TokenLayer, dim: int) -> Residual:
        """The layer in a residual connection."""
        kind = PostNorm if self.post_norm else Residual
        scale = None if self.layer_scale is None else LayerScale(dim, self.layer_scale)
        norm = check_made("norm", self.norm, nn.Module, dim)
        return kind(layer, norm, self.dropout, scale)

    def block(
        self, mixers: Iterable[TokenLayer], dim: int, hidden: int | None = None
    ) -> list[TokenLayer]:
        """Mixers and then a token-wise MLP unless `hidden` is 0, each in a residual connection."""
        layers = list(mixers)
        if hidden != 0:
            layers.append(self._tokenwise(dim, hidden))
        return [self.around(layer, dim) for layer in layers]

    def _tokenwise(self, dim: int, hidden: int | None) -> TokenLayer:
        if self.tokenwise is not None:
            return check_made("tokenwise", self.tokenwise, TokenLayer, dim, hidden)
        if self.gated:
            return TokenWise(SwiGLU(dim, hidden, self.activation))
        return TokenWise(mlp(dim, hidden, self.dropout, self.activation))

    def stack(
        self,
        mixers: Callable[[], Iterable[TokenLayer]],
        dim: int,
        depth: int,
        hidden: int | None = None,
    ) -> list[TokenLayer]:
        """`depth` blocks, each of new mixers."""
        return [layer for _ in range(depth) for layer in self.block(mixers(), dim, hidden)]

    def final_norm(self, dim: int) -> list[TokenLayer]:
        """The norm after the last block, which pre-norm nets need."""
        return [] if self.post_norm else [TokenWise(self.norm(dim))]
