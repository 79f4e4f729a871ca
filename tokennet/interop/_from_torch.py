"""`from_torch`: transformers of `torch.nn` as nets of layers, with their weights."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from torch import nn
from torch.nn import functional

from tokennet.interop.copy import Converters, Copier, convert, expect_kind
from tokennet.layer import TokenLayer
from tokennet.mixers import Attention, CrossAttention
from tokennet.nets import BlockConfig, EncoderDecoder, TokenNet, TokenWise


def from_torch(module: nn.Module) -> Any:
    """A module of `torch.nn` as layers of tokens, with a copy of its weights.

    Use it to put a trained module on a graph: `nn.MultiheadAttention` becomes an `Attention`;
    `nn.TransformerEncoder` and `nn.TransformerDecoder` a `TokenNet`; `nn.Transformer` an
    `EncoderDecoder`. Masks become graphs: a causal mask is `Causal(n)`, a padded batch is a
    ragged batch. The net has no dropout of attention weights.

    Raises:
        TypeError: another kind of module.
        ValueError: keys or values of other channels, learned extra keys, other norms, or a
            parameter that the layers do not have.

    >>> import torch
    >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> net = from_torch(nn.TransformerEncoder(layer, 2))
    >>> net(torch.zeros(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """
    return convert("module", module, CONVERTERS, subclasses=True)


def _attention(module: Any, copy: Copier, kind: type[Attention] = Attention) -> Attention:
    if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
        raise ValueError(
            "module must have keys and values of embed_dim channels, without bias_k or "
            f"add_zero_attn; got {module}"
        )
    ours = kind(module.embed_dim, module.num_heads, bias=module.in_proj_bias is not None)
    biases = [None] * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    weights = [*module.in_proj_weight.chunk(3), module.out_proj.weight]
    copy.attention(ours, weights, [*biases, module.out_proj.bias])
    return ours


def _stack(module: Any, copy: Copier) -> TokenNet:
    layers: list[TokenLayer] = []
    for layer in module.layers:
        mixers: list[Attention] = [_attention(layer.self_attn, copy)]
        norms = [layer.norm1, layer.norm2]
        if hasattr(layer, "multihead_attn"):
            mixers.append(_attention(layer.multihead_attn, copy, CrossAttention))
            norms.append(layer.norm3)
        config = BlockConfig(
            post_norm=not layer.norm_first,
            activation=_activation(layer.activation, copy),
            dropout=layer.dropout1.p,
        )
        block: list[Any] = config.block(mixers, mixers[0].dim, layer.linear1.out_features)
        for ours, norm in zip(block, norms, strict=True):
            copy.norm(ours.norm, norm)
        copy.mlp(block[-1].layer.fn, layer.linear1, layer.linear2)
        layers += block
    if module.norm is not None:
        expect_kind("norm", module.norm, nn.LayerNorm)
        norm = nn.LayerNorm(module.norm.normalized_shape)
        copy.norm(norm, module.norm)
        layers.append(TokenWise(norm))
    return TokenNet(layers)


def _activation(activation: Any, copy: Copier) -> Callable[[], nn.Module]:
    if isinstance(activation, nn.Module):
        for parameter in activation.parameters():
            copy.mark(parameter)
        return lambda: deepcopy(activation)
    known = {functional.relu: nn.ReLU, functional.gelu: nn.GELU}
    if activation not in known:
        raise ValueError(f"activation must be relu, gelu or a module, got {activation!r}")
    return known[activation]


def _transformer(module: Any, copy: Copier) -> EncoderDecoder:
    return EncoderDecoder(_stack(module.encoder, copy), _stack(module.decoder, copy))


CONVERTERS: Converters = {
    "MultiheadAttention": _attention,
    "TransformerEncoder": _stack,
    "TransformerDecoder": _stack,
    "Transformer": _transformer,
}
