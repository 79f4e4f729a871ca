"""Nets over the patches of an image: `vit` and its relatives, and nets without attention."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn

from tokennet.checks import check_sizes, checked, lookup
from tokennet.layer import TokenLayer
from tokennet.mixers import CrossPatchLinear, Pooling, SetNorm, StridedConvolution, TokenMixingMLP
from tokennet.models.patch_grid import PatchGrid
from tokennet.models.transformers import encoder_stack
from tokennet.nets.block import Residual, SwiGLU, TokenWise, mlp
from tokennet.nets.compose import GraphOf, OnGraph, WithGraph, complete
from tokennet.nets.config import Affine, BlockConfig, LayerScale
from tokennet.nets.net import TokenNet
from tokennet.nets.prepend import PrependTokens
from tokennet.nets.readout import ClassAndMeanReadout, ClassTokenReadout, MeanReadout
from tokennet.positional import LearnedEncoding, SinusoidalEncoding

_READOUTS = {"class_token": ClassTokenReadout, "class_and_mean": ClassAndMeanReadout}


@checked(depth=0, hidden=0, registers=0)
def vit(
    in_features: int = 3 * 16 * 16,
    out_features: int = 1000,
    num_tokens: int | tuple[int, ...] | None = 196,
    dim: int = 192,
    depth: int = 12,
    num_heads: int = 3,
    *,
    hidden: int | None = None,
    registers: int = 0,
    class_position: bool = True,
    readout: str = "class_token",
    config: BlockConfig | None = None,
    graph: GraphOf = complete,
) -> TokenNet:
    """The vision transformer (Dosovitskiy et al., 2020, arXiv 2010.11929).

    Args:
        in_features: values of a patch.
        num_tokens: the grid of patches, (rows, columns), or the number of patches of a square
            image; each patch has a learned positional encoding. `resample_positions` makes a
            net for another grid of it. None for images of any size, with sinusoidal encodings
            of `tokens.pos` (row and column).
        registers: further learned tokens, without positions, before the class token (Darcet et
            al., 2023, arXiv 2309.16588).
        class_position: whether the class token has a row in the table of positions.
        readout: "class_token", or "class_and_mean" of the patches.
        graph: from the graph of the patches to that of attention; complete, or
            `lambda grid: grid.reach(3)` for neighborhoods and the class token.

    Called with patches of another grid, the net raises ValueError.

    >>> import torch
    >>> net = vit(in_features=48, out_features=10, num_tokens=4, dim=8, depth=1, num_heads=2)
    >>> net(torch.zeros(2, 4, 48)).shape
    torch.Size([2, 10])
    """
    prefix = [] if readout == "class_token" else [1 + registers]
    head = lookup("readout", readout, _READOUTS)(dim, out_features, registers, *prefix)
    embed, first = TokenWise(nn.Linear(in_features, dim)), PrependTokens(dim)
    layers: list[TokenLayer]
    if num_tokens is None:
        by_content = SinusoidalEncoding(dim, "pos", num_coordinates=2)
        layers = [WithGraph(graph), embed, by_content, first]
    else:
        patches = PatchGrid(num_tokens, graph)
        table = LearnedEncoding(dim, patches.num_tokens + class_position)
        layers = [patches, embed, *([first, table] if class_position else [table, first])]
    layers += [PrependTokens(dim, registers)] if registers else []
    blocks = encoder_stack(dim, depth, num_heads, hidden, config, final_norm=False)
    return TokenNet([*layers, *blocks.layers], head)  # type: ignore[list-item]


@checked(depth=0, hidden=0)
def deit3(
    in_features: int = 3 * 16 * 16,
    out_features: int = 1000,
    num_tokens: int | tuple[int, ...] = 196,
    dim: int = 384,
    depth: int = 12,
    num_heads: int = 6,
    *,
    hidden: int | None = None,
    layer_scale: float = 1e-6,
) -> TokenNet:
    """DeiT III (Touvron et al., 2022, arXiv 2204.07118): a vision transformer with `LayerScale`.

    Its class token has no positional encoding. Arguments as for `vit`.

    >>> import torch
    >>> net = deit3(in_features=48, out_features=10, num_tokens=4, dim=8, depth=1, num_heads=2)
    >>> net(torch.zeros(2, 4, 48)).shape
    torch.Size([2, 10])
    """
    config = BlockConfig(norm=partial(nn.LayerNorm, eps=1e-6), layer_scale=layer_scale)
    sizes = in_features, out_features, num_tokens, dim, depth, num_heads
    net = vit(*sizes, hidden=hidden, class_position=False, config=config)
    net.readout.norm = config.norm(dim)  # type: ignore[union-attr]
    return net


@checked(depth=0, hidden=0, registers=0)
def dinov2(
    in_features: int = 3 * 14 * 14,
    out_features: int = 1000,
    num_tokens: int | tuple[int, ...] = 37 * 37,
    dim: int = 384,
    depth: int = 12,
    num_heads: int = 6,
    *,
    hidden: int | None = None,
    registers: int = 0,
    gated: bool = False,
    layer_scale: float = 1e-5,
    readout: str = "class_and_mean",
) -> TokenNet:
    """DINOv2 (Oquab et al., 2023, arXiv 2304.07193): a vision transformer with `LayerScale`.

    Args:
        registers: four where it was trained with registers; as for `vit`, as the others.
        gated: whether the token-wise functions are `SwiGLU`, as those of the largest.

    >>> import torch
    >>> net = dinov2(in_features=48, out_features=10, num_tokens=4, dim=8, depth=1, num_heads=2)
    >>> net(torch.zeros(2, 4, 48)).shape
    torch.Size([2, 10])
    """
    config = BlockConfig(
        norm=partial(nn.LayerNorm, eps=1e-6),
        layer_scale=layer_scale,
        tokenwise=swiglu_with_bias if gated else None,
    )
    sizes = in_features, out_features, num_tokens, dim, depth, num_heads
    net = vit(*sizes, hidden=hidden, registers=registers, readout=readout, config=config)
    net.readout.norm = config.norm(dim)  # type: ignore[union-attr]
    return net


def swiglu_with_bias(dim: int, hidden: int | None) -> TokenLayer:
    """The token-wise layer of the largest DINOv2."""
    return TokenWise(SwiGLU(dim, hidden, bias=True))


@checked(depth=0, hidden=0)
def mlp_mixer(
    in_features: int = 3 * 16 * 16,
    out_features: int = 1000,
    num_tokens: int | tuple[int, ...] = 196,
    dim: int = 512,
    depth: int = 8,
    *,
    token_hidden: int | None = None,
    hidden: int | None = None,
    config: BlockConfig | None = None,
) -> TokenNet:
    """MLP-Mixer (Tolstikhin et al., 2021, arXiv 2105.01601): tokens, but no attention.

    Args:
        num_tokens: the grid of patches, (rows, columns), or the number of patches of a square
            image. The weights go by the index of a patch: another grid is refused.

    >>> import torch
    >>> net = mlp_mixer(in_features=48, out_features=10, num_tokens=4, dim=8, depth=1)
    >>> net(torch.zeros(2, 4, 48)).shape
    torch.Size([2, 10])
    """
    config = config or BlockConfig()
    token_hidden = dim // 2 if token_hidden is None else token_hidden
    patches = PatchGrid(num_tokens)
    layers: list[TokenLayer] = [patches, TokenWise(nn.Linear(in_features, dim))]
    layers += config.stack(
        lambda: [TokenMixingMLP(dim, patches.num_tokens, token_hidden)], dim, depth, hidden
    )
    return TokenNet(layers, MeanReadout(dim, out_features))


@checked(depth=0, hidden=0)
def resmlp(
    in_features: int = 3 * 16 * 16,
    out_features: int = 1000,
    num_tokens: int | tuple[int, ...] = 196,
    dim: int = 384,
    depth: int = 12,
    *,
    hidden: int | None = None,
) -> TokenNet:
    """ResMLP (Touvron et al., 2021, arXiv 2105.03404): one linear map of the tokens, no norms.

    Args:
        num_tokens: as for `mlp_mixer`.

    >>> import torch
    >>> net = resmlp(in_features=48, out_features=10, num_tokens=4, dim=8, depth=1)
    >>> net(torch.zeros(2, 4, 48)).shape
    torch.Size([2, 10])
    """
    config = BlockConfig(norm=Affine, layer_scale=1e-4)
    patches = PatchGrid(num_tokens)
    layers: list[TokenLayer] = [patches, TokenWise(nn.Linear(in_features, dim))]
    layers += config.stack(lambda: [CrossPatchLinear(dim, patches.num_tokens)], dim, depth, hidden)
    readout = MeanReadout(dim, out_features)
    readout.norm = Affine(dim)
    return TokenNet(layers, readout)


@checked()
def poolformer(
    in_features: int = 3 * 7 * 7,
    out_features: int = 1000,
    dims: Sequence[int] = (64, 128, 320, 512),
    depths: Sequence[int] = (2, 2, 6, 2),
    *,
    layer_scale: float = 1e-5,
) -> TokenNet:
    """PoolFormer (Yu et al., 2022, arXiv 2111.11418): means of neighbors, in stages.

    A convolution halves the sides of the grid of patches from stage to stage. Norms are over all
    patches of an image, pooling is over the neighbors in their graph. With the patches of the
    paper, 7 x 7 pixels every 4, of images with a border of zeros:

    >>> import torch
    >>> from tokennet.tokenizers import Patches
    >>> image = nn.functional.pad(torch.zeros(1, 3, 32, 32), (2, 1, 2, 1))
    >>> net = poolformer(out_features=10, dims=(8, 16), depths=(1, 1))
    >>> net(Patches(7, stride=4)(image)).shape
    torch.Size([1, 10])
    """
    dims, depths = check_sizes("dims", dims, 1), check_sizes("depths", depths)
    if len(dims) != len(depths):
        raise ValueError(f"depths must have a number for each of dims = {dims}, got {depths}")
    layers: list[TokenLayer] = [TokenWise(nn.Linear(in_features, dims[0]))]
    for stage, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
        if stage:
            layers.append(StridedConvolution(dims[stage - 1], dim))
        for layer in [part for _ in range(depth) for part in (Pooling(dim), TokenWise(mlp(dim)))]:
            branch = TokenNet([OnGraph(complete, SetNorm(dim)), layer])
            layers.append(Residual(branch, scale=LayerScale(dim, layer_scale)))
    readout = MeanReadout(dims[-1], out_features)
    readout.norm = nn.Identity()
    readout.head = nn.Sequential(nn.LayerNorm(dims[-1]), nn.Linear(dims[-1], out_features))
    return TokenNet(layers, readout)
