"""Graphs that no counting of neighbors tells apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from tokennet.compare.baseline import majority
from tokennet.compare.net import NetSpec
from tokennet.compare.task import Batch, Task, TrainConfig
from tokennet.graphs import Edges, Full, TokenGraph
from tokennet.nets import IOSpec
from tokennet.positional import return_probabilities
from tokennet.tokens import Tokens

NODES, WALK = 41, 16
SKIPS = (2, 3, 4, 5, 6, 9, 11, 12, 13, 16)


def skip_links(nodes: int, skip: int) -> TokenGraph:
    """A cycle of `nodes` with a link from each node to the one `skip` steps on, both ways."""
    i = torch.arange(nodes)
    pairs = torch.cat([torch.stack([i, (i + step) % nodes]) for step in (1, skip)], dim=1)
    return Edges(torch.cat([pairs, pairs.flip(0)], dim=1), nodes)


class CSL(Task):
    """150 circular skip-link graphs of 41 nodes, in ten classes by the length of the skip.

    Murphy et al., 2019 (arXiv 1903.02541). All nodes of all graphs have four neighbors, so
    that message passing sees the same everywhere: 10 %. On "skips+walks" the nodes carry the
    probabilities that a random walk returns, each brought to deviation 1. The seed chooses which
    fifth is the test.
    """

    name = "csl"
    summary = "graphs of 41 nodes alike to message passing (generated); with walks, not alike"
    graphs = ("skips", "skips+walks", "full")
    nets = ("gin@skips", "attention@skips", "gin@skips+walks", "attention@skips+walks")
    recipe = TrainConfig(epochs=60, batch_size=24, lr=5e-3, depth=2, size=15_000)
    interface = IOSpec(in_features=1 + WALK, out_features=len(SKIPS), num_tokens=NODES)

    def __init__(self, copies: int = 15) -> None:
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(len(SKIPS)).repeat_interleave(copies)
        self._sets: dict[str, list[Tokens]] = {name: [] for name in self.graphs}
        codes = torch.cat([return_probabilities(skip_links(NODES, skip), WALK) for skip in SKIPS])
        mean, sd = codes.mean(0), codes.std(0).clamp(min=1e-6)
        for label in self.labels.tolist():
            perm = torch.randperm(NODES, generator=generator)
            graph = skip_links(NODES, SKIPS[label]).relabel(perm)
            z = torch.zeros(NODES, 1 + WALK)
            z[:, 0] = 1.0
            walks = z.clone()
            walks[:, 1:] = (return_probabilities(graph, WALK) - mean) / sd
            self._sets["skips"].append(Tokens(z, graph))
            self._sets["skips+walks"].append(Tokens(walks, graph))
            self._sets["full"].append(Tokens(walks, Full(NODES)))

    def splits(self, seed: int) -> Mapping[str, Tensor]:
        from sklearn.model_selection import StratifiedKFold

        folds = StratifiedKFold(5, shuffle=True, random_state=seed // 5)
        train, test = list(folds.split(self.labels, self.labels))[seed % 5]
        return {"train": torch.tensor(train), "test": torch.tensor(test)}

    def batch(self, index: Tensor, graph: str) -> Batch:
        sets = self._sets[graph]
        return Batch(Tokens.batch([sets[number] for number in index.tolist()]), self.labels[index])

    def baselines(self, seed: int) -> Mapping[str, Mapping[str, float]]:
        splits = self.splits(seed)
        return majority(self.labels[splits["train"]], self.labels[splits["test"]])

    def show(self, model: nn.Module, net: NetSpec, folder: Path) -> None:
        """Which class is taken for which: true classes down, answers across."""
        device = next(model.parameters()).device
        batch = self.batch(self.splits(0)["test"], net.graph).to(device)
        said, count = batch.run(model).argmax(-1), len(SKIPS)
        table = torch.bincount(batch.target * count + said, minlength=count**2).view(count, count)
        rows = [f"true skip down, skip by {net} across", "   " + "".join(f"{s:>3}" for s in SKIPS)]
        for skip, row in zip(SKIPS, table.tolist(), strict=True):
            rows.append(f"{skip:>3}" + "".join(f"{number or '.':>3}" for number in row))
        (folder / "confusion.txt").write_text("\n".join(rows) + "\n")
