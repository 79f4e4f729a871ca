"""`PatchGrid`, the grid of patches that a net is made for; `resample_positions` for others."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from math import isqrt, prod

import torch
from torch import nn
from torch.nn.functional import interpolate

from tokennet.checks import check_flag, check_size
from tokennet.graphs import TokenGraph
from tokennet.nets.compose import GraphOf, WithGraph, complete
from tokennet.nets.net import TokenNet
from tokennet.positional import LearnedEncoding
from tokennet.tokens import Tokens


class PatchGrid(WithGraph):
    """Raises an error for patches of another grid than the net was made for; else as `WithGraph`.

    Use it at the start of a net with weights for each index of a patch, such as a learned
    positional encoding: on another grid a patch would be given the weights of another one.

    Tokens whose graph has no grid, such as a bare tensor, are held to the number of patches only.

    Args:
        num_tokens: the sides of the grid, (rows, columns), or the number of patches. A square
            number stands for a square grid of images; another number names none, and patches
            on a grid with rows and columns are refused.
        graph_of: from the graph of the patches to that of the layers that follow.

    Raises:
        ValueError: another number of tokens in a set, or another grid.

    >>> from tokennet import Grid
    >>> PatchGrid(16)(Tokens(torch.zeros(16, 8), Grid(4, 4))).graph
    Full(16): 16 tokens, 256 edges, density 1
    >>> PatchGrid(16)(Tokens(torch.zeros(16, 8), Grid(2, 8)))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: tokens must be on a grid of 4 x 4, which the net was made for, got 2 x 8; see ...
    """

    def __init__(self, num_tokens: int | Sequence[int], graph_of: GraphOf = complete) -> None:
        super().__init__(graph_of)
        self.grid: tuple[int, ...] | None = None
        if isinstance(num_tokens, Sequence) and not isinstance(num_tokens, str):
            sides = enumerate(num_tokens)
            self.grid = tuple(check_size(f"num_tokens[{axis}]", side, 1) for axis, side in sides)
            self.num_tokens = prod(self.grid)
        else:
            self.num_tokens = check_size("num_tokens", num_tokens, 1)
            side = isqrt(num_tokens)  # type: ignore[arg-type]
            self.grid = (side, side) if side**2 == num_tokens else None

    def transform(self, tokens: Tokens) -> Tokens:
        for part in tokens.graph.parts:
            self._check(part)
        return super().transform(tokens)

    def _check(self, graph: TokenGraph) -> None:
        shape = graph.grid_shape
        if graph.num_targets != self.num_tokens:
            found = f"{graph.num_targets} tokens" if shape is None else _sides(shape)
            expected = f"{self.num_tokens}" if self.grid is None else _sides(self.grid)
            raise ValueError(
                f"tokens must be the {expected} patches that the net was made for, got {found}; "
                "see resample_positions"
            )
        if shape is None or shape == self.grid or len(shape) == 1:
            return
        if self.grid is None:
            raise ValueError(
                f"num_tokens must be the sides of the grid for tokens on a grid of "
                f"{_sides(shape)}: make the net with num_tokens={shape}, got {self.num_tokens}"
            )
        raise ValueError(
            f"tokens must be on a grid of {_sides(self.grid)}, which the net was made for, got "
            f"{_sides(shape)}; see resample_positions, or make the net with num_tokens={shape}"
        )


def resample_positions(net: TokenNet, grid: tuple[int, int], *, antialias: bool = True) -> TokenNet:
    """A copy of a `vit` for images of another grid of patches, (rows, columns).

    Use it to run or tune a trained net on larger or longer images. The table of positional
    encodings is interpolated (bicubic); the vector of the class token is kept. As
    `resample_abs_pos_embed` of timm; with `antialias=False` as `interpolate_pos_encoding` of
    Hugging Face.

    Args:
        net: made with `num_tokens`, the old grid.
        grid: rows and columns of patches, each at least 1.
        antialias: whether high frequencies are removed first where the new grid is coarser.

    Raises:
        ValueError: the net has no table of positions on a grid of rows and columns.

    >>> from tokennet import Grid
    >>> from tokennet.models import vit
    >>> net = vit(in_features=12, out_features=3, num_tokens=16, dim=8, depth=1, num_heads=2)
    >>> wide = resample_positions(net, (2, 6))
    >>> wide(Tokens(torch.zeros(5, 12, 12), Grid(2, 6))).shape
    torch.Size([5, 3])
    """
    antialias = check_flag("antialias", antialias)
    layers = list(net.layers) if isinstance(net, TokenNet) else []
    start = next((layer for layer in layers if isinstance(layer, PatchGrid)), None)
    numbers = [n for n, layer in enumerate(layers) if type(layer) is LearnedEncoding]
    if start is None or len(start.grid or ()) != 2 or len(numbers) != 1:
        raise ValueError(
            "net must be a vit with a learned table of positions on a grid, "
            f"vit(..., num_tokens=(rows, columns)); got {type(net).__name__}"
        )
    if not isinstance(grid, Sequence) or len(grid) != 2:
        raise ValueError(f"grid must be (rows, columns), got {grid!r}")
    sides = check_size("grid[0]", grid[0], 1), check_size("grid[1]", grid[1], 1)
    new, net = PatchGrid(sides, start.graph_of), deepcopy(net)
    encoding = net.layers[numbers[0]]
    table = encoding.tables[0].weight.detach()  # type: ignore[index, union-attr]
    first = len(table) - start.num_tokens  # of the class token
    precise = torch.promote_types(table.dtype, torch.float32)
    old = table[first:].to(precise).T.unflatten(1, start.grid)[None]  # (1, D, rows, columns)
    if new.grid != start.grid:
        old = interpolate(old, new.grid, mode="bicubic", antialias=antialias)  # type: ignore[arg-type]
    patches = old[0].flatten(1).T.to(table.dtype)  # (N, D)
    encoding.tables[0] = nn.Embedding.from_pretrained(  # type: ignore[index, union-attr, operator]
        torch.cat([table[:first], patches]),
        freeze=not encoding.tables[0].weight.requires_grad,  # type: ignore[index, union-attr]
    )
    encoding.sizes = (first + new.num_tokens,)  # type: ignore[assignment, union-attr]
    net.layers[layers.index(start)] = new
    return net


def _sides(grid: Sequence[int]) -> str:
    return " x ".join(map(str, grid))
