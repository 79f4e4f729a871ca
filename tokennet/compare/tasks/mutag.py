"""MUTAG, molecules of several sizes: a task on ragged batches."""

from __future__ import annotations

import torch

from tokennet.compare.data import load
from tokennet.compare.task import FoldedTask, TrainConfig
from tokennet.graphs import Full, Self
from tokennet.nets import IOSpec
from tokennet.tokens import Tokens


class Mutag(FoldedTask):
    """188 molecules of 10 to 28 atoms, mutagenic or not (Debnath et al., 1991).

    From the TUDataset collection (Morris et al., 2020, arXiv 2007.08663). The seed
    chooses which tenth of the molecules is the test.
    """

    name = "mutag"
    summary = "188 molecules, mutagenic or not (TUDataset); atoms as tokens, a ragged batch"
    graphs = ("bonds", "full")
    nets = (
        "attention@bonds",
        "attention@full",
        "gat@bonds",
        "sum@bonds",
        "gcn@bonds",
        "none@bonds",
    )
    dataset = "MUTAG"
    folds = 10
    config = TrainConfig(
        epochs=120, batch_size=32, lr=2e-3, weight_decay=1e-4, depth=3, size=40_000
    )
    interface = IOSpec(in_features=7, out_features=2, readout="mean")

    def __init__(self) -> None:
        from torch_geometric.datasets import TUDataset

        dataset = load("MUTAG", lambda root: TUDataset(root, "MUTAG"))
        self.target = torch.cat([data.y for data in dataset])
        bonds = []
        for data in dataset:
            data.edge_attr = None
            tokens = Tokens.from_pyg(data)
            bonds.append(tokens.replace(graph=tokens.graph | Self(tokens.num_tokens)))
        full = [tokens.replace(graph=Full(tokens.num_tokens)) for tokens in bonds]
        self.sets = {"bonds": bonds, "full": full}
