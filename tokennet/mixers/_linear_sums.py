r"""Attention whose scores are products of positive features, in time linear in the tokens.

    out_i = \sum_{j -> i} (phi(q_i) . phi(k_j)) v_j / \sum_{j -> i} phi(q_i) . phi(k_j)

The sums over j of phi(k_j) v_j and phi(k_j) are the same for all targets of a complete set,
and running sums in a causal one. They are kept divided by the largest feature so far: nothing
overflows, and no token depends on one that it does not attend to, not even by rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from tokennet.ops.batching import SortedSets, stacked_sources, stacked_targets, unstacked


class Sums(NamedTuple):
    """All that targets need of the sources before them."""

    sums: Tensor
    """(..., H, F, C + 1): sums of phi(k) v and of phi(k), divided by exp(scale)."""
    scale: Tensor
    """(..., H): the largest log phi(k); -inf before the first source."""


def linear_attend(log_q: Tensor, log_k: Tensor, v: Tensor, sets: SortedSets, chunk: int) -> Tensor:
    """Attend within each set, (..., N, H, C).

    Args:
        log_q: (..., N, H, F) logarithms of the features of queries.
        log_k: (..., M, H, F) those of keys.
        v: (..., M, H, C) values.
        sets: which sets the tokens form.
        chunk: see `attend_causal`.
    """
    stacks = (  # (..., S, n, H, F) each
        stacked_targets(log_q, sets, -3),
        stacked_sources(log_k, sets, -3),
        stacked_sources(v, sets, -3),
    )
    outs = [
        attend_causal(q, k, v, chunk)[0] if alike.is_causal else attend_complete(q, k, v)
        for alike, q, k, v in zip(sets.shapes, *stacks, strict=True)
    ]
    return unstacked(outs, v[..., :0, :, :], sets, -3)


def attend_complete(log_q: Tensor, log_k: Tensor, v: Tensor) -> Tensor:
    """Every target attends to every source; exactly 0 where there are none."""
    if log_k.shape[-3] == 0:
        return v.new_zeros(*log_q.shape[:-1], v.shape[-1])
    (q, _), (k, size), v = features(log_q), features(log_k), _with_ones(v)
    weight = (size - size.amax(-2, keepdim=True)).exp()  # (..., M, H)
    sums = torch.einsum("...mhf,...mh,...mhc->...hfc", k, weight, v)
    return _divided(torch.einsum("...nhf,...hfc->...nhc", q, sums))


def attend_causal(
    log_q: Tensor, log_k: Tensor, v: Tensor, chunk: int, before: Sums | None = None
) -> tuple[Tensor, Sums]:
    """Each target attends to itself and those before; also returns the sums after the last.

    Args:
        chunk: tokens whose scores are computed pair by pair, those before them being
            summed up. It trades memory for speed, and does not change the result.
        before: sums over the sources before the first target.
    """
    (q, _), (k, size), v = features(log_q), features(log_k), _with_ones(v)
    if before is None:
        batch = torch.broadcast_shapes(k.shape[:-3], v.shape[:-3])
        shape = *batch, k.shape[-2]  # (..., H)
        sums = v.new_zeros(*shape, k.shape[-1], v.shape[-1])
        before = Sums(sums, v.new_full(shape, -torch.inf))
    outs = [v[..., :0, :, :]]
    chunks = zip(*(x.split(chunk, -3) for x in (q, k, v)), size.split(chunk, -2), strict=True)
    for here_q, here_k, here_v, here_size in chunks if v.shape[-3] else ():
        out, before = _attend_chunk(here_q, here_k, here_v, here_size, before)
        outs.append(out)
    return _divided(torch.cat(outs, -3)), before


def _attend_chunk(
    q: Tensor, k: Tensor, v: Tensor, size: Tensor, before: Sums
) -> tuple[Tensor, Sums]:
    largest = torch.maximum(size.cummax(-2).values, before.scale[..., None, :])  # (..., L, H)
    gap = size.mT[..., None, :] - largest.mT[..., None]  # (..., H, L, L)
    past = torch.ones(gap.shape[-2:], dtype=torch.bool, device=gap.device).tril()
    weight = gap.masked_fill(~past, -torch.inf).exp()
    scores = torch.einsum("...ihf,...jhf->...hij", q, k) * weight
    old = (before.scale[..., None, :] - largest).exp()  # (..., L, H)
    out = torch.einsum("...hij,...jhc->...ihc", scores, v)
    out = out + torch.einsum("...ihf,...hfc->...ihc", q, before.sums) * old[..., None]
    scale = largest[..., -1, :]
    weight = (size - scale[..., None, :]).exp()  # (..., L, H)
    new = torch.einsum("...jhf,...jh,...jhc->...hfc", k, weight, v)
    kept = (before.scale - scale).exp()[..., None, None]
    return out, Sums(before.sums * kept + new, scale)


def features(log_features: Tensor) -> tuple[Tensor, Tensor]:
    """(..., F) features divided by their largest, and its logarithm (...), a constant.

    The least that a feature can be is the rounding error of the largest, so that two tokens
    never have a score of exactly 0.
    """
    size = log_features.detach().amax(-1)
    scaled = (log_features - size[..., None]).exp()
    return scaled + torch.finfo(scaled.dtype).eps, size


def _with_ones(v: Tensor) -> Tensor:
    return pad(v, (0, 1), value=1.0)


def _divided(out: Tensor) -> Tensor:
    """(..., C + 1), sums and what they add up from, to (..., C)."""
    return out[..., :-1] / out[..., -1:]
