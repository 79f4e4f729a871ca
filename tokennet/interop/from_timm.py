"""Models of timm as nets of layers, with their weights; timm is not imported here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from tokennet.interop.copy import (
    copy_attention,
    copy_mlp,
    copy_norm,
    copy_parameter,
    copy_weight,
    like,
)
from tokennet.nets import mlp_mixer, vit


def from_timm(model: Any) -> Any:
    """A model of timm as a net over patches (..., N, C x P x P), with a copy of its weights.

    `VisionTransformer` with a class token (`vit_*`) and `MlpMixer` (`mixer_*`).

    Raises:
        TypeError: no such model.
        ValueError: a variant that the net cannot follow.
    """
    kind = type(model).__name__
    if kind not in CONVERTERS:
        raise TypeError(f"model must be one of {', '.join(CONVERTERS)}; got {kind}")
    return like(CONVERTERS[kind](model), model)


def _vit(model: Any) -> nn.Module:
    extra = [name for name in ("reg_token",) if getattr(model, name, None) is not None]
    extra += [name for name in ("norm_pre", "fc_norm") if list(getattr(model, name).children())]
    if model.cls_token is None or model.global_pool != "token" or extra or model.no_embed_class:
        raise ValueError(
            "model must be a VisionTransformer read at its class token, with nothing besides; "
            f"got global_pool={model.global_pool!r} and {extra}"
        )
    patch, first = model.patch_embed.proj, model.blocks[0]
    net = vit(
        patch.weight[0].numel(),
        model.head.out_features,
        model.pos_embed.shape[1] - 1,
        model.embed_dim,
        len(model.blocks),
        first.attn.num_heads,
        hidden=first.mlp.fc1.out_features,
    )
    layers: Any = net.layers
    copy_weight(layers[1].fn, patch.weight.flatten(1), patch.bias)
    copy_parameter(layers[2].vectors, model.cls_token[0])
    copy_parameter(layers[3].tables[0].weight, model.pos_embed[0])
    for number, block in enumerate(model.blocks):
        mixing, function = layers[4 + 2 * number : 6 + 2 * number]
        qkv, out = block.attn.qkv, block.attn.proj
        biases = [None] * 3 if qkv.bias is None else qkv.bias.chunk(3)
        copy_norm(mixing.norm, block.norm1)
        copy_attention(mixing.layer, [*qkv.weight.chunk(3), out.weight], [*biases, out.bias])
        copy_norm(function.norm, block.norm2)
        copy_mlp(function.layer.fn, block.mlp.fc1, block.mlp.fc2)
    _copy_end(net, model)
    return net


def _mixer(model: Any) -> nn.Module:
    patch, first = model.stem.proj, model.blocks[0]
    net = mlp_mixer(
        patch.weight[0].numel(),
        model.head.out_features,
        first.mlp_tokens.fc1.in_features,
        patch.out_channels,
        len(model.blocks),
        token_hidden=first.mlp_tokens.fc1.out_features,
        hidden=first.mlp_channels.fc1.out_features,
    )
    layers: Any = net.layers
    copy_weight(layers[1].fn, patch.weight.flatten(1), patch.bias)
    for number, block in enumerate(model.blocks):
        mixing, function = layers[2 + 2 * number : 4 + 2 * number]
        copy_norm(mixing.norm, block.norm1)
        copy_mlp(mixing.layer.net, block.mlp_tokens.fc1, block.mlp_tokens.fc2)
        copy_norm(function.norm, block.norm2)
        copy_mlp(function.layer.fn, block.mlp_channels.fc1, block.mlp_channels.fc2)
    _copy_end(net, model)
    return net


def _copy_end(net: Any, model: Any) -> None:
    copy_norm(net.readout.norm, model.norm)
    copy_weight(net.readout.head, model.head.weight, model.head.bias)


CONVERTERS: dict[str, Callable[[Any], nn.Module]] = {
    "VisionTransformer": _vit,
    "MlpMixer": _mixer,
}
