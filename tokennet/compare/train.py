"""One run: a net trained and measured. Lightning Fabric, one plain loop on any device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from tokennet.compare.budget import example, flops_of
from tokennet.compare.net import NetSpec, Width
from tokennet.compare.task import Batch, Model, Task, TrainConfig
from tokennet.graphs import TokenGraph
from tokennet.nets import TokenNet, count_parameters
from tokennet.testing import relabeling_error, shuffling_error
from tokennet.tokens import Tokens


@dataclass
class Run:
    """What one training run gave."""

    net: str
    seed: int
    dim: int
    hidden: int
    parameters: int
    flops: int
    """Forward, for one example."""
    declared: dict[str, str] | None
    """None for a net whose symmetry is not declared, such as an encoder with a decoder."""
    scores: dict[str, float] = field(default_factory=dict)
    """Metrics on the test split, at the epoch `best_epoch`."""
    best_epoch: int = 0
    seconds: float = 0.0
    """Training alone, without evaluation."""
    tokens_per_second: float = 0.0
    relabeling_error: float | None = None
    """None where the mixer refuses the graph once it is moved, or nothing is declared."""
    shuffling_error: float | None = None
    curves: dict[str, list[float]] = field(default_factory=dict)
    """By epoch: "loss", and for each split but "train" the first metric under the name of the
    split, further ones as "test exact match"."""

    def to_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Job:
    """One run to be made."""

    task: Task
    net: NetSpec
    recipe: TrainConfig
    width: Width
    seed: int

    def __str__(self) -> str:
        return f"{self.net} seed {self.seed}"


Plain = tuple[Tensor, TokenGraph, Tensor | None]


class _Trainable(nn.Module):
    """The net behind a plain signature: Fabric converts tensors, not frozen dataclasses."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, tokens: Plain, source: Plain | None, rows: Tensor | None) -> Tensor:
        listened = None if source is None else Tokens(*source)
        return Batch(Tokens(*tokens), tokens[0], rows, listened).run(self.net)


def train(
    fabric: Fabric,
    job: Job,
    on_epoch: Callable[[], None] = lambda: None,
    show_in: Path | None = None,
) -> Run:
    """Train one net with one seed; what it has to show goes to the folder `show_in`.

    With the same global batch any number of devices agrees, but for what dropout drops.
    """
    torch.manual_seed(job.seed)
    recipe, width = job.recipe, job.width
    net = job.task.build(job.net, recipe, width)
    batch = example(job.task, job.net)
    run = Run(
        str(job.net), job.seed, width.dim, width.hidden, count_parameters(net),
        flops_of(net, batch), _declared(net, batch.tokens),
    )  # fmt: skip
    # Each process drops out other channels; with one process nothing changes.
    torch.manual_seed(job.seed + 1_000_003 * fabric.global_rank)
    optimizer = torch.optim.Adam(net.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    splits = job.task.splits(job.seed)
    steps = math.ceil(len(splits["train"]) / (recipe.batch_size or len(splits["train"])))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, recipe.epochs * (steps if recipe.smooth else 1)
    )
    model, tuned = fabric.setup(_Trainable(net), optimizer)
    loop = _Loop(fabric, job, net, model, tuned, schedule)
    tokens_seen = 0
    for epoch in range(recipe.epochs):
        started = time.perf_counter()
        order = torch.Generator().manual_seed(1_000_003 * job.seed + epoch)
        loss, tokens = loop.train_epoch(splits["train"], order)
        run.seconds += time.perf_counter() - started
        tokens_seen += tokens
        run.curves.setdefault("loss", []).append(loss)
        for split in splits:
            if split != "train":
                _record(run, split, loop.scores(splits[split]))
        on_epoch()
    _conclude(run, job.task, tokens_seen)
    if run.declared is not None:
        _measure_symmetry(run, net, batch.tokens.to(fabric.device))
    if show_in is not None and job.task.shows and fabric.is_global_zero:
        show_in.mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            job.task.show(net.eval(), job.net, show_in)
    return run


@dataclass
class _Loop:
    """The two passes over a split, on this device's share of each global batch."""

    fabric: Fabric
    job: Job
    net: nn.Module
    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler

    def train_epoch(self, examples: Tensor, order: torch.Generator) -> tuple[float, int]:
        """Return the mean loss over the examples, and the tokens seen, on all devices."""
        self.model.train()
        recipe, world = self.job.recipe, self.fabric.world_size
        shuffled = examples[torch.randperm(len(examples), generator=order)]
        total, tokens = 0.0, 0.0
        for index in shuffled.split(recipe.batch_size or len(shuffled)):
            batch, weight = self._share(index)
            self.optimizer.zero_grad()
            losses = self.job.task.loss(self._forward(batch).float(), batch.target)
            if losses.shape != batch.target.shape[:1]:
                raise ValueError(
                    f"task {self.job.task.name}: loss must have shape "
                    f"{tuple(batch.target.shape[:1])}, one for each example; "
                    f"got {tuple(losses.shape)}"
                )
            # Devices average their gradients, so that this is the mean over the global batch.
            loss = losses.sum() * (weight * world / len(index))
            self.fabric.backward(loss)
            if recipe.clip is not None:
                self.fabric.clip_gradients(self.model, self.optimizer, max_norm=recipe.clip)  # type: ignore[arg-type]
            self.optimizer.step()
            if recipe.smooth:
                self.schedule.step()
            total += float(loss.detach()) * len(index) / world
            tokens += batch.tokens.z.shape[:-1].numel()
        if not recipe.smooth:
            self.schedule.step()
        total, tokens = self._sum_over_devices(total, tokens)
        return total / len(examples), int(tokens)

    @torch.no_grad()
    def scores(self, examples: Tensor) -> dict[str, float]:
        """The metrics on these examples."""
        self.model.eval()
        task, size = self.job.task, self.job.recipe.batch_size
        rows: dict[str, list[Tensor]] = {metric.name: [] for metric in task.metrics}
        for index in examples.split(8 * size if size else len(examples)):
            batch, weight = self._share(index)
            answer = task.predict(Model(self.net, self._forward), batch)
            for metric in task.metrics:
                values = metric.values(answer, batch.target).double()
                rows[metric.name].append(values if weight else values[:0])
        return {
            metric.name: metric.reduce(self._of_all_devices(torch.cat(rows[metric.name])))
            for metric in task.metrics
        }

    def _share(self, index: Tensor) -> tuple[Batch, float]:
        """This device's part of a global batch; a device without one works for weight 0."""
        share = index[self.fabric.global_rank :: self.fabric.world_size]
        batch = self.job.task.batch(share if len(share) else index[:1], self.job.net.graph)
        return batch.to(self.fabric.device), float(len(share) > 0)

    def _forward(self, batch: Batch) -> Tensor:
        source = None if batch.source is None else _plain(batch.source)
        return self.model(_plain(batch.tokens), source, batch.rows)

    def _sum_over_devices(self, *values: float) -> list[float]:
        mine = torch.tensor(values, dtype=torch.float64, device=self.fabric.device)
        return self.fabric.all_reduce(mine, reduce_op="sum").tolist()  # type: ignore[union-attr]

    def _of_all_devices(self, rows: Tensor) -> Tensor:
        """The rows of every device, of which each may have another number."""
        if self.fabric.world_size == 1:
            return rows
        counts = self.fabric.all_gather(torch.tensor(len(rows), device=rows.device)).tolist()  # type: ignore[union-attr]
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = zip(self.fabric.all_gather(padded), counts, strict=True)
        return torch.cat([part[:count] for part, count in parts])


def _plain(tokens: Tokens) -> Plain:
    return tokens.z, tokens.graph, tokens.pos


def _record(run: Run, split: str, figures: dict[str, float]) -> None:
    for place, (name, figure) in enumerate(figures.items()):
        run.curves.setdefault(f"{split} {name}" if place else split, []).append(figure)


def _conclude(run: Run, task: Task, tokens_seen: int) -> None:
    judge = run.curves.get("val")
    run.best_epoch = task.metrics[0].best(judge) if judge else len(run.curves["loss"]) - 1
    for place, metric in enumerate(task.metrics):
        curve = run.curves[f"test {metric.name}" if place else "test"]
        run.scores[metric.name] = curve[run.best_epoch]
    run.tokens_per_second = tokens_seen / run.seconds if run.seconds else 0.0


def _declared(net: nn.Module, tokens: Tokens) -> dict[str, str] | None:
    if not isinstance(net, TokenNet) or net.needs_source or net.readout is None:
        return None
    symmetry = net.symmetry.on(tokens)
    return {"relabeling": symmetry.relabeling, "shuffling": symmetry.shuffling}


def _measure_symmetry(run: Run, net: nn.Module, tokens: Tokens) -> None:
    assert isinstance(net, TokenNet)
    assert net.readout is not None
    invariant = net.readout.is_invariant
    try:
        run.relabeling_error = relabeling_error(net, tokens, invariant=invariant)
    except ValueError:
        # Connections of the mixer's own (a convolution's) are no edges of the moved graph.
        run.relabeling_error = None
    run.shuffling_error = shuffling_error(net, tokens, invariant=invariant)
