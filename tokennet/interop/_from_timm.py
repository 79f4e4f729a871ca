"""`from_timm`: models of timm (not imported here) as nets of layers, with their weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from tokennet.interop.blocks import Block, copy_blocks, copy_readout
from tokennet.interop.convert import Converter, Converters, convert
from tokennet.interop.copy import Copier, expect_kind, expect_same
from tokennet.interop.verify import Inputs, Run
from tokennet.models import mlp_mixer, poolformer, resample_positions, resmlp, vit
from tokennet.models.vision import swiglu_with_bias
from tokennet.nets import BlockConfig
from tokennet.tokenizers import Patches


def from_timm(
    model: Any,
    *,
    resample: tuple[int, int] | None = None,
    verify: bool = True,
    verify_dtype: torch.dtype = torch.float64,
) -> Any:
    """A model of timm as a net over patches (..., N, C x P x P), with a copy of its weights.

    Use it to run, check or draw a pretrained model with this library: `VisionTransformer` with a
    class token (`vit_*`, `deit3_*`, `vit_*_dinov2`; without a head it returns the class token),
    `MlpMixer` (`mixer_*`, `resmlp_*`) and the `MetaFormer` that pools (`poolformer_*`). The patches
    of the last overlap and are on a `Grid`: `Patches(7, stride=4)` of images with a border of
    zeros, see `poolformer`. The net has no dropout and no stochastic depth.

    Copies of both are run on random images in eval mode and compared. `model` stays as it is.

    Args:
        model: of one of these classes, without parts of packages besides timm and torch.
        resample: the grid of patches, (rows, columns), that the net is for; by default that of
            the model. The table of a vision transformer is resampled after the comparison, as
            timm does, see `resample_positions`.
        verify: whether both are compared; `net.conversion` says whether they were.
        verify_dtype: as for `from_torch`.

    Raises:
        TypeError: another kind of model.
        ValueError: a variant that the net does not support, such as blocks that differ in
            heads; a subclass or hooks inside; or the net gives other outputs.

    >>> from_timm(nn.Linear(2, 2))
    Traceback (most recent call last):
    TypeError: model must be one of VisionTransformer, MlpMixer, MetaFormer; got Linear
    """
    options = {"verify": verify, "verify_dtype": verify_dtype}
    net = convert("model", model, "timm", CONVERTERS, **options)  # type: ignore[arg-type]
    return net if resample is None else resample_positions(net, resample)


BLOCK = Block(
    norms=("norm1", "norm2"), attention=("attn.qkv", "attn.proj"), function=("mlp.fc1", "mlp.fc2")
)


def _vit(model: Any, copy: Copier) -> nn.Module:
    """ViT, DeiT III and DINOv2."""
    _check_vit(model)
    first = model.blocks[0]
    gated, scaled = _is_gated(first), hasattr(first.ls1, "gamma")
    registers = 0 if model.reg_token is None else model.reg_token.shape[1]
    function = swiglu_with_bias if gated else None
    net = vit(
        model.patch_embed.proj.weight[0].numel(),
        getattr(model.head, "out_features", 1),
        tuple(model.patch_embed.grid_size),
        model.embed_dim,
        len(model.blocks),
        first.attn.num_heads,
        hidden=first.mlp.fc2.in_features,
        registers=registers,
        class_position=not model.no_embed_class,
        config=BlockConfig(layer_scale=1.0 if scaled else None, tokenwise=function),
    )
    layers: Any = net.layers
    copy.linear(layers[1].fn, model.patch_embed.proj)
    table, prepend = layers[2:4] if model.no_embed_class else layers[3:1:-1]
    copy.parameter(prepend.vectors, model.cls_token[0])
    copy.parameter(table.tables[0].weight, model.pos_embed[0])
    if registers:
        copy.parameter(layers[4].vectors, model.reg_token[0])
    names = BLOCK._replace(scales=("ls1.gamma", "ls2.gamma") if scaled else None)
    copy_blocks(copy, layers[5 if registers else 4 :], model.blocks, names)
    copy_readout(copy, net.readout, model.norm, model.head)
    return net


def _is_gated(block: Any) -> bool:
    return type(block.mlp).__name__ == "GluMlp"


def _check_vit(model: Any) -> None:
    parts = "norm_pre", "fc_norm"
    extra = [name for name in parts if not isinstance(getattr(model, name), nn.Identity)]
    if model.cls_token is None or model.global_pool != "token" or extra:
        raise ValueError(
            "model must be a VisionTransformer read from its class token, without further parts; "
            f"got global_pool={model.global_pool!r} and {extra}"
        )
    if model.reg_token is not None and not model.no_embed_class:
        raise ValueError("no_embed_class of the model must be True where it has registers")
    for block in model.blocks:
        if type(block).__name__ != "Block":
            raise ValueError(f"blocks of the model must be Block, got {type(block).__name__}")
        _check_activation(block.mlp, nn.SiLU if _is_gated(block) else nn.GELU)
    expect_same("num_heads of blocks", [block.attn.num_heads for block in model.blocks])
    expect_kind("pos_embed", model.pos_embed, nn.Parameter)
    expect_kind("head", model.head, nn.Linear, nn.Identity)


def _mixer(model: Any, copy: Copier) -> nn.Module:
    patch, first = model.stem.proj, model.blocks[0]
    expect_kind("head", model.head, nn.Linear)
    if model.global_pool != "avg":
        raise ValueError(f"model.global_pool must be 'avg', got {model.global_pool!r}")
    if hasattr(first, "linear_tokens"):
        return _resmlp(model, copy)
    if not hasattr(first, "mlp_tokens"):
        raise ValueError(f"model must have blocks of MLP-Mixer or ResMLP, got {type(first)}")
    net = mlp_mixer(
        patch.weight[0].numel(),
        model.head.out_features,
        tuple(model.stem.grid_size),
        patch.out_channels,
        len(model.blocks),
        token_hidden=first.mlp_tokens.fc1.out_features,
        hidden=first.mlp_channels.fc1.out_features,
    )
    layers: Any = net.layers
    copy.linear(layers[1].fn, patch)
    for mixing, function, block in zip(layers[2::2], layers[3::2], model.blocks, strict=True):
        copy.norm(mixing.norm, block.norm1)
        _copy_mlp(copy, mixing.layer.net, block.mlp_tokens)
        copy.norm(function.norm, block.norm2)
        _copy_mlp(copy, function.layer.fn, block.mlp_channels)
        copy.pair(function, block)
    copy.readout(net.readout, model.norm, model.head)
    return net


def _resmlp(model: Any, copy: Copier) -> nn.Module:
    patch, first = model.stem.proj, model.blocks[0]
    net = resmlp(
        patch.weight[0].numel(),
        model.head.out_features,
        tuple(model.stem.grid_size),
        patch.out_channels,
        len(model.blocks),
        hidden=first.mlp_channels.fc1.out_features,
    )
    layers: Any = net.layers
    copy.linear(layers[1].fn, patch)
    for mixing, function, block in zip(layers[2::2], layers[3::2], model.blocks, strict=True):
        copy.linear(mixing.layer.linear, block.linear_tokens)
        _copy_mlp(copy, function.layer.fn, block.mlp_channels)
        _copy_affine(copy, mixing.norm, block.norm1)
        copy.parameter(mixing.scale.weight, block.ls1)
        _copy_affine(copy, function.norm, block.norm2)
        copy.parameter(function.scale.weight, block.ls2)
        copy.pair(function, block)
    readout: Any = net.readout
    _copy_affine(copy, readout.norm, model.norm)
    copy.linear(readout.head, model.head)
    return net


def _poolformer(model: Any, copy: Copier) -> nn.Module:
    blocks = [list(stage.blocks) for stage in model.stages]
    expect_kind("downsample_norm", model.stem.norm, nn.Identity)
    expect_kind("head", model.head.fc, nn.Linear)
    for block in [block for stage in blocks for block in stage]:
        expect_kind("norm", block.norm1, nn.GroupNorm)
        if not hasattr(block.token_mixer, "pool") or not hasattr(block.layer_scale1, "scale"):
            raise ValueError(f"model must pool and scale its branches, got blocks {block!r}")
        pool = block.token_mixer.pool
        if pool.kernel_size not in (3, (3, 3)):
            raise ValueError(f"pool of the model must be of 3 x 3 patches, got {pool!r}")
    dims = [stage[0].norm1.num_channels for stage in blocks]
    if any(isinstance(stage.downsample, nn.Identity) for stage in model.stages[1:]):
        raise ValueError(f"dims of the model must differ from stage to stage, got {dims}")
    depths = [len(stage) for stage in blocks]
    stem = model.stem.conv
    net = poolformer(stem.weight[0].numel(), model.head.fc.out_features, dims, depths)
    layers: Any = iter(net.layers)
    copy.linear(next(layers).fn, stem)
    for number, (stage, inside) in enumerate(zip(model.stages, blocks, strict=True)):
        if number:
            down = stage.downsample.conv
            copy.weight(next(layers).conv, down.weight, down.bias)
        for block in inside:
            pooling, function = next(layers), next(layers)
            _copy_set_norm(copy, pooling, block.norm1, block.layer_scale1)
            _copy_set_norm(copy, function, block.norm2, block.layer_scale2)
            _copy_mlp(copy, function.layer.layers[1].fn, block.mlp)
            copy.pair(function, block)
    head: Any = net.readout.head  # type: ignore[union-attr]
    copy.norm(head[0], model.head.norm)
    copy.linear(head[1], model.head.fc)
    return net


def _copy_set_norm(copy: Copier, branch: Any, norm: Any, scale: Any) -> None:
    expect_kind("norm", norm, nn.GroupNorm)
    to = branch.layer.layers[0].layer
    copy.weight(to, norm.weight, norm.bias)
    to.eps = norm.eps
    copy.parameter(branch.scale.weight, scale.scale)


def _copy_affine(copy: Copier, to: Any, norm: Any) -> None:
    if type(norm).__name__ != "Affine":
        raise ValueError(f"norm of the model must be Affine, got {norm!r}")
    copy.weight(to, norm.alpha.flatten(), norm.beta.flatten())


def _check_activation(mlp: Any, kind: type[nn.Module]) -> None:
    if type(mlp.act) is not kind or getattr(mlp.act, "approximate", "none") != "none":
        raise ValueError(f"activation of the model must be {kind.__name__}(), got {mlp.act!r}")


def _copy_mlp(copy: Copier, to: Any, mlp: Any) -> None:
    _check_activation(mlp, nn.GELU)
    copy.mlp(to, mlp.fc1, mlp.fc2)


def _runs_of_patches(theirs: Any, ours: Any, inputs: Inputs) -> Iterator[Run]:
    """On an image of the size that the model is made for."""
    embed = theirs.patch_embed if hasattr(theirs, "patch_embed") else theirs.stem
    channels = embed.proj.weight.shape[1] * embed.proj.groups
    patches = Patches(tuple(embed.patch_size))
    height, width = (n * side for n, side in zip(embed.grid_size, patches.sizes, strict=True))
    images = inputs.normal(1, channels, *embed.img_size)
    yield Run("an image", theirs(images), ours(patches(images[..., :height, :width])))


def _runs_of_poolformer(theirs: Any, ours: Any, inputs: Inputs) -> Iterator[Run]:
    """On images of two sizes."""
    patches = Patches(7, stride=4)
    for height, width in ((36, 32), (20, 28)):
        images = inputs.normal(1, theirs.stem.conv.weight.shape[1], height, width)
        tokens = patches(nn.functional.pad(images, (2, 1, 2, 1)))
        yield Run(f"an image of {height} x {width}", theirs(images), ours(tokens))


CONVERTERS: Converters = {
    "VisionTransformer": Converter(_vit, _runs_of_patches),
    "MlpMixer": Converter(_mixer, _runs_of_patches),
    "MetaFormer": Converter(_poolformer, _runs_of_poolformer),
}
