"""Block masks for FlexAttention from edges or from a band: memory of the blocks, not of all pairs.

`create_block_mask` looks at every pair. Here a list of edges says which blocks of S x S pairs
hold one, and the pairs of each of these are kept as bits, for the mask to look up; a band says
it by its width, and the predicate is the mask. Whole blocks are not told from others.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from tokennet.graphs import TokenGraph, to_mask_mod

SIZE = 128
_WORD = 32
MOST_BLOCKS = 2**26
"""Places in a table of all blocks, filled or not."""


def too_full(graph: TokenGraph) -> str | None:
    """Why blocks are of no use for a list of edges, or None."""
    rows, columns = shape(graph)
    if rows * columns > MOST_BLOCKS:
        return f"a table of its {rows * columns:,} blocks would be too large"
    count = graph.derive("number of blocks", None, _count)
    if 2 * count > rows * columns:
        return f"its edges lie in {count:,} of {rows * columns:,} blocks: little is left out"
    return None


def num_blocks(graph: TokenGraph) -> int:
    """Blocks with an edge of an explicit graph, or those that a band touches, about."""
    if graph.is_explicit:
        return graph.derive("number of blocks", None, _count)
    rows, columns = shape(graph)
    beside = sum(-(-reach // SIZE) for reach in graph.band)  # type: ignore[misc, union-attr]
    return rows * min(columns, 1 + beside)


def block_mask(graph: TokenGraph, device: torch.device) -> BlockMask:
    """The block mask of an explicit graph without parallel edges, or of a band."""
    keys = _keys(graph).unique() if graph.is_explicit else _keys_of_band(graph)
    rows, columns = shape(graph)
    row, column = keys // columns, keys % columns
    order = column.argsort(stable=True)
    lists = (*_listed(row, column, rows), *_listed(column[order], row[order], columns))
    kv_count, kv_blocks, q_count, q_blocks = (x.to(device) for x in lists)
    return BlockMask(
        (graph.num_targets, graph.num_sources),
        kv_count, kv_blocks, None, None, q_count, q_blocks, None, None,
        BLOCK_SIZE=(SIZE, SIZE),
        mask_mod=_look_up(graph, keys, device) if graph.is_explicit else to_mask_mod(graph),
    )  # fmt: skip


def shape(graph: TokenGraph) -> tuple[int, int]:
    """Rows and columns of blocks."""
    return -(-graph.num_targets // SIZE), -(-graph.num_sources // SIZE)


def _listed(row: Tensor, column: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Number of blocks in each row (1, 1, rows), and their columns (1, 1, rows, most)."""
    count = torch.bincount(row, minlength=rows)
    place = torch.arange(len(row)) - (count.cumsum(0) - count)[row]
    columns = torch.zeros(rows, max(int(count.max()), 1), dtype=torch.int32)
    columns[row, place] = column.int()
    return count.int()[None, None], columns[None, None]


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


def _look_up(
    graph: TokenGraph, keys: Tensor, device: torch.device
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
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
