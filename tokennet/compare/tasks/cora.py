"""Cora, a citation graph: its nodes are both the tokens and the examples."""

from __future__ import annotations

from torch import Tensor

from tokennet.compare.data import load
from tokennet.compare.metric import Splits
from tokennet.compare.task import Batch, StoredTask, TrainConfig
from tokennet.graphs import Full, Self, from_pyg
from tokennet.nets import IOSpec
from tokennet.tokens import Tokens


class Cora(StoredTask):
    """The citation graph of 2,708 papers in 7 fields, with its public split.

    140 papers to learn from, 500 to validate, 1,000 to test (Yang, Cohen, Salakhutdinov,
    2016, arXiv 1603.08861). Each paper attends to those it cites or is cited by, and to
    itself.
    """

    name = "cora"
    summary = "2,708 papers in 7 fields (Planetoid, public split); tokens on the citation graph"
    graphs = ("citation", "full")
    nets = ("attention@citation", "gat@citation", "gcn@citation", "attention@full", "none@citation")
    seeds = 2
    dataset = "Cora"
    config = TrainConfig(
        epochs=60, lr=5e-3, weight_decay=1e-2, depth=4, num_heads=8, mlp_ratio=0.1, dropout=0.6,
        size=200_000,
    )  # fmt: skip
    interface = IOSpec(in_features=1433, out_features=7, readout="token", num_tokens=2708)

    def __init__(self) -> None:
        from torch_geometric.datasets import Planetoid
        from torch_geometric.transforms import NormalizeFeatures

        normalize = NormalizeFeatures()
        self.data = load("Cora", lambda root: Planetoid(root, "Cora", transform=normalize)[0])
        self.target, n = self.data.y, self.data.num_nodes
        self.on = {"citation": from_pyg(self.data) | Self(n), "full": Full(n)}

    def splits(self, seed: int) -> Splits:
        masks = {name: self.data[f"{name}_mask"] for name in ("train", "val", "test")}
        return {name: mask.nonzero().flatten() for name, mask in masks.items()}

    def batch(self, index: Tensor, graph: str) -> Batch:
        return Batch(Tokens(self.data.x, self.on[graph]), self.target[index], rows=index)
