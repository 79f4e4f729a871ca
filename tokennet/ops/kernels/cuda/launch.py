"""Attention along edges on a GPU: the same problems, results and gradients as `edges.py`.

The shape of a tile follows from the shapes of the call, the degrees of the graph, and a size
that `tune.py` chooses once for calls of a kind.
"""

from __future__ import annotations

import math
import struct
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokennet.ops.kernels.cuda.arguments import Arrays, Sizes, Tile
from tokennet.ops.kernels.cuda.forward import forward_targets, merge_parts
from tokennet.ops.kernels.cuda.segments import Segments, Tables, tables
from tokennet.ops.kernels.cuda.sources import backward_sources
from tokennet.ops.kernels.cuda.sums import add_parts
from tokennet.ops.kernels.cuda.targets import backward_targets
from tokennet.ops.kernels.cuda.tune import run_fastest
from tokennet.ops.kernels.problem import WANTED, Gradients, Outputs, Problem, Wanted

_EDGES = 32
"""At most, in a tile."""
_CHANNELS = 128
"""At most, of a group of heads that is not a single head."""
_KEY_SUMS = 2048
"""Entries of dK that a warp sums."""
_PROGRAMS = 4096
"""At most, that sum da and dK, for each entry of the batch and group of heads."""


def forward(problem: Problem) -> Outputs:
    segments = tables(problem.plan).by_target
    return run_fastest("forward", problem, segments, partial(_forward, problem, segments))


def _forward(problem: Problem, segments: Segments, entries: int) -> Outputs:
    out, edge_out, lse = problem.empty_outputs()
    go = _Pass(problem, segments, _tile(problem, segments, entries))
    arrays = go.arrays(problem.plan.indices, problem.plan.edge_id)._replace(
        out=out, edge_out=edge_out, lse=lse,
        part=go.part(out), other_part=go.part(edge_out), part_lse=go.part(lse),
    )  # fmt: skip
    go.launch(forward_targets, arrays)
    if segments.slots:
        arrays = arrays._replace(row=segments.hub, begin=segments.hub_indptr)
        go.launch(merge_parts, arrays, programs=len(segments.hub))
    return out, edge_out, lse


def backward(
    problem: Problem, grads: Outputs, saved: Outputs, wanted: Wanted = WANTED
) -> Gradients:
    """Gradients of all inputs, from those of the outputs and the outputs of `forward`."""
    (grad, grad_edge_out, grad_lse), (out, edge_out, lse) = grads, saved
    batch, targets, heads, _ = problem.q.shape
    given = {"out": out, "edge_out": edge_out, "lse": lse, "grad": grad, "grad_lse": grad_lse}
    kept = {"ends": problem.empty(batch, targets, 2, heads)}
    if edge_out.shape[-1]:
        given["grad_edge_out"] = grad_edge_out
        kept = {"pairs": problem.empty(batch, problem.plan.num_edges, 2, heads)}
    made = tables(problem.plan)
    by_target = partial(_by_target, problem, made.by_target, {**given, **kept}, wanted)
    found = run_fastest("by target", problem, made.by_target, by_target)
    shared = problem.q.shape[2] != problem.k.shape[2]
    if shared:  # for each head of q, to be added up
        n, heads = problem.k.shape[1], problem.q.shape[2]
        dk, dv = (x.new_empty(batch, n, heads, x.shape[3]) for x in (problem.k, problem.v))
        found = found._replace(k=dk, v=dv)
    by_source = partial(_by_source, problem, made, {"lse": lse, "grad": grad, **kept}, found)
    run_fastest("by source", problem, made.by_source, by_source)
    if shared:
        dk, dv = (x.unflatten(2, (problem.k.shape[2], -1)).sum(3) for x in (found.k, found.v))
        found = found._replace(k=dk, v=dv)
    return found.added_up(problem)


def _by_target(
    problem: Problem, segments: Segments, given: dict[str, Tensor], wanted: Wanted, entries: int
) -> Gradients:
    """All gradients but those of k and v, some in parts that are still to be added up."""
    additive = problem.terms.weight is not None
    go = _Pass(problem, segments, _tile(problem, segments, entries, key_sums=additive))
    programs = min(go.blocks, _PROGRAMS) if additive else go.blocks
    found = problem.empty_gradients(wanted, programs, go.tile.groups)
    names = ("dbias", "dweight", "dattr", "dedge_query", "dedge_key")
    written = {name: x for name, x in zip(names, found[3:], strict=True) if x.numel()}
    arrays = go.arrays(problem.plan.indices, problem.plan.edge_id)
    arrays = arrays._replace(**given, **written, dq=found.q)
    go.sum_rows(backward_targets, arrays, found.q, found.edge_query, programs)
    return found


def _by_source(
    problem: Problem, made: Tables, given: dict[str, Tensor], found: Gradients, entries: int
) -> None:
    """Those of k and v, into their places."""
    go = _Pass(problem, made.by_source, _tile(problem, made.by_source, entries))
    arrays = go.arrays(problem.plan.t_indices, made.listed)
    arrays = arrays._replace(**given, v=problem.v, dk=found.k, dv=found.v)
    go.sum_rows(backward_sources, arrays, found.k, found.v)


class _Pass(NamedTuple):
    """A kernel's way along the segments of a problem."""

    problem: Problem
    segments: Segments
    tile: Tile

    @property
    def blocks(self) -> int:
        return _quotient(self.segments.num_segments, self.tile.R)

    def arrays(self, indices: Tensor, listed: Tensor) -> Arrays:
        """What is given. Indices in `edge_index` are for what is listed by edges, if anything."""
        q, k, v, terms = self.problem[:4]
        row, begin, end, slot = self.segments[:4]
        same = k.data_ptr() == v.data_ptr() and k.shape == v.shape
        by_edges = terms.bias is not None or terms.edge_attr is not None
        return Arrays(
            q, k, None if same else v, *terms,
            indices=indices, listed=listed if by_edges and len(listed) else None,
            row=row, begin=begin, end=end, slot=slot,
        )  # fmt: skip

    def part(self, whole: Tensor) -> Tensor | None:
        """Room for the slots of what is summed for rows (B, rows, ...), if there are any."""
        if self.segments.slots == 0 or whole.shape[-1] == 0:
            return None
        return self.problem.empty(whole.shape[0], self.segments.slots, *whole.shape[2:])

    def launch(self, kernel: Any, arrays: Arrays, programs: int | None = None) -> None:
        q, k, terms = self.problem.q, self.problem.k, self.problem.terms
        programs = self.blocks if programs is None else programs
        grid = (programs * self.tile.groups * q.shape[0],)
        if grid == (0,):  # nor are there arrays to compile a kernel for
            return
        scale, slope = self.problem.scale, self.problem.slope
        sizes = Sizes(
            targets=q.shape[1],
            sources=k.shape[1],
            edges=self.problem.plan.num_edges,
            segments=self.segments.num_segments,
            blocks=self.blocks,
            programs=programs,
            slots=self.segments.slots,
            bias_batch=int(terms.bias is not None and terms.bias.shape[0] > 1),
            scale=scale,
            scale_rest=scale - _float32(scale),
            slope=slope,
            slope_rest=slope - _float32(slope),
        )
        with torch.cuda.device_of(q):
            kernel[grid](arrays, sizes, self.tile, num_warps=self.tile.warps)

    def sum_rows(
        self, kernel: Any, arrays: Arrays, whole: Tensor, other: Tensor, programs: int | None = None
    ) -> None:
        """Launch a kernel that sums two arrays row by row, and add up the rows in parts."""
        part, other_part = self.part(whole), self.part(other)
        self.launch(kernel, arrays._replace(part=part, other_part=other_part), programs)
        self._add(part, whole)
        self._add(other_part, other)

    def _add(self, part: Tensor | None, whole: Tensor) -> None:
        """Sum the slots of rows in parts into the rows."""
        if part is None:
            return
        hub, width = self.segments.hub, math.prod(whole.shape[2:])
        columns = min(128, _power_of_two(width))
        grid = (_quotient(width, columns) * len(hub) * whole.shape[0],)
        with torch.cuda.device_of(whole):
            add_parts[grid](
                whole, part, hub, self.segments.hub_indptr, whole.shape[1],
                self.segments.slots, len(hub), width, columns, 16, num_warps=1,
            )  # fmt: skip


def _tile(problem: Problem, segments: Segments, entries: int, key_sums: bool = False) -> Tile:
    """The number of heads that make a row of `_CHANNELS`, and edges as make a tile of `entries`.

    4 bytes an entry at most: a tile of float64 has half of them.
    """
    return _shape_of_tile(
        problem.q.shape[2], problem.k.shape[2], *problem.k.shape[3:], problem.v.shape[3],
        problem.num_features, segments.at_once,
        min(entries, 4 * entries // problem.q.element_size()),
        problem.terms.weight is not None, key_sums,
    )  # fmt: skip


@cache
def _shape_of_tile(
    heads: int, kv_heads: int, channels: int, values: int, d: int, at_once: int, entries: int,
    additive: bool, key_sums: bool,
) -> Tile:  # fmt: skip
    bc, bv, bd = map(_power_of_two, (channels, values, d))
    widest = max(bc, bv) if additive else max(bc, bv, bd)
    together = min(_power_of_two(heads), max(1, _CHANNELS // widest))
    if key_sums:
        together = min(together, max(1, _KEY_SUMS // (bc * bd)))
    edges = min(max(entries // (together * widest), 1), _EDGES)
    at_once = min(at_once, edges)
    rows = edges // at_once
    keys = max(bd // rows, 1) if key_sums else 1
    warps = min(max(keys * rows * together * bc // _KEY_SUMS, 1), 8)
    return Tile(
        heads, heads // max(kv_heads, 1), channels, values, d, rows, at_once, together, bc, bv, bd,
        _quotient(heads, together), keys, warps,
    )  # fmt: skip


@lru_cache
def _float32(number: float) -> float:
    return struct.unpack("f", struct.pack("f", number))[0]


def _power_of_two(number: int) -> int:
    """The next one, which is at least 1."""
    return 1 << max(number - 1, 0).bit_length()


def _quotient(whole: int, size: int) -> int:
    """Rounded up."""
    return -(-whole // size)
