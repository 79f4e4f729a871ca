"""Functions of sets: tasks that compare readouts (poolings) with the same mixer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from tokennet.checks import require
from tokennet.compare.metric import Metric, error, squares
from tokennet.compare.task import Batch, Model, NetSpec, StoredTask, TrainConfig, new_figure
from tokennet.graphs import Full, Self
from tokennet.nets import IOSpec
from tokennet.tokens import Tokens


class _SetTask(StoredTask):
    """Sets of any sizes; on the graph "self" tokens do not mix, so that only the readout does."""

    graphs = ("self", "full")
    readouts = ("mean", "sum", "max", "attention")
    nets: ClassVar[tuple[str, ...]] = (
        "mean@self/mean", "mean@self/sum", "mean@self/max", "mean@self/attention",
        "attention@full/mean",
    )  # fmt: skip
    metrics: ClassVar[tuple[Metric, ...]] = (error,)
    tiny: ClassVar = {"examples": 32}
    config = TrainConfig(epochs=12, batch_size=64, lr=3e-3, size=20_000)
    sets: list[Tensor]

    def batch(self, index: Tensor, graph: str) -> Batch:
        on = {"self": Self, "full": Full}[graph]
        sets = [self.sets[number] for number in index.tolist()]
        return Batch(Tokens.batch([Tokens(z, on(len(z))) for z in sets]), self.target[index])

    def write_artifacts(self, model: nn.Module, net: NetSpec, folder: Path) -> None:
        """Eight sets, their targets, and the answers of the net."""
        index, batch = self.test_examples(model, net.graph)
        answers = self.predict(Model(model), batch).flatten().tolist()
        rows = [f"set: target, and the answer of {net}"]
        for number, target, answer in zip(
            index.tolist(), batch.target.tolist(), answers, strict=True
        ):
            values = " ".join(f"{value:g}" for value in self.sets[number].flatten().tolist())
            rows.append(f"{values}: {target:g}  {answer:.2f}")
        (folder / "sample.txt").write_text("\n".join(rows) + "\n")


def _draw_sets(
    seed: int, train: int, sizes: tuple[int, int], values: tuple[int, int]
) -> list[Tensor]:
    """Sets of integers (size, 1) to train on, and new sets for the test: a quarter of them."""
    generator = torch.Generator().manual_seed(seed)
    sets: list[Tensor] = []
    seen: set[tuple[int, ...]] = set()
    while len(sets) < train + train // 4:
        size = int(torch.randint(*sizes, (), generator=generator))
        drawn = torch.randint(*values, (size, 1), generator=generator)
        multiset = tuple(sorted(drawn.flatten().tolist()))
        if len(sets) < train:
            seen.add(multiset)
        elif multiset in seen:
            continue
        sets.append(drawn)
    return sets


class Sets(_SetTask):
    """The largest of one to ten integers between 1 and 100.

    Lee et al., 2019 (arXiv 1810.00825), section 5.1: of mean, sum, max and attention pooling.
    """

    name = "sets"
    summary = "the largest of one to ten numbers (generated); four ways of pooling"
    interface = IOSpec(in_features=1, out_features=1)

    def __init__(self, examples: int = 4_000) -> None:
        drawn = _draw_sets(0, examples, sizes=(1, 11), values=(1, 101))
        self.sets = [numbers.float() for numbers in drawn]
        self.target = torch.stack([numbers.max() for numbers in self.sets])
        self.train_size = examples

    def batch(self, index: Tensor, graph: str) -> Batch:
        batch = super().batch(index, graph)
        tokens = batch.tokens.replace(z=batch.tokens.z / 100)
        return Batch(tokens, batch.target)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return squares(output, target / 100)

    def predict(self, model: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
        return 100 * model(batch)


class SetsUnique(_SetTask):
    """The number of different digits among two to ten.

    The counting of unique characters of Lee et al., 2019 (arXiv 1810.00825), section 5.2, with
    digits in the place of pictures of characters.
    """

    name = "sets-unique"
    summary = "how many different digits are in a set of two to ten (generated)"
    interface = IOSpec(in_features=10, out_features=1, ids=True)

    def __init__(self, examples: int = 4_000) -> None:
        self.sets = _draw_sets(1, examples, sizes=(2, 11), values=(0, 10))
        self.target = torch.tensor([float(len(digits.unique())) for digits in self.sets])
        self.train_size = examples

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return squares(output, target)


def log_likelihood(answer: Tensor, target: Tensor) -> Tensor:
    r"""Mean log density of points (n, M, 2) under mixtures (n, K x 5), in nats: (n,).

        log \sum_k w_k N(x; m_k, diag(s_k^2))

    Of each component: the logit of w, two means, two log s. Points that are NaN do not count.
    """
    parts = answer.unflatten(-1, (-1, 5))[:, None]  # (n, 1, K, 5)
    means, log_sd = parts[..., 1:3], parts[..., 3:].clamp(-4, 4)
    valid = ~target.isnan().any(-1)  # (n, M)
    points = target.nan_to_num()[:, :, None]  # (n, M, 1, 2)
    normal = -((points - means) / log_sd.exp()).square() / 2 - log_sd - math.log(2 * math.pi) / 2
    density = (parts[..., 0].log_softmax(-1) + normal.sum(-1)).logsumexp(-1)  # (n, M)
    return (density * valid).sum(1) / valid.sum(1)


class SetsClusters(_SetTask):
    """Points of four clusters in the plane; the target is the mixture they come from, in one pass.

    Amortized clustering of Lee et al., 2019 (arXiv 1810.00825), section 5.3. The answer is four
    normal distributions and their shares, measured by the density of the points themselves.
    """

    name = "sets-clusters"
    summary = "points of four clusters (generated); the mixture they come from"
    interface = IOSpec(in_features=2, out_features=20)
    metrics = (Metric("log likelihood", log_likelihood, unit="nats/point"),)
    nets = ("mean@self/mean", "mean@self/max", "attention@full/mean", "attention@full/attention")
    seeds = 1
    tiny: ClassVar = {"examples": 16}
    largest = 60

    def __init__(self, examples: int = 2_000) -> None:
        generator = torch.Generator().manual_seed(2)
        total = examples + examples // 4
        self.sets = []
        self.target = torch.full((total, self.largest, 2), math.nan)
        for number in range(total):
            size = int(torch.randint(self.largest // 2, self.largest + 1, (), generator=generator))
            middles = 8 * torch.rand(4, 2, generator=generator) - 4
            owner = torch.randint(4, (size,), generator=generator)
            points = middles[owner] + 0.3 * torch.randn(size, 2, generator=generator)
            self.sets.append(points)
            self.target[number, :size] = points
        self.train_size = examples

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return -log_likelihood(output, target)

    def baselines(self, seed: int) -> Mapping[str, Mapping[str, float]]:
        """One normal distribution, with the mean and deviations of the set itself."""
        densities = []
        for number in self.splits(seed)["test"].tolist():
            points = self.sets[number].double()
            sd = points.std(0, correction=0)
            normal = -((points - points.mean(0)) / sd).square() / 2 - sd.log()
            densities.append((normal - math.log(2 * math.pi) / 2).sum(-1).mean())
        return {"one normal": {"log likelihood": float(torch.stack(densities).mean())}}

    def write_artifacts(self, model: nn.Module, net: NetSpec, folder: Path) -> None:
        """Four sets with the clusters by the net: two deviations about each mean."""
        ellipse_of = require("matplotlib.patches", "compare").Ellipse
        index, batch = self.test_examples(model, net.graph, 4)
        answers = batch.run(model).cpu().unflatten(-1, (-1, 5))
        figure = new_figure((12, 3.2))
        for panel, number, parts in zip(
            figure.subplots(1, 4), index.tolist(), answers, strict=True
        ):
            panel.scatter(*self.sets[number].T, s=6, color="0.3")
            shares = parts[:, 0].softmax(0).tolist()
            for share, (x, y), (a, b) in zip(
                shares, parts[:, 1:3].tolist(), parts[:, 3:].exp().tolist(), strict=True
            ):
                alpha = min(1.0, share + 0.1)
                panel.add_patch(ellipse_of((x, y), 4 * a, 4 * b, alpha=alpha, fill=False))
            panel.set(xlim=(-5, 5), ylim=(-5, 5), aspect="equal")
        figure.suptitle(f"clusters by {net}")
        figure.savefig(folder / "clusters.png", dpi=120)
