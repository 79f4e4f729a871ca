"""`from_pyg_conv`: attention layers of PyG as layers of tokens, with their weights."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from tokennet.graphs import Disjoint, Edges, Self, TokenGraph
from tokennet.interop._from_torch import self_attention
from tokennet.interop.convert import Converter, Converters, convert
from tokennet.interop.copy import Copier, expect_config
from tokennet.interop.verify import Inputs, Run
from tokennet.layer import TokenLayer
from tokennet.mixers import Attention, GraphAttention, GraphIsomorphism, PyGMixer
from tokennet.nets import OnGraph, Parallel, PostNorm, TokenNet, TokenWise, complete
from tokennet.nets.config import BatchNorm
from tokennet.tokens import Tokens


def from_pyg_conv(
    module: nn.Module, *, verify: bool = True, verify_dtype: torch.dtype = torch.float64
) -> Any:
    """A layer of PyG as layers of tokens, with a copy of its weights.

    Use it to run a trained layer on any token graph, or in a net of other layers. Edges, their
    features and the batch vector of PyG are the graph of the tokens: `Tokens.from_pyg(data)`.

    - `TransformerConv` becomes an `Attention` whose output map is the identity, beside the map of
      `root_weight`; Shi et al., 2020 (arXiv 2009.03509).
    - `GATv2Conv` becomes a `GraphAttention`, on the graph with self-loops where it adds them.
    - `GINConv` and `GINEConv` become a `GraphIsomorphism`.
    - `GPSConv` becomes the block of `gps`, around one of these or none; another convolution inside
      stays as it is, in a `PyGMixer`.

    Copies of both are run on random graphs in eval mode, and compared token by token. `module`
    stays as it is.

    Args:
        module: exactly of one of these classes, as its parts are.
        verify: whether both are compared; `net.conversion` says whether they were.
        verify_dtype: the copies' dtype.

    Raises:
        TypeError: another kind of module.
        ValueError: an option that the layers do not have, such as the mean over heads
            (`concat=False`), gates (`beta=True`), self-loops beside features of edges, other norms
            or Performer; or the net gives other outputs.

    >>> from torch_geometric.nn import TransformerConv
    >>> from tokennet import Cycle, Tokens
    >>> net = from_pyg_conv(TransformerConv(8, 4, heads=2))
    >>> net(Tokens(torch.zeros(5, 8), Cycle(5))).z.shape
    torch.Size([5, 8])
    >>> net.conversion.is_verified
    True
    """
    options: Any = {"verify": verify, "verify_dtype": verify_dtype}
    return convert("module", module, "torch_geometric", CONVERTERS, **options)


def _expect(module: Any, **values: Any) -> None:
    """Raise ValueError unless it adds along edges to their targets, with these options."""
    aggr = "add" if module.aggr == "sum" else module.aggr
    given = {"aggr": aggr, **{name: getattr(module, name) for name in ("flow", *values)}}
    expect_config(given, type(module).__name__, aggr="add", flow="source_to_target", **values)


def _width(module: Any) -> int:
    """Channels of the tokens of a convolution."""
    if not hasattr(module, "in_channels"):
        found = next((part for part in module.nn.modules() if hasattr(part, "weight")), None)
        width = getattr(found, "in_features", getattr(found, "in_channels", None))
        if not isinstance(width, int):
            raise ValueError(
                f"{type(module).__name__}.nn must begin with a linear layer, got {module.nn}"
            )
        return width
    dim: Any = module.in_channels
    if isinstance(dim, tuple) and len(set(dim)) == 1:
        dim = dim[0]
    if not isinstance(dim, int):
        raise ValueError(f"{type(module).__name__}.in_channels must be one number, got {dim!r}")
    return dim


def _transformer(module: Any, copy: Copier) -> TokenLayer:
    _expect(module, concat=True, beta=False)
    ours = Attention(
        _width(module), module.heads, head_dim=module.out_channels, edge_dim=module.edge_dim,
        dropout=module.dropout,
    )  # fmt: skip
    pairs = (
        (ours.query, module.lin_query),
        (ours.key, module.lin_key),
        (ours.value, module.lin_value),
    )
    for mine, theirs in pairs:
        copy.weight(mine, theirs.weight, theirs.bias)
    if ours.edge is not None:
        copy.weight(ours.edge, module.lin_edge.weight)
    ours.out = nn.Identity()  # type: ignore[assignment]
    return _beside(ours, module.lin_skip, copy, is_used=module.root_weight)


def _beside(ours: TokenLayer, linear: Any, copy: Copier, is_used: bool = True) -> TokenLayer:
    """The sum with a map of the token itself."""
    if not is_used:
        for parameter in linear.parameters():  # which the module has and does not use
            copy.mark(parameter)
        return ours
    own = nn.Linear(linear.in_channels, linear.out_channels)
    copy.weight(own, linear.weight, linear.bias)
    return Parallel([ours, TokenWise(own)])


def _gat(module: Any, copy: Copier) -> TokenLayer:
    _expect(module, concat=True, dropout=0.0)
    dim = module.heads * module.out_channels
    if _width(module) != dim:
        raise ValueError(
            f"GATv2Conv.in_channels must be heads * out_channels = {dim}, got {module.in_channels}"
        )
    if module.add_self_loops and module.edge_dim is not None:
        raise ValueError("GATv2Conv.add_self_loops must be False where edges have features")
    ours = GraphAttention(
        dim, module.heads, edge_dim=module.edge_dim, negative_slope=module.negative_slope
    )
    copy.weight(ours.source, module.lin_l.weight, module.lin_l.bias)
    if module.share_weights:
        ours.target = ours.source
    else:
        copy.weight(ours.target, module.lin_r.weight, module.lin_r.bias)
    if ours.edge is not None:
        copy.weight(ours.edge, module.lin_edge.weight)
    copy.parameter(ours.attention, module.att[0])
    copy.mark(module.att)
    if module.bias is None:
        ours.bias.requires_grad_(False)  # zeros
    else:
        copy.parameter(ours.bias, module.bias)
    layer = OnGraph(_one_self_loop_each, ours, reads={"graph"}) if module.add_self_loops else ours
    return layer if module.res is None else _beside(layer, module.res, copy)


def _one_self_loop_each(graph: TokenGraph) -> TokenGraph:
    """As PyG adds them: in place of those that are listed, however often."""
    loops = Self(graph.num_targets)
    return (graph & ~loops) | loops


def _gin(module: Any, copy: Copier) -> TokenLayer:
    _expect(module)
    dim = _width(module)
    lin = getattr(module, "lin", None)
    if type(module).__name__ == "GINEConv" and lin is None:
        raise ValueError("GINEConv.edge_dim must be given, so that features of edges are mapped")
    ours = GraphIsomorphism(
        dim, deepcopy(module.nn), edge_dim=None if lin is None else lin.in_channels
    )
    for tensor in (*module.nn.parameters(), *module.nn.buffers(), module.eps):
        copy.mark(tensor)
    ours.eps.data = module.eps.detach().clone().view(())
    ours.eps.requires_grad_(isinstance(module.eps, nn.Parameter))
    if lin is not None:
        copy.weight(ours.edge, lin.weight, lin.bias)
    return ours


def _gps(module: Any, copy: Copier) -> TokenNet:
    if type(module.attn) is not nn.MultiheadAttention:
        raise ValueError(f"GPSConv.attn_type must be 'multihead', got {module.attn_type!r}")
    attention = self_attention(module.attn, copy, dropout=module.attn.dropout)
    branches: list[TokenLayer] = [OnGraph(complete, attention)]
    norms = [module.norm2]
    if module.conv is not None:
        branches.insert(0, _part(module.conv, module.channels, copy))
        norms.insert(0, module.norm1)
    elif module.norm1 is not None:
        _mark_norm(module.norm1, copy)
    both = [
        PostNorm(branch, _norm(norm, module.channels, copy), module.dropout)
        for branch, norm in zip(branches, norms, strict=True)
    ]
    first, act, drop, second, last = module.mlp
    mlp = nn.Sequential(
        nn.Linear(module.channels, 2 * module.channels), deepcopy(act), nn.Dropout(drop.p),
        nn.Linear(2 * module.channels, module.channels), nn.Dropout(last.p),
    )  # fmt: skip
    copy.weight(mlp[0], first.weight, first.bias)
    copy.weight(mlp[3], second.weight, second.bias)
    for tensor in act.parameters():
        copy.mark(tensor)
    last_norm = _norm(module.norm3, module.channels, copy)
    return TokenNet([Parallel(both), PostNorm(TokenWise(mlp), last_norm)])


def _part(conv: Any, dim: int, copy: Copier) -> TokenLayer:
    """The convolution inside a GPSConv; one of another kind stays as it is, in a `PyGMixer`."""
    if type(conv).__name__ in _CONVOLUTIONS:
        return _CONVOLUTIONS[type(conv).__name__](conv, copy)
    for tensor in (*conv.parameters(), *conv.buffers()):
        copy.mark(tensor)
    return PyGMixer(deepcopy(conv), dim)


def _norm(norm: Any, dim: int, copy: Copier) -> nn.Module | None:
    if norm is None:
        return None
    found = getattr(norm, "module", norm)
    if type(found) is not nn.BatchNorm1d:
        raise ValueError(f"GPSConv.norm must be 'batch_norm' or None, got {type(norm).__name__}")
    ours = BatchNorm(dim, found.eps, found.momentum, found.affine, found.track_running_stats)
    ours.double().load_state_dict(found.state_dict())  # without rounding
    _mark_norm(norm, copy)
    return ours


def _mark_norm(norm: Any, copy: Copier) -> None:
    for tensor in (*norm.parameters(), *norm.buffers()):
        copy.mark(tensor)


def _runs(theirs: Any, ours: Any, inputs: Inputs) -> Iterator[Run]:
    """Of one graph, and of a batch of two."""
    conv = getattr(theirs, "conv", theirs)
    dim = theirs.channels if hasattr(theirs, "channels") else _width(conv)
    edge_dim = getattr(conv, "edge_dim", None)
    if type(conv).__name__ == "GINEConv":
        edge_dim = conv.lin.in_channels
    for what, sizes in (("one graph", (7,)), ("two graphs", (4, 3))):
        graphs = [_graph(size, edge_dim, inputs) for size in sizes]
        graph: TokenGraph = graphs[0] if len(graphs) == 1 else Disjoint(graphs)
        x = inputs.normal(sum(sizes), dim)
        given = {} if edge_dim is None else {"edge_attr": graph.edge_attr}
        batch = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)).to(x.device)
        if hasattr(theirs, "attn_type"):
            given["batch"] = batch
        yield Run(what, theirs(x, graph.edge_index(x.device), **given), ours(Tokens(x, graph)).z)


def _graph(n: int, edge_dim: int | None, inputs: Inputs) -> Edges:
    """Random edges among n tokens, a self-loop twice; the last token has no neighbors."""
    source, target = inputs.ids(n, 3 * n), inputs.ids(n - 1, 3 * n)
    edges = torch.stack([source, target]).unique(dim=1)
    edges = torch.cat([edges[:, edges[0] != edges[1]], edges.new_ones(2, 2)], 1)
    attr = None if edge_dim is None else inputs.normal(edges.shape[1], edge_dim)
    return Edges(edges, n, edge_attr=attr)


_CONVOLUTIONS = {
    "TransformerConv": _transformer,
    "GATv2Conv": _gat,
    "GINConv": _gin,
    "GINEConv": _gin,
}
CONVERTERS: Converters = {
    **{name: Converter(build, _runs) for name, build in _CONVOLUTIONS.items()},
    "GPSConv": Converter(_gps, _runs),
}
