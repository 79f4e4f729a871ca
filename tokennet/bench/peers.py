"""The peers of this library: the same attention by PyG and by kernels of torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from torch_geometric.nn import GATv2Conv, TransformerConv

from tokennet.bench.setting import Peer, Setting
from tokennet.graphs import TokenGraph, repeat, to_mask_mod
from tokennet.graphs.base import DENSE_LIMIT
from tokennet.mixers import Attention
from tokennet.ops import attend
from tokennet.ops.kernels.flash import has_windows
from tokennet.tokens import Tokens


def tokennet(setting: Setting) -> Peer:
    """This library."""
    graph, layer = setting.graph, setting.layer

    def run(*given: Tensor) -> Tensor:
        if setting.level == "attend":
            q, k, v = given
            return attend(q, k, v, graph)
        z, *source = given
        return layer(z, *source, graph) if source else layer(Tokens(z, graph)).z  # type: ignore[call-overload]

    return Peer(run, setting.given, setting.grad, tuple(layer.parameters()))


def pyg(setting: Setting) -> Peer | str:
    """PyG's `TransformerConv(root_weight=False)` or `GATv2Conv(add_self_loops=False)`."""
    graph, batch = setting.graph, setting.workload.batch
    # Ends, products and messages, with what backward keeps of them: about seven per edge.
    size = setting.workload.dtype.itemsize
    needed = 7 * size * batch * graph.num_edges * setting.workload.dim
    if needed > setting.memory:
        return f"its messages need about {needed / 1e9:.0f} GB"
    edge_index = (graph if batch == 1 else repeat(graph, batch)).edge_index(setting.device)
    attr = graph.edge_attr
    attr = None if attr is None else attr.to(setting.device)
    conv = _conv(setting).to(setting.grad)

    def run(*given: Tensor) -> Tensor:
        flat = [tensor if batch == 1 else tensor.flatten(0, 1) for tensor in given]
        if setting.level == "layer":
            out = conv((flat[-1], flat[0]), edge_index, attr)
        else:
            q, k, v = flat
            parts = {"query": q, "key": k, "value": v, "edge_attr": None}
            out = conv.propagate(edge_index, size=(len(k), len(q)), **parts)
        return out.view(setting.grad.shape)

    return Peer(run, setting.given, setting.grad, tuple(conv.parameters()))


def _conv(setting: Setting) -> TransformerConv | GATv2Conv:
    workload, layer = setting.workload, setting.layer
    size = workload.dim, workload.channels, workload.heads
    if isinstance(layer, Attention):
        conv = TransformerConv(*size, root_weight=False, edge_dim=workload.edge_dim)
        pairs = {"lin_query": layer.query, "lin_key": layer.key, "lin_value": layer.value}
    else:
        conv = GATv2Conv(*size, add_self_loops=False, edge_dim=workload.edge_dim)
        conv.att.data.copy_(layer.attention[None])
        conv.bias.data.copy_(layer.bias)
        pairs = {"lin_l": layer.source, "lin_r": layer.target}
    if layer.edge is not None:
        pairs["lin_edge"] = layer.edge
    for theirs, ours in pairs.items():
        getattr(conv, theirs).load_state_dict(ours.state_dict())
    return conv


Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From (B, H, N, C), (B, H, M, C) twice, to (B, H, N, C)."""


class Form(NamedTuple):
    """How the tensors of a setting are laid out as (B, N, ...), and back; not timed."""

    pack: Callable[[Tensor], Tensor]
    unpack: Callable[[Tensor], Tensor]
    mask: Tensor | None = None
    """What is visible, where sets are padded."""
    nested: bool = False


_ONE_SET = Form(lambda tensor: tensor[None], lambda tensor: tensor[0])
_UNCHANGED = Form(lambda tensor: tensor, lambda tensor: tensor)


def _peer(
    setting: Setting, kernel: Kernel, form: Form | None = None, backward: bool = True
) -> Peer:
    workload, layer = setting.workload, setting.layer
    assert isinstance(layer, Attention)
    form = form or (_ONE_SET if workload.batch == 1 else _UNCHANGED)

    def heads(z: Tensor) -> Tensor:  # (B, N, D) to (B, N, H, C)
        return z.reshape(z.size(0), -1, workload.heads, workload.channels)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))  # (B, H, N, C)
        if form.nested:  # its kernel needs contiguous tensors
            q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        return kernel(q, k, v).transpose(1, 2)  # (B, N, H, C)

    def run(*given: Tensor) -> Tensor:
        if setting.level == "attend":
            return attention(*given)
        z, source = given[0], given[-1]
        out = attention(heads(layer.query(z)), heads(layer.key(source)), heads(layer.value(source)))
        return out.reshape(out.size(0), -1, workload.dim)

    given = tuple(form.pack(tensor.detach()).requires_grad_() for tensor in setting.given)
    grad = form.pack(setting.grad) if backward else None
    return Peer(run, given, grad, tuple(layer.parameters()), form.unpack)


def _too_large(setting: Setting, entries: int) -> str | None:
    """Whether the scores of a masked kernel, several times over, exceed the memory."""
    needed = 5 * 4 * setting.workload.heads * entries
    return f"its scores need about {needed / 1e9:.0f} GB" if needed > setting.memory else None


def sdpa(setting: Setting) -> Peer | str | None:
    """`scaled_dot_product_attention`, with a boolean mask where the graph needs one."""
    graph = setting.graph
    if not setting.workload.is_plain:
        return None
    if graph.is_full or graph.is_causal:
        return _peer(setting, partial(scaled_dot_product_attention, is_causal=graph.is_causal))
    entries = graph.num_targets * graph.num_sources
    if entries > DENSE_LIMIT:
        return f"its mask would have {entries / 1e6:,.0f} million entries"
    if graph.has_multi_edges:
        return "a mask cannot hold parallel edges"
    reason = _too_large(setting, entries)
    return reason or _peer(setting, _masked(graph.dense(setting.device)))


def _masked(mask: Tensor | None) -> Kernel:
    return partial(scaled_dot_product_attention, attn_mask=mask)


def flex(setting: Setting) -> Peer | str | None:
    """FlexAttention, compiled, with a block mask; it has no backward on a CPU."""
    graph = setting.graph
    if not setting.workload.is_plain or (graph.is_explicit and not _are_sets(graph)):
        return None  # it is not meant for a predicate that looks edges up
    entries = graph.num_targets * graph.num_sources
    if not graph.is_full and 12 * entries > setting.memory:
        return f"making its block mask needs about {12 * entries / 1e9:.0f} GB"
    torch.compiler.reset()  # or after many compiled graphs this one runs uncompiled, silently
    compiled = torch.compile(flex_attention, fullgraph=True)
    mask_mod, device, mask = to_mask_mod(graph), setting.device, None
    if graph.is_ragged:
        owner = graph.batch(device)

        def mask_mod(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return owner[i] == owner[j]

    if not graph.is_full:
        n, m = graph.num_targets, graph.num_sources
        mask = create_block_mask(mask_mod, None, None, n, m, device=str(device))
    return _peer(setting, partial(compiled, block_mask=mask), backward=device.type != "cpu")


def padded(setting: Setting) -> Peer | str | None:
    """SDPA on sets padded to the longest, with a mask; the padding is not timed."""
    form = _padding(setting)
    return _peer(setting, _masked(form.mask), form) if isinstance(form, Form) else form


def padded_each_time(setting: Setting) -> Peer | str | None:
    """SDPA on sets that are padded before it and unpadded after it, both timed."""
    padding = _padding(setting)
    if not isinstance(padding, Form):
        return padding

    def kernel(*given: Tensor) -> Tensor:
        q, k, v = (padding.pack(tensor[0].transpose(0, 1)).transpose(1, 2) for tensor in given)
        out = scaled_dot_product_attention(q, k, v, padding.mask)  # (sets, H, longest, C)
        return padding.unpack(out.transpose(1, 2)).transpose(0, 1)[None]

    return _peer(setting, kernel)


def _padding(setting: Setting) -> Form | str | None:
    """From (N, ...) to (sets, longest, ...)."""
    graph = setting.graph
    if not setting.workload.is_plain or not graph.is_ragged:
        return None
    longest = max(graph.sizes)
    reason = _too_large(setting, graph.num_graphs * longest**2)
    if reason:
        return reason
    owner, index = graph.batch(setting.device), graph.local_index(setting.device)

    def pack(tensor: Tensor) -> Tensor:
        out = tensor.new_zeros(graph.num_graphs, longest, *tensor.shape[1:])
        return out.index_put((owner, index), tensor)

    if _are_sets(graph):
        mask = pack(torch.ones_like(owner, dtype=torch.bool))[:, None, None, :]
    else:
        source, target = graph.edge_index(setting.device)
        mask = owner.new_zeros(graph.num_graphs, 1, longest, longest, dtype=torch.bool)
        mask[owner[target], 0, index[target], index[source]] = True
    return Form(pack, lambda tensor: tensor[owner, index], mask)


def nested(setting: Setting) -> Peer | None:
    """SDPA on nested tensors of the strided layout, faster on a CPU; nesting is not timed."""
    if not setting.workload.is_plain or not _are_sets(setting.graph):
        return None
    sizes = setting.graph.sizes

    def pack(tensor: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*nested tensors.*")
            return torch.nested.nested_tensor(list(tensor.split(sizes)))

    form = Form(pack, lambda tensor: torch.cat(tensor.unbind()), nested=True)
    return _peer(setting, scaled_dot_product_attention, form)


def varlen(setting: Setting) -> Peer | str | None:
    """Variable-length flash attention on unpadded sets or on a window, in half precision."""
    graph, half = setting.graph, setting.workload.dtype != torch.float32
    if not (half and setting.device.type == "cuda" and setting.workload.is_plain):
        return None
    is_window = graph.is_band and graph.radius is not None
    if not (_are_sets(graph) or is_window):
        return None
    if not has_windows():
        return "this torch has no windows in variable-length attention"
    reach: Any = graph.band if is_window else (-1, -1)
    sizes = graph.sizes
    ends = torch.tensor([0, *sizes]).cumsum(0).int().to(setting.device)

    def kernel(*given: Tensor) -> Tensor:
        q, k, v = (tensor[0].transpose(0, 1) for tensor in given)  # (N, H, C)
        out = varlen_attn(q, k, v, ends, ends, max(sizes), max(sizes), window_size=reach)
        return out.transpose(0, 1)[None]  # type: ignore[union-attr]

    return _peer(setting, kernel)


def _are_sets(graph: TokenGraph) -> bool:
    return graph.is_ragged and all(part.is_full for part in graph.parts)


PEERS: dict[str, Callable[[Setting], Peer | str | None]] = {
    make.__name__.replace("_", " "): make
    for make in (tokennet, pyg, sdpa, padded, padded_each_time, nested, flex, varlen)
}
"""A peer, or the reason why it is left out, or None where it does not support such a case."""

COMPILED = {"flex"}
"""Peers that compile for seconds before they run."""


def first_line(error: Exception) -> str:
    """The first line of an error."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def build_peers(
    setting: Setting, without: Collection[str] = ()
) -> tuple[dict[str, Peer], dict[str, str]]:
    """The peers for a setting, this library first, and the reasons of those left out.

    On a GPU a peer that raises is left out too, so that the others are measured.
    """
    peers, left_out = {}, {}
    for name, make in PEERS.items():
        if name in without:
            continue
        try:
            peer = make(setting)
        except Exception as error:
            if setting.device.type == "cpu" or make is tokennet:
                raise
            peer = first_line(error)
        if isinstance(peer, Peer):
            peers[name] = peer
        elif peer is not None:
            left_out[name] = peer
    return peers, left_out
