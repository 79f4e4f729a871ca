"""`MixerConv`, a mixer as a convolution of PyG. Loads PyG: `to_pyg_conv` imports it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.nn import MessagePassing

from tokennet.checks import check_type
from tokennet.graphs import Edges, TokenGraph, from_pyg
from tokennet.interop._messages import EXPLAINED, messages_of, sends_messages
from tokennet.mixers import Mixer, PyGMixer
from tokennet.tokens import Tokens


class MixerConv(MessagePassing):
    """A mixer as a convolution of PyG. Made by `to_pyg_conv`."""

    def __init__(self, mixer: Mixer) -> None:
        super().__init__(node_dim=0)
        self.mixer = mixer
        self.in_channels: Any = mixer.dim
        if mixer.source_dim != mixer.dim:
            self.in_channels = mixer.source_dim, mixer.dim
        self.out_channels = mixer.dim
        self.edge_dim = getattr(getattr(mixer, "edge", None), "in_features", None)

    def reset_parameters(self) -> None:
        """Set new parameters, in all parts that can do so; PyG calls it at the start."""
        if "mixer" not in self._modules:
            return
        for part in self.mixer.modules():
            reset: Any = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()

    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor],
        edge_index: Tensor,
        edge_attr: Tensor | None = None,
        edge_type: Tensor | None = None,
        batch: Tensor | None = None,
        pos: Tensor | None = None,
    ) -> Tensor:
        """Nodes (N, D), or a pair of sources (M, Ds) and targets (N, D), to targets (N, D)."""
        check_type("edge_index", edge_index, Tensor, "a tensor (2, E)")
        if edge_index.layout != torch.strided:
            raise TypeError(f"edge_index must be a tensor (2, E), got layout {edge_index.layout}")
        fields: dict[str, Any] = {"edge_attr": edge_attr, "edge_type": edge_type}
        order = None
        if isinstance(x, Tensor):
            _check_nodes("x", x)
            graph: TokenGraph = Edges(edge_index, len(x), **fields)
            if batch is not None:
                data = Data(edge_index=edge_index, num_nodes=len(x), batch=batch, **fields)
                graph = from_pyg(data)  # which lists edges set by set
                order = batch[edge_index[1]].argsort(stable=True)
            given: tuple[Any, ...] = (Tokens(x, graph, pos),)
        else:
            if batch is not None or pos is not None:
                raise ValueError("batch and pos must be None between two sets of nodes")
            source, target = x
            _check_nodes("x[0]", source)
            _check_nodes("x[1]", target)
            graph = Edges(edge_index, len(target), len(source), **fields)
            given = Tokens(target), Tokens(source), graph
        if self.explain and not isinstance(self.mixer, PyGMixer):
            return self._explained(given, order)
        return self.mixer(*given).z

    def _explained(self, given: Any, order: Tensor | None) -> Tensor:
        """With the messages as an explainer changes them."""
        if not sends_messages(self.mixer):
            kind = type(self.mixer).__name__
            raise ValueError(
                "mixer must send a message along each edge for an explanation of edges, as "
                f"{', '.join(EXPLAINED)} do; {kind} does not. With conv.explain = False this "
                "layer keeps all of its edges"
            )
        sent, collect = messages_of(self.mixer, *self.mixer.inputs(*given))
        size = given[0].num_tokens
        if order is None:
            return collect(self.explain_message(sent, size))
        return collect(self.explain_message(sent[order.argsort()], size)[order])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.mixer})"


def _check_nodes(name: str, x: Any) -> None:
    check_type(name, x, Tensor, "a tensor (N, D)")
    if x.dim() != 2:
        raise ValueError(f"{name} must have shape (N, D), got {tuple(x.shape)}")
