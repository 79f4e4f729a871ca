"""Block masks for FlexAttention from edges or from a band: memory of the blocks, not of all pairs.

`create_block_mask` looks at every pair. Here a list of edges says which blocks of S x S pairs
hold one, and the pairs of each of these are kept as bits, for the mask to look up; a band says
it by its width, and the predicate is the mask. Of a band without holes, blocks that lie within
it are told from others: they need no mask. Of lists they are not.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from tokennet.graphs import TokenGraph, to_mask_mod
from tokennet.graphs.convert import MaskMod

SIZE = 128
_WORD = 32
MOST_BLOCKS = 2**26
"""Entries in a table of all blocks, with edges or without."""


def too_full(graph: TokenGraph) -> str | None:
    """Why blocks are of no use for a list of edges, or None."""
    rows, columns = shape(graph)
    if rows * columns > MOST_BLOCKS:
        return f"a table of its {rows * columns:,} blocks would be too large"
    count = graph.cached(_count)
    if 2 * count > rows * columns:
        return f"its edges lie in {count:,} of {rows * columns:,} blocks: little is left out"
    return None


def num_blocks(graph: TokenGraph) -> int:
    """Blocks with an edge of an explicit graph, or those that a band touches, about."""
    if graph.is_explicit:
        return graph.cached(_count)
    rows, columns = shape(graph)
    beside = sum(-(-reach // SIZE) for reach in graph.band)  # type: ignore[misc, union-attr]
    return rows * min(columns, 1 + beside)


def block_mask(graph: TokenGraph, device: torch.device) -> BlockMask:
    """The block mask of an explicit graph without parallel edges, or of a band."""
    keys = _keys(graph).unique() if graph.is_explicit else _keys_of_band(graph)
    row, column = keys // shape(graph)[1], keys % shape(graph)[1]
    is_full = _are_full(graph, row, column)
    order = column.argsort(stable=True)
    by_row = _lists(row, column, is_full, shape(graph)[0])
    by_column = _lists(column[order], row[order], is_full[order], shape(graph)[1])
    lists = [None if x is None else x.to(device) for x in (*by_row, *by_column)]
    mask_mod = _look_up(graph, keys, device) if graph.is_explicit else to_mask_mod(graph)
    sizes = graph.num_targets, graph.num_sources
    return BlockMask(sizes, *lists, (SIZE, SIZE), mask_mod)  # type: ignore[arg-type, call-arg]


def shape(graph: TokenGraph) -> tuple[int, int]:
    """Rows and columns of blocks."""
    return -(-graph.num_targets // SIZE), -(-graph.num_sources // SIZE)


def _lists(row: Tensor, column: Tensor, is_full: Tensor, rows: int) -> list[Tensor | None]:
    """Number of blocks in each row (1, 1, rows), their columns (1, 1, rows, most), and the same
    of full blocks, if there are any.

    Both lists have one width: kernels step through the second by the strides of the first.
    """
    most = max(int(torch.bincount(row, minlength=rows).max()), 1)
    found: list[Tensor | None] = []
    for kind in (~is_full, is_full):
        count = torch.bincount(row[kind], minlength=rows)
        slot = torch.arange(int(kind.sum())) - (count.cumsum(0) - count)[row[kind]]
        columns = torch.zeros(rows, most, dtype=torch.int32)
        columns[row[kind], slot] = column[kind].int()
        found += [count.int()[None, None], columns[None, None]]
    return found if is_full.any() else [*found[:2], None, None]


def _are_full(graph: TokenGraph, row: Tensor, column: Tensor) -> Tensor:
    """Whether all pairs of these blocks are edges, as far as it is known."""
    if graph.is_explicit or not graph.is_band:
        return torch.zeros_like(row, dtype=torch.bool)
    below, above = graph.band  # type: ignore[misc]
    first, last = column * SIZE, column * SIZE + SIZE - 1
    first_target, last_target = row * SIZE, row * SIZE + SIZE - 1
    within = (last_target - below <= first) & (last <= first_target + above)
    return within & (last < graph.num_sources) & (last_target < graph.num_targets)


def _keys(graph: TokenGraph) -> Tensor:
    """(E,) number of the block of each edge, counted along the rows."""
    source, target = graph.edge_index()
    return target // SIZE * shape(graph)[1] + source // SIZE


def _count(graph: TokenGraph) -> int:
    return len(_keys(graph).unique())


def _keys_of_band(graph: TokenGraph) -> Tensor:
    rows, columns = shape(graph)
    below, above = graph.band  # type: ignore[misc]
    row = torch.arange(rows)
    first = (row * SIZE - below).clamp(min=0) // SIZE
    last = ((row * SIZE + SIZE - 1 + above) // SIZE).clamp(max=columns - 1)
    count = last - first + 1
    row = row.repeat_interleave(count)
    return row * columns + torch.arange(len(row)) - (count.cumsum(0) - count)[row] + first[row]


def _look_up(graph: TokenGraph, keys: Tensor, device: torch.device) -> MaskMod:
    """A mask that asks for the number of a block, and for a bit of that block."""
    rows, columns = shape(graph)
    number = torch.full((rows * columns,), len(keys), dtype=torch.int32)  # one that is empty
    number[keys] = torch.arange(len(keys), dtype=torch.int32)
    source, target = graph.edge_index()
    words = SIZE // _WORD
    at = (number[_keys(graph)].long() * SIZE + target % SIZE) * words + source % SIZE // _WORD
    bits = torch.zeros((len(keys) + 1) * SIZE * words, dtype=torch.long)
    bits.index_add_(0, at, 1 << (source % _WORD))  # once each: there are no parallel edges
    bits = bits.where(bits < 2**31, bits - 2**32).int().view(-1, SIZE, words).to(device)
    number = number.view(rows, columns).to(device)

    def mask_mod(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        word = bits[number[i // SIZE, j // SIZE], i % SIZE, j % SIZE // _WORD]
        return (word >> (j % _WORD)) & 1 == 1

    return mask_mod
