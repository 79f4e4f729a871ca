"""Tasks on datasets of PyG: classes of nodes, of graphs, and whether two nodes are linked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from tokennet.compare.from_data.arrays import CONFIG, split_of
from tokennet.compare.metric import Metric, Splits, error, majority, median, squares
from tokennet.compare.task import Batch, StoredTask, Task
from tokennet.graphs import Full, Self, TokenGraph, from_pyg
from tokennet.nets import IOSpec
from tokennet.tokens import Tokens

NETS = ("attention@edges", "gat@edges", "gcn@edges", "attention@full", "none@edges")


def _tokens(data: Any) -> Tokens:
    """On the edges and each node itself; without features each node is a 1."""
    n = data.num_nodes
    x = torch.ones(n, 1) if data.x is None else data.x.float()
    return Tokens(x, _graph(data.edge_index, n))


def _graph(edge_index: Tensor, n: int) -> TokenGraph:
    """These edges, and each node itself."""
    from torch_geometric.data import Data

    return from_pyg(Data(edge_index=edge_index, num_nodes=n)) | Self(n)


class NodeTask(StoredTask):
    """The classes of nodes of one graph, by its masks. Made by `task_from`.

    Masks (n, k) have a split for each of k seeds. Without masks a random fifth of the nodes is
    the test; without a `test_mask`, the nodes of no other mask are.
    """

    graphs = ("edges", "full")
    nets = NETS
    config = replace(CONFIG, epochs=100, batch_size=None, lr=5e-3, weight_decay=5e-4, dropout=0.5)

    def __init__(self, data: Any, name: str = "nodes") -> None:
        self.name, self.data = name, data  # type: ignore[misc]
        self.target = data.y.flatten()
        tokens = _tokens(data)
        n = tokens.num_tokens
        self.z, self.on = tokens.z, {"edges": tokens.graph, "full": Full(n)}
        self.interface = IOSpec(tokens.dim, int(self.target.max()) + 1, "token", n)
        self.summary = f"the classes of {n:,} nodes of a graph"  # type: ignore[misc]

    def splits(self, seed: int) -> Splits:
        if getattr(self.data, "train_mask", None) is None:
            return split_of(len(self.target), None)
        found = {}
        for name in ("train", "val", "test"):
            if (mask := getattr(self.data, f"{name}_mask", None)) is not None:
                chosen = mask if mask.dim() == 1 else mask[:, seed % mask.shape[1]]
                found[name] = chosen.nonzero().flatten()
        if "test" not in found:
            rest = torch.ones(len(self.target), dtype=torch.bool)
            rest[torch.cat([*found.values()])] = False
            found["test"] = rest.nonzero().flatten()
        return found

    def batch(self, index: Tensor, graph: str) -> Batch:
        return Batch(Tokens(self.z, self.on[graph]), self.target[index], rows=index)


class GraphTask(Task):
    """A class or a number for each graph. Made by `task_from`; features of edges are left out."""

    graphs = ("edges", "full")
    nets = ("attention@edges", "attention@full", "gat@edges", "sum@edges", "none@edges")
    config = replace(CONFIG, epochs=60, batch_size=32, lr=2e-3)

    def __init__(self, dataset: Any, name: str = "graphs") -> None:
        self.name = name  # type: ignore[misc]
        self.sets = {"edges": [_tokens(data) for data in dataset]}
        self.sets["full"] = [t.replace(graph=Full(t.num_tokens)) for t in self.sets["edges"]]
        y = torch.stack([data.y.flatten() for data in dataset])
        self.target = y[:, 0] if y.shape[1] == 1 else y
        if self.target.is_floating_point():
            self.metrics = (error,)  # type: ignore[misc]
            outputs = self.target[0].numel()
        else:
            outputs = int(self.target.max()) + 1
        self.interface = IOSpec(self.sets["edges"][0].dim, outputs, "mean")
        self.summary = f"a class of each of {len(y):,} graphs"  # type: ignore[misc]

    def splits(self, seed: int) -> Splits:
        return split_of(len(self.target), None)

    def batch(self, index: Tensor, graph: str) -> Batch:
        sets = [self.sets[graph][number] for number in index.tolist()]
        return Batch(Tokens.batch(sets), self.target[index])

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        floating = target.is_floating_point()
        return squares(output, target) if floating else super().loss(output, target)

    def baselines(self, seed: int) -> Mapping[str, Mapping[str, float]]:
        if self.target.is_floating_point():
            return median(self.target, self.splits(seed)) if self.target.dim() == 1 else {}
        return majority(self.target, self.splits(seed))


def _scored(answer: Tensor, target: Tensor) -> Tensor:
    return torch.stack([answer.double(), target[:, 2].double()], dim=1)


def area_under_roc(rows: Tensor) -> float:
    """The chance that a random link has a higher score than a random pair without; ties are half.

    >>> area_under_roc(torch.tensor([[0.9, 1], [0.5, 1], [0.5, 0], [0.1, 0]]))
    0.875
    """
    scores, linked = rows[:, 0], rows[:, 1] > 0.5
    _, rank, counts = scores.unique(return_inverse=True, return_counts=True)
    middle = counts.cumsum(0) - (counts - 1) / 2  # mean rank of equal scores, from 1
    positive, total = int(linked.sum()), len(rows)
    if not 0 < positive < total:
        return float("nan")
    ranks = middle[rank][linked].sum()
    above = ranks - positive * (positive + 1) / 2
    return float(above / (positive * (total - positive)))


class LinkTask(Task):
    """Whether two nodes are linked: the dot product of their outputs. Made by `task_from`.

    A fifth of the undirected edges is the test, and the graph that nets see lacks these and a
    tenth of the rest, for validation. The same number of pairs that are not linked is drawn.
    """

    graphs = ("edges", "full")
    nets = NETS
    config = replace(CONFIG, epochs=60, batch_size=None, lr=5e-3)
    metrics = (Metric("ROC AUC", _scored, unit="%", reduce=area_under_roc),)
    dim: ClassVar[int] = 16
    """Outputs of each node."""

    def __init__(self, data: Any, name: str = "links") -> None:
        self.name = name  # type: ignore[misc]
        n, (row, column) = data.num_nodes, data.edge_index
        links = torch.stack([torch.minimum(row, column), torch.maximum(row, column)])
        links = links[:, links[0] != links[1]].unique(dim=1).T  # (links, 2)
        generator = torch.Generator().manual_seed(0)
        links = links[torch.randperm(len(links), generator=generator)]
        others = _pairs_not_linked(links, n, generator)
        label = torch.cat([torch.ones(len(links)), torch.zeros(len(others))]).long()
        self.target = torch.cat([torch.cat([links, others]), label[:, None]], dim=1)  # (pairs, 3)
        cuts = [len(links) // 5, len(links) // 5 + len(links) * 8 // 100]
        self.parts = dict(zip(("test", "val", "train"), _cut(links, others, cuts), strict=True))
        seen = links[cuts[1] :].T
        both = torch.cat([seen, seen.flip(0)], dim=1)
        x = torch.ones(n, 1) if data.x is None else data.x.float()
        self.z, self.on = x, {"edges": _graph(both, n), "full": Full(n)}
        self.interface = IOSpec(x.shape[1], self.dim, "token", n)
        self.summary = f"which of {n:,} nodes are linked"  # type: ignore[misc]

    def splits(self, seed: int) -> Splits:
        return self.parts

    def batch(self, index: Tensor, graph: str) -> Batch:
        return Batch(Tokens(self.z, self.on[graph]), self.target[index])

    def _scores(self, output: Tensor, target: Tensor) -> Tensor:
        return (output[target[:, 0]] * output[target[:, 1]]).sum(-1)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        scores = self._scores(output, target)
        return binary_cross_entropy_with_logits(scores, target[:, 2].float(), reduction="none")

    def predict(self, model: Any, batch: Batch) -> Tensor:
        return self._scores(model(batch), batch.target)

    def baselines(self, seed: int) -> Mapping[str, Mapping[str, float]]:
        """The number of neighbors that both nodes have, in the graph that nets see."""
        near = self.on["edges"].dense().float()
        target = self.target[self.parts["test"]]
        common = (near[target[:, 0]] * near[target[:, 1]]).sum(1)
        return {"common neighbors": {"ROC AUC": area_under_roc(_scored(common, target))}}


def _pairs_not_linked(links: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """The same number of pairs, each once and not in `links`, or all that there are."""
    known = set((links[:, 0] * n + links[:, 1]).tolist())
    wanted = min(len(links), n * (n - 1) // 2 - len(known))
    found: dict[int, None] = {}
    while len(found) < wanted:
        pair = torch.randint(n, (2 * wanted + 8, 2), generator=generator).sort(1).values
        pair = pair[pair[:, 0] < pair[:, 1]]
        for key in (pair[:, 0] * n + pair[:, 1]).tolist():
            if key not in known and len(found) < wanted:
                found[key] = None
    keys = torch.tensor([*found], dtype=torch.long)
    return torch.stack([keys // n, keys % n], dim=1)


def _cut(links: Tensor, others: Tensor, cuts: list[int]) -> list[Tensor]:
    """The test, the validation and the training: of links, and in proportion of other pairs."""
    first = torch.arange(len(links)).tensor_split(cuts)
    scaled = [cut * len(others) // max(1, len(links)) for cut in cuts]
    second = (len(links) + torch.arange(len(others))).tensor_split(scaled)
    return [torch.cat(pair) for pair in zip(first, second, strict=True)]


LEVELS = {"node": NodeTask, "graph": GraphTask, "link": LinkTask}
