"""Arguments of the Triton kernels: arrays, sizes, and the shape they are compiled for."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Arrays(NamedTuple):
    """All arrays that some kernel reads or writes; None for what a call does not have.

    Kernels ask `is not None` of them, which the compiler answers.
    """

    q: Tensor | None = None
    """(B, N, H, C)"""
    k: Tensor | None = None
    """(B, M, K, C), of K heads that divide H"""
    v: Tensor | None = None
    """(B, M, K, Cv); None where it is k itself, which is then read once"""
    bias: Tensor | None = None
    """(1 or B, E, H)"""
    weight: Tensor | None = None
    """(H, C)"""
    attr: Tensor | None = None
    """(E, D)"""
    edge_query: Tensor | None = None
    """(B, N, H, D), `edge_query`"""
    edge_key: Tensor | None = None
    """(D, H, C)"""
    out: Tensor | None = None
    """(B, N, H, Cv)"""
    edge_out: Tensor | None = None
    """(B, N, H, D)"""
    lse: Tensor | None = None
    """(B, N, H)"""
    grad: Tensor | None = None
    """(B, N, H, Cv), of out"""
    grad_edge_out: Tensor | None = None
    """(B, N, H, D)"""
    grad_lse: Tensor | None = None
    """(B, N, H)"""
    ends: Tensor | None = None
    """(B, N, 2, H), lse and delta of each target, for the pass by source"""
    pairs: Tensor | None = None
    """(B, E, 2, H), p and ds of each edge, where the pass by source does not compute them"""
    dq: Tensor | None = None
    dk: Tensor | None = None
    """(B, M, H, C), for each head of q, as dv"""
    dv: Tensor | None = None
    dbias: Tensor | None = None
    """(B, E, H)"""
    dweight: Tensor | None = None
    """(B programs, H, C)"""
    dattr: Tensor | None = None
    """(B groups, E, D)"""
    dedge_query: Tensor | None = None
    """(B, N, H, D)"""
    dedge_key: Tensor | None = None
    """(B programs, D, H, C)"""
    part: Tensor | None = None
    """(B, slots, H, Cv or C), of out, dq or dk"""
    other_part: Tensor | None = None
    """(B, slots, H, D or Cv), of edge_out, dedge_query or dv"""
    part_lse: Tensor | None = None
    """(B, slots, H)"""
    indices: Tensor | None = None
    """(E,) the other end of each edge"""
    listed: Tensor | None = None
    """(E,) index of each edge in `edge_index`; None where they stand in that order"""
    row: Tensor | None = None
    begin: Tensor | None = None
    end: Tensor | None = None
    slot: Tensor | None = None


class Sizes(NamedTuple):
    """Numbers that may change without a kernel being compiled again."""

    targets: int
    sources: int
    edges: int
    segments: int
    blocks: int
    """of `Tile.rows` segments each"""
    programs: int
    """for each entry of the batch and group of heads; they share the blocks"""
    slots: int
    bias_batch: int
    """1 where each entry of the batch has a bias of its own, else 0"""
    scale: float
    scale_rest: float
    """Kernels are given float32; this is what is missing to float64."""
    slope: float
    slope_rest: float


class Tile(NamedTuple):
    """What a kernel is compiled for: R rows, BE edges of each, HB heads, BC channels."""

    H: int
    SHARE: int
    """heads of q that share a head of k and v"""
    C: int
    V: int
    D: int
    R: int
    BE: int
    HB: int
    BC: int
    BV: int
    BD: int
    groups: int
    """of HB heads"""
    KEYS: int
    """times R features at least D"""
    warps: int
