"""`copy_blocks`: the weights of a stack of transformer blocks, by the names of their parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from tokennet.interop.copy import Copier, expect_kind
from tokennet.nets import OnGraph, SwiGLU


class Block(NamedTuple):
    """Names of the parts of a block in another library, from the block on.

    >>> Block(("norm1", "norm2"), ("attn.qkv", "attn.proj"), ("mlp.fc1", "mlp.fc2")).norms
    ('norm1', 'norm2')
    """

    norms: tuple[str, ...]
    """Of the attention, of that to a source, and of the function, before them or after."""
    attention: tuple[str, ...]
    """Maps to queries, keys and values and back; or one map to all three, and that back."""
    function: tuple[str, ...]
    """Both maps; with a gate those of gate, values and back, or one to both, and that back."""
    scales: tuple[str, str] | None = None
    """Parameters of `LayerScale`."""
    qk_norms: tuple[str, str] | None = None
    """Norms of queries and keys, where the attention has them."""
    cross: tuple[str, ...] = ()
    """Maps of the attention to a source, where a block has one."""


def copy_blocks(
    copy: Copier, layers: Sequence[Any], blocks: Iterable[nn.Module], names: Block
) -> None:
    """Weights of blocks into their layers: residual attention, to a source too, and function."""
    groups = zip(*[iter(layers)] * len(names.norms), strict=True)
    for (mixing, *reading, function), block in zip(groups, blocks, strict=True):
        for layer, norm in zip((mixing, *reading, function), names.norms, strict=True):
            copy_norm(copy, layer.norm, block.get_submodule(norm))
        attention = mixing.layer.layer if isinstance(mixing.layer, OnGraph) else mixing.layer
        copy_attention(copy, attention, block, names.attention)
        for layer in reading:
            copy_attention(copy, layer.layer, block, names.cross)
        if attention.q_norm is not None and names.qk_norms is not None:
            norms = attention.q_norm, attention.k_norm
            for norm, name in zip(norms, names.qk_norms, strict=True):
                copy_norm(copy, norm, block.get_submodule(name))
        copy_function(copy, function.layer.fn, block, names.function)
        if names.scales is not None:
            for layer, scale in zip((mixing, function), names.scales, strict=True):
                copy.parameter(layer.scale.weight, block.get_parameter(scale))
        copy.pair(function, block)


def copy_norm(copy: Copier, to: nn.Module, norm: Any) -> None:
    """Whatever norm the net has; where it has none, the model must have none."""
    if isinstance(to, nn.Identity):
        expect_kind("norm", norm, nn.Identity)
    elif isinstance(to, nn.RMSNorm):
        copy.rms_norm(to, norm)
    else:
        copy.norm(to, norm)


def copy_attention(copy: Copier, to: Any, block: nn.Module, names: Sequence[str]) -> None:
    """The maps of an attention."""
    *maps, out = (_weights(block.get_submodule(name)) for name in names)
    if len(maps) == 1:
        [(weight, bias)] = maps
        biases = [None] * 3 if bias is None else bias.chunk(3)
        maps = list(zip(weight.chunk(3), biases, strict=True))
    weights, of_maps = zip(*maps, out, strict=True)
    copy.attention(to, weights, of_maps)


def copy_function(copy: Copier, to: Any, block: nn.Module, names: Sequence[str]) -> None:
    """The maps of an MLP or a `SwiGLU`."""
    maps = [_weights(block.get_submodule(name)) for name in names]
    if not isinstance(to, SwiGLU):
        targets = [to[0], to[-1]]
    else:
        targets = [to.gate, to.up, to.down]
        if len(maps) == 2:
            weight, bias = maps[0]
            biases = [None] * 2 if bias is None else bias.chunk(2)
            maps = [*zip(weight.chunk(2), biases, strict=True), maps[1]]
    for target, (weight, bias) in zip(targets, maps, strict=True):
        copy.weight(target, weight, bias)


def copy_readout(copy: Copier, to: Any, norm: Any, head: Any) -> None:
    """Norm and linear layer of a readout; where the model has no head, the net has none."""
    if isinstance(head, nn.Identity):
        copy.norm(to.norm, norm)
        to.head = nn.Identity()
    else:
        copy.readout(to, norm, head)


def _weights(linear: Any) -> tuple[Tensor, Any]:
    """Weight (out, in) and bias; those of GPT-2 are (in, out)."""
    if type(linear).__name__ == "Conv1D":
        return linear.weight.T, linear.bias
    expect_kind("linear layer", linear, nn.Linear)
    return linear.weight, linear.bias
