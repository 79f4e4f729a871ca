"""Attention as one writes it without a library: three projections and a kernel of torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from tokennet.bench.setting import Peer, Setting
from tokennet.graphs import to_mask_mod
from tokennet.graphs.base import DENSE_LIMIT
from tokennet.mixers import Attention
from tokennet.ops.kernels.flash import HAS_WINDOWS

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From (B, H, N, C), (B, H, M, C) twice, to (B, H, N, C)."""


class Form(NamedTuple):
    """How tensors (tokens, ...) are laid out as (B, N, ...), and back, off the clock."""

    pack: Callable[[Tensor], Tensor]
    unpack: Callable[[Tensor], Tensor]
    nested: bool = False


_AS_THEY_ARE = Form(lambda tensor: tensor, lambda tensor: tensor)


def _peer(setting: Setting, kernel: Kernel, form: Form, backward: bool = True) -> Peer:
    workload, layer = setting.workload, setting.layer
    assert isinstance(layer, Attention)
    width = workload.heads, workload.channels

    def heads(z: Tensor) -> Tensor:  # (..., N, D) to (B, N, H, C)
        if form.nested:
            return z.reshape(z.size(0), -1, *width)
        return z.view(*(z.shape[:-1] if z.dim() > 2 else (1, len(z))), *width)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))  # (B, H, N, C)
        if form.nested:  # or it has no kernel
            q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        return kernel(q, k, v).transpose(1, 2)  # (B, N, H, C)

    def run(*given: Tensor) -> Tensor:
        if setting.level == "attend":
            if given[0].dim() > 3:
                return attention(*given)
            return attention(*(tensor[None] for tensor in given))[0]
        z, source = given[0], given[-1]
        out = attention(heads(layer.query(z)), heads(layer.key(source)), heads(layer.value(source)))
        if form.nested:
            return out.reshape(out.size(0), -1, workload.dim)
        return out.reshape(*z.shape[:-1], workload.dim)

    given = tuple(form.pack(tensor.detach()).requires_grad_() for tensor in setting.given)
    grad = form.pack(setting.grad) if backward else None
    return Peer(run, given, grad, tuple(layer.parameters()), form.unpack)


def _sdpa(mask: Tensor | None = None, causal: bool = False) -> Kernel:
    def kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, mask, is_causal=causal)

    return kernel


def _too_large(setting: Setting, entries: int) -> str | None:
    """Whether the scores of a masked kernel, several times over, exceed the memory."""
    needed = 5 * 4 * setting.workload.heads * entries
    return f"its scores need about {needed / 1e9:.0f} GB" if needed > setting.memory else None


def sdpa(setting: Setting) -> Peer | str | None:
    """`scaled_dot_product_attention`, with a boolean mask where the graph needs one."""
    graph, form = setting.graph, _AS_THEY_ARE
    if not setting.workload.is_plain:
        return None
    if graph.is_full or graph.is_causal:
        return _peer(setting, _sdpa(causal=graph.is_causal), form)
    entries = graph.num_targets * graph.num_sources
    if entries > DENSE_LIMIT:
        return f"its mask would have {entries / 1e6:,.0f} million entries"
    if graph.has_multi_edges:
        return "a mask cannot hold parallel edges"
    return _too_large(setting, entries) or _peer(setting, _sdpa(graph.dense(setting.device)), form)


def flex(setting: Setting) -> Peer | str | None:
    """FlexAttention, compiled, with a block mask; on a CPU it has no backward."""
    graph = setting.graph
    if not setting.workload.is_plain or (graph.is_explicit and not _are_sets(setting)):
        return None  # a predicate that looks edges up is not what it is for
    entries = graph.num_targets * graph.num_sources
    if not graph.is_full and 12 * entries > setting.memory:
        return f"making its block mask needs about {12 * entries / 1e9:.0f} GB"
    torch._dynamo.reset()  # or what was compiled before makes this one run uncompiled, silently
    compiled = torch.compile(flex_attention, fullgraph=True)
    mask = None if graph.is_full else _block_mask(setting)

    def kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return compiled(q, k, v, block_mask=mask)

    return _peer(setting, kernel, _AS_THEY_ARE, backward=setting.device.type != "cpu")


def _block_mask(setting: Setting) -> BlockMask:
    graph, device = setting.graph, setting.device
    mask_mod = to_mask_mod(graph)
    if graph.is_ragged:
        owner = graph.batch(device)

        def mask_mod(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return owner[i] == owner[j]

    n, m = graph.num_targets, graph.num_sources
    return create_block_mask(mask_mod, None, None, n, m, device=str(device))


def padded(setting: Setting) -> Peer | str | None:
    """SDPA on sets padded to the longest, with a mask; they are padded off the clock."""
    padding = _padding(setting)
    if not isinstance(padding, _Padding):
        return padding
    return _peer(setting, _sdpa(padding.mask), Form(padding.pack, padding.unpack))


def padded_each_time(setting: Setting) -> Peer | str | None:
    """The same for sets that come as they are: padded before SDPA, and cut again after it."""
    padding = _padding(setting)
    if not isinstance(padding, _Padding):
        return padding

    def kernel(*given: Tensor) -> Tensor:
        q, k, v = (padding.pack(tensor[0].transpose(0, 1)).transpose(1, 2) for tensor in given)
        out = scaled_dot_product_attention(q, k, v, padding.mask)  # (sets, H, longest, C)
        return padding.unpack(out.transpose(1, 2)).transpose(0, 1)[None]

    return _peer(setting, kernel, _AS_THEY_ARE)


class _Padding(NamedTuple):
    """From (N, ...) to (sets, longest, ...) and back, and who may be listened to."""

    pack: Callable[[Tensor], Tensor]
    unpack: Callable[[Tensor], Tensor]
    mask: Tensor


def _padding(setting: Setting) -> _Padding | str | None:
    graph = setting.graph
    if not setting.workload.is_plain or not graph.is_ragged:
        return None
    longest = max(graph.sizes)
    reason = _too_large(setting, graph.num_graphs * longest**2)
    if reason:
        return reason
    owner, place = graph.batch(setting.device), graph.local_index(setting.device)

    def pack(tensor: Tensor) -> Tensor:
        out = tensor.new_zeros(graph.num_graphs, longest, *tensor.shape[1:])
        return out.index_put((owner, place), tensor)

    if _are_sets(setting):
        mask = pack(torch.ones_like(owner, dtype=torch.bool))[:, None, None, :]
    else:
        source, target = graph.edge_index(setting.device)
        mask = owner.new_zeros(graph.num_graphs, 1, longest, longest, dtype=torch.bool)
        mask[owner[target], 0, place[target], place[source]] = True
    return _Padding(pack, lambda tensor: tensor[owner, place], mask)


def nested(setting: Setting) -> Peer | None:
    """SDPA on nested tensors of the strided layout, on a CPU the faster; nested off the clock."""
    if not setting.workload.is_plain or not _are_sets(setting):
        return None
    sizes = setting.graph.sizes  # type: ignore[attr-defined]

    def pack(tensor: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*nested tensors.*")
            return torch.nested.nested_tensor(list(tensor.split(sizes)))

    return _peer(setting, _sdpa(), Form(pack, lambda tensor: torch.cat(tensor.unbind()), True))


def varlen(setting: Setting) -> Peer | str | None:
    """Variable-length flash attention on sets as they come, or on a window: half precision."""
    graph, half = setting.graph, setting.workload.dtype != torch.float32
    if not (half and setting.device.type == "cuda" and setting.workload.is_plain):
        return None
    is_window = graph.is_band and graph.radius is not None
    if not (_are_sets(setting) or is_window):
        return None
    if not HAS_WINDOWS:
        return "this torch has no windows in variable-length attention"
    reach: Any = graph.band if is_window else (-1, -1)
    sizes = graph.sizes if graph.is_ragged else [graph.num_targets]
    ends = torch.tensor([0, *sizes]).cumsum(0).int().to(setting.device)

    def kernel(*given: Tensor) -> Tensor:
        q, k, v = (tensor[0].transpose(0, 1) for tensor in given)  # (N, H, C)
        out = varlen_attn(q, k, v, ends, ends, max(sizes), max(sizes), window_size=reach)
        return out.transpose(0, 1)[None]  # type: ignore[union-attr]

    return _peer(setting, kernel, _AS_THEY_ARE)


def _are_sets(setting: Setting) -> bool:
    graph = setting.graph
    return graph.is_ragged and all(one.is_full for one in graph.parts)
