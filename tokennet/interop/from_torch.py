"""Transformers of `torch.nn` as nets of layers, with their weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.nn import functional

from tokennet.interop.copy import copy_attention, copy_mlp, copy_norm, like
from tokennet.layer import TokenLayer
from tokennet.mixers import Attention, CrossAttention
from tokennet.nets import EncoderDecoder, Style, TokenNet, TokenWise


def from_torch(module: nn.Module) -> Any:
    """A module of `torch.nn` as layers of tokens, with a copy of its weights.

    `nn.MultiheadAttention` becomes an `Attention`; `nn.TransformerEncoder` and
    `nn.TransformerDecoder` a `TokenNet`; `nn.Transformer` an `EncoderDecoder`. Masks become
    graphs: a causal mask is `Causal(n)`, padding is left out in a ragged batch. Dropout of
    attention weights is not there.

    Raises:
        TypeError: no such module.
        ValueError: keys or values of other channels, or learned extra keys.

    >>> import torch
    >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> net = from_torch(nn.TransformerEncoder(layer, 2))
    >>> net(torch.zeros(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """
    for kind, convert in CONVERTERS.items():
        if isinstance(module, kind):
            return like(convert(module), module)
    names = ", ".join(kind.__name__ for kind in CONVERTERS)
    raise TypeError(f"module must be one of {names}; got {type(module).__name__}")


def _attention(module: Any, kind: type[Attention] = Attention) -> Attention:
    if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
        raise ValueError(
            "module must have keys and values of embed_dim channels, without bias_k or "
            f"add_zero_attn; got {module}"
        )
    ours = kind(module.embed_dim, module.num_heads, bias=module.in_proj_bias is not None)
    biases = [None] * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    weights = [*module.in_proj_weight.chunk(3), module.out_proj.weight]
    copy_attention(ours, weights, [*biases, module.out_proj.bias])
    return ours


def _stack(module: Any) -> TokenNet:
    layers: list[TokenLayer] = []
    for layer in module.layers:
        mixers = [_attention(layer.self_attn)]
        norms = [layer.norm1, layer.norm2]
        if hasattr(layer, "multihead_attn"):
            mixers.append(_attention(layer.multihead_attn, CrossAttention))
            norms.append(layer.norm3)
        layers += _block(layer, mixers, norms)
    if module.norm is not None:
        norm = nn.LayerNorm(module.norm.normalized_shape)
        copy_norm(norm, module.norm)
        layers.append(TokenWise(norm))
    return TokenNet(layers)


def _block(layer: Any, mixers: Sequence[Attention], norms: list[Any]) -> list[TokenLayer]:
    style = Style(
        post_norm=not layer.norm_first,
        activation=_activation(layer.activation),
        dropout=layer.dropout1.p,
    )
    block: list[Any] = style.block(mixers, mixers[0].dim, layer.linear1.out_features)
    for ours, norm in zip(block, norms, strict=True):
        copy_norm(ours.norm, norm)
    copy_mlp(block[-1].layer.fn, layer.linear1, layer.linear2)
    return block


def _activation(activation: Any) -> Callable[[], nn.Module]:
    if isinstance(activation, nn.Module):
        return lambda: copy.deepcopy(activation)
    known = {functional.relu: nn.ReLU, functional.gelu: nn.GELU}
    if activation not in known:
        raise ValueError(f"activation must be relu, gelu or a module, got {activation!r}")
    return known[activation]


def _transformer(module: Any) -> EncoderDecoder:
    return EncoderDecoder(_stack(module.encoder), _stack(module.decoder))


CONVERTERS: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    nn.MultiheadAttention: _attention,
    nn.TransformerEncoder: _stack,
    nn.TransformerDecoder: _stack,
    nn.Transformer: _transformer,
}
