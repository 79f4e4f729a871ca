"""Nets of other libraries as functions of `Tokens`: of images as in timm, of graphs as in PyG."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tokennet.mixers.base import fold_batch
from tokennet.tokens import Tokens


class OnImages(nn.Module):
    """A net of images (n, C, H, W), called with the tokens that the images were cut into.

    An output (n, classes, rows, columns), of a net that answers for each cell, becomes
    (n, rows columns, classes), for each token.
    """

    called = "images"

    def __init__(self, net: nn.Module, images: Callable[[Tokens], Tensor]) -> None:
        super().__init__()
        self.net, self.images = net, images

    def forward(self, tokens: Tokens) -> Tensor:
        output = self.net(self.images(tokens))
        return output.flatten(2).transpose(1, 2) if output.dim() == 4 else output


class OnGraphs(nn.Module):
    """A net called as those of PyG are, `net(x, edge_index)`, with `batch` and features by name.

    Where the task has an answer for each graph and the net for each node, the mean over nodes is
    the answer.
    """

    called = "x, edge_index, batch"

    def __init__(self, net: nn.Module, answers_by_token: bool) -> None:
        super().__init__()
        self.net, self.answers_by_token = net, answers_by_token

    def forward(self, tokens: Tokens) -> Tensor:
        from torch_geometric.nn import global_mean_pool

        x, _, folded, batch = fold_batch(tokens.z, tokens.z, tokens.graph)
        graph, copies = tokens.graph, batch.numel()
        count = copies * graph.num_graphs
        first = torch.arange(copies, device=x.device) * graph.num_graphs
        sets = (graph.batch(x.device) + first[:, None]).flatten()  # (nodes,)
        given: dict[str, Any] = {"batch": sets, "pos": _rows(tokens.pos, x)}
        for name, rows in graph.fields().items():
            if rows is not None:
                given[name] = rows.to(x.device).repeat(copies, *(1,) * (rows.dim() - 1))
        if (attr := given.get("edge_attr")) is not None and attr.shape[1] == 1:
            given["edge_weight"] = attr[:, 0]
        accepted = inspect.signature(self.net.forward).parameters
        given = {n: value for n, value in given.items() if n in accepted and value is not None}
        output = self.net(x, folded.edge_index(x.device), **given)  # (nodes or graphs, classes)
        if self.answers_by_token:
            return output.reshape(*batch, tokens.num_tokens, -1)
        return global_mean_pool(output, sets, count) if len(output) != count else output


def _rows(pos: Tensor | None, x: Tensor) -> Tensor | None:
    """The positions of each row of x, where sets share them."""
    if pos is None:
        return None
    pos = pos.flatten(0, -2)
    return pos.repeat(len(x) // len(pos), 1).to(x.device)
