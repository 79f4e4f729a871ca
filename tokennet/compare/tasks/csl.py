"""Circular skip links: regular graphs that message passing cannot distinguish."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from tokennet.compare.task import FoldedTask, NetSpec, TrainConfig
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


class CSL(FoldedTask):
    """150 circular skip-link graphs of 41 nodes, in ten classes by the length of the skip.

    Murphy et al., 2019 (arXiv 1903.02541). All nodes of all graphs have four neighbors, so
    that message passing computes the same for every node: 10 %. On "skips+walks" the features of
    a node are the probabilities that a random walk returns to it, scaled to deviation 1. The seed
    chooses which fifth is the test.
    """

    name = "csl"
    summary = "regular graphs of 41 nodes (generated), without or with random walks as features"
    graphs = ("skips", "skips+walks", "full")
    nets = (
        "gin@skips", "attention@skips", "gin@skips+walks", "attention@skips+walks",
        "none@skips+walks",
    )  # fmt: skip
    tiny: ClassVar = {"copies": 5}
    folds = 5
    config = TrainConfig(epochs=60, batch_size=24, lr=5e-3, depth=2, size=15_000)
    interface = IOSpec(in_features=1 + WALK, out_features=len(SKIPS), num_tokens=NODES)

    def __init__(self, copies: int = 15) -> None:
        generator = torch.Generator().manual_seed(0)
        self.target = torch.arange(len(SKIPS)).repeat_interleave(copies)
        self.sets: dict[str, list[Tokens]] = {name: [] for name in self.graphs}
        returns = torch.cat([return_probabilities(skip_links(NODES, skip), WALK) for skip in SKIPS])
        mean, sd = returns.mean(0), returns.std(0).clamp(min=1e-6)
        for label in self.target.tolist():
            perm = torch.randperm(NODES, generator=generator)
            graph = skip_links(NODES, SKIPS[label]).relabel(perm)
            z = torch.zeros(NODES, 1 + WALK)
            z[:, 0] = 1.0
            walks = z.clone()
            walks[:, 1:] = (return_probabilities(graph, WALK) - mean) / sd
            self.sets["skips"].append(Tokens(z, graph))
            self.sets["skips+walks"].append(Tokens(walks, graph))
            self.sets["full"].append(Tokens(walks, Full(NODES)))

    def write_artifacts(self, model: nn.Module, net: NetSpec, folder: Path) -> None:
        """The confusion matrix: true classes down, answers across."""
        _, batch = self.test_examples(model, net.graph, len(self.target))
        answer, count = batch.run(model).argmax(-1), len(SKIPS)
        table = torch.bincount(batch.target * count + answer, minlength=count**2).view(count, count)
        rows = [f"true skip down, skip by {net} across", "   " + "".join(f"{s:>3}" for s in SKIPS)]
        for skip, row in zip(SKIPS, table.tolist(), strict=True):
            rows.append(f"{skip:>3}" + "".join(f"{number or '.':>3}" for number in row))
        (folder / "confusion.txt").write_text("\n".join(rows) + "\n")
