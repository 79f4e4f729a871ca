"""Token-wise functions and residual connections: the parts of a block around its mixer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tokennet.checks import check_made, checked
from tokennet.graphs import TokenGraph
from tokennet.layer import TokenLayer, check_channels, check_layer
from tokennet.tokens import Tokens


class TokenWise(TokenLayer):
    """The same function on every token: (..., N, D) to (..., N, D').

    Use it to put any module of the last dimension, such as `nn.Linear` or `mlp(dim)`, into a
    net. It does not mix tokens.

    Args:
        fn: a module or function on the last dimension that does not depend on the others.

    Raises:
        ValueError: tokens of another number of channels than a linear `fn` has.

    >>> import torch
    >>> TokenWise(nn.Linear(4, 6))(torch.zeros(2, 3, 4)).shape
    torch.Size([2, 3, 6])
    """

    is_tokenwise = True

    @checked()
    def __init__(self, fn: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fn = fn

    @property
    def in_features(self) -> int | None:
        """The number of channels that `fn` accepts; None where it does not say so."""
        fn = self.fn
        parts = fn._modules.values() if isinstance(fn, nn.Sequential) else [fn]
        first = next((part for part in parts if type(part) is not nn.Dropout), None)
        return first.in_features if type(first) is nn.Linear else None

    def transform(self, tokens: Tokens) -> Tokens:
        in_features = self.in_features
        if in_features is not None:
            check_channels(tokens.z, in_features)
        return tokens.replace(z=self.fn(tokens.z))


@checked(hidden=0)
def mlp(
    dim: int,
    hidden: int | None = None,
    dropout: float = 0.0,
    activation: Callable[[], nn.Module] = nn.GELU,
    bias: bool = True,
) -> nn.Sequential:
    """The usual token-wise function: Linear, GELU, Linear, with `hidden = 4 dim`.

    >>> [type(part).__name__ for part in mlp(8, activation=nn.ReLU)]
    ['Linear', 'ReLU', 'Dropout', 'Linear']
    """
    hidden = 4 * dim if hidden is None else hidden
    between = check_made("activation", activation, nn.Module), nn.Dropout(dropout)
    return nn.Sequential(nn.Linear(dim, hidden, bias), *between, nn.Linear(hidden, dim, bias))


class QuickGELU(nn.Module):
    r"""z sigmoid(1.702 z), an approximation of GELU, as CLIP was trained with (arXiv 1606.08415).

    >>> QuickGELU()(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([-0.1542,  0.0000,  0.8458])
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, z: Tensor) -> Tensor:
        return z * torch.sigmoid(1.702 * z)


class SwiGLU(nn.Module):
    r"""A token-wise function with a gate: W_2 (activation(W_1 z) * W_3 z).

    With SiLU it is the SwiGLU of Llama, with GELU the GeGLU of Gemma and ModernBERT; Shazeer, 2020
    (arXiv 2002.05202). z has shape (..., D).

    Args:
        dim: D, of tokens and output.
        hidden: size between; by default 8 / 3 of `dim`, for the number of weights of `mlp`.
        activation: of the gate.
        bias: whether the linear maps have a bias.

    >>> import torch
    >>> SwiGLU(6)(torch.zeros(2, 6)).shape
    torch.Size([2, 6])
    """

    @checked()
    def __init__(
        self,
        dim: int,
        hidden: int | None = None,
        activation: Callable[[], nn.Module] = nn.SiLU,
        bias: bool = False,
    ) -> None:
        super().__init__()
        hidden = 8 * dim // 3 if hidden is None else hidden
        self.gate, self.up = nn.Linear(dim, hidden, bias), nn.Linear(dim, hidden, bias)
        self.activation = check_made("activation", activation, nn.Module)
        self.down = nn.Linear(hidden, dim, bias)

    def forward(self, z: Tensor) -> Tensor:
        return self.down(self.activation(self.gate(z)) * self.up(z))


class Residual(TokenLayer):
    """Pre-norm residual connection: z + layer(norm(z)).

    Use it around each mixer and token-wise function of a net that is trained from scratch: the
    form of Xiong et al., 2020 (arXiv 2002.04745).

    Args:
        layer: a mixer or token-wise layer, or a net of several without a readout; `source` and
            `graph` are passed on to it.
        norm: a token-wise normalization such as `nn.LayerNorm(dim)`, or None.
        dropout: probability of dropping a channel of the layer's output in training.
        scale: a function of the layer's output, such as `LayerScale(dim)`, or None.

    >>> import torch
    >>> layer = Residual(TokenWise(mlp(8)), nn.LayerNorm(8))
    >>> layer(torch.zeros(3, 8)).shape
    torch.Size([3, 8])
    """

    symmetry = property(lambda self: self.layer.symmetry)  # type: ignore[assignment]
    source_symmetry = property(lambda self: self.layer.source_symmetry)  # type: ignore[assignment]
    takes_source = property(lambda self: self.layer.takes_source)  # type: ignore[assignment]
    needs_source = property(lambda self: self.layer.needs_source)  # type: ignore[assignment]
    is_tokenwise = property(lambda self: self.layer.is_tokenwise)  # type: ignore[assignment]

    @checked()
    def __init__(
        self,
        layer: Any,
        norm: nn.Module | None = None,
        dropout: float = 0.0,
        scale: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_layer("layer", layer)
        self.layer = layer
        self.norm = nn.Identity() if norm is None else norm
        self.scale = nn.Identity() if scale is None else scale
        self.dropout = nn.Dropout(dropout)

    def transform(self, tokens: Tokens, **context: Any) -> Tokens:
        return self._add(tokens, self.layer(self._normalize(tokens), **context))

    def step(
        self, tokens: Tokens, graph: TokenGraph, state: Any = None, source: Any = None
    ) -> tuple[Tokens, Any]:
        update, state = self.layer.step(self._normalize(tokens), graph, state, source)
        return self._add(tokens, update), state

    def _normalize(self, tokens: Tokens) -> Tokens:
        return tokens.replace(z=self.norm(tokens.z))

    def _add(self, tokens: Tokens, update: Tokens) -> Tokens:
        return tokens.replace(z=tokens.z + self.dropout(self.scale(update.z)))

    def flops(self, tokens: Tokens, *source: Any) -> int:
        return self.layer.flops(tokens, *source)


class PostNorm(Residual):
    """Post-norm residual connection: norm(z + layer(z)).

    Use it to reproduce nets before 2020, such as BERT: the form of Vaswani et al., 2017
    (arXiv 1706.03762). Arguments as for `Residual`.

    >>> import torch
    >>> layer = PostNorm(TokenWise(mlp(8)), nn.LayerNorm(8))
    >>> layer(torch.randn(3, 8)).mean(-1).abs().max() < 1e-6
    tensor(True)
    """

    def _normalize(self, tokens: Tokens) -> Tokens:
        return tokens

    def _add(self, tokens: Tokens, update: Tokens) -> Tokens:
        return super()._normalize(super()._add(tokens, update))
