"""The same attention by several hands, with the same weights, on the same tokens."""

from __future__ import annotations

from collections.abc import Callable, Collection

from torch import Tensor
from torch_geometric.nn import GATv2Conv, TransformerConv

from tokennet.bench.by_hand import flex, nested, padded, padded_each_time, sdpa, varlen
from tokennet.bench.setting import Peer, Setting
from tokennet.graphs import repeat
from tokennet.mixers import Attention
from tokennet.ops import attend
from tokennet.tokens import Tokens


def tokennet(setting: Setting) -> Peer:
    """This library."""
    graph, layer = setting.graph, setting.layer

    def run(*given: Tensor) -> Tensor:
        if setting.level == "attend":
            q, k, v = given
            return attend(q, k, v, graph)
        z, *source = given
        return layer(z, *source, graph) if source else layer(Tokens(z, graph)).z  # type: ignore[union-attr, return-value]

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


PEERS: dict[str, Callable[[Setting], Peer | str | None]] = {
    "tokennet": tokennet,
    "pyg": pyg,
    "sdpa": sdpa,
    "padded": padded,
    "padded each time": padded_each_time,
    "nested": nested,
    "flex": flex,
    "varlen": varlen,
}
"""A peer, or the reason why it is left out, or None where it is not meant for such a case."""

COMPILED = {"flex"}
"""Peers that compile for seconds before they run."""


def told(error: Exception) -> str:
    """The first line of what went wrong."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _made(make: Callable[[Setting], Peer | str | None], setting: Setting) -> Peer | str | None:
    try:
        return make(setting)
    except Exception as error:
        if setting.device.type == "cpu" or make is tokennet:
            raise
        return told(error)


def build_peers(
    setting: Setting, without: Collection[str] = ()
) -> tuple[dict[str, Peer], dict[str, str]]:
    """The peers for a setting, this library first, and the reasons of those left out.

    On a device a peer that cannot be made is left out too: what others can is measured still.
    """
    found = {name: _made(make, setting) for name, make in PEERS.items() if name not in without}
    peers = {name: peer for name, peer in found.items() if isinstance(peer, Peer)}
    return peers, {name: peer for name, peer in found.items() if isinstance(peer, str)}
