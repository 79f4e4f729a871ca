"""One run: a net trained and measured. Lightning Fabric, one plain loop on any device."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tokennet.compare.budget import Width, example_tokens, make_net
from tokennet.compare.task import Batch, Net, Recipe, Task
from tokennet.graphs import TokenGraph
from tokennet.nets import TokenNet, count_parameters
from tokennet.symmetry import relabelling_error, shuffling_error
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
    declared: dict[str, str]
    accuracy: float = 0.0
    """On the test split, at the epoch `best_epoch`."""
    best_epoch: int = 0
    seconds: float = 0.0
    """Training alone, without evaluation."""
    tokens_per_second: float = 0.0
    relabelling_error: float = 0.0
    shuffling_error: float = 0.0
    curves: dict[str, list[float]] = field(default_factory=dict)
    """By epoch: "loss", and the accuracy on each split but "train"."""

    def to_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Job:
    """One run to be made."""

    task: Task
    net: Net
    recipe: Recipe
    width: Width
    seed: int

    def __str__(self) -> str:
        return f"{self.net} seed {self.seed}"


class _Trainable(nn.Module):
    """The net behind a plain signature: Fabric converts tensors, not frozen dataclasses."""

    def __init__(self, net: TokenNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor, graph: TokenGraph, pos: Tensor | None, rows: Tensor | None):
        output = self.net(Tokens(z, graph, pos))
        return output if rows is None else output[rows]


def train(fabric: Fabric, job: Job, on_epoch: Callable[[], None] = lambda: None) -> Run:
    """Train one net with one seed.

    With the same global batch any number of devices agrees, but for what dropout drops.
    """
    torch.manual_seed(job.seed)
    recipe, width = job.recipe, job.width
    token_net = make_net(job.task, job.net, recipe, width)
    example = example_tokens(job.task, job.net)
    run = Run(
        str(job.net), job.seed, width.dim, width.hidden, count_parameters(token_net),
        token_net.flops(example), _declared(token_net, example),
    )  # fmt: skip
    # Each process drops out other channels; with one process nothing changes.
    torch.manual_seed(job.seed + 1_000_003 * fabric.global_rank)
    optimizer = torch.optim.Adam(
        token_net.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
    loop = _Loop(fabric, job, *fabric.setup(_Trainable(token_net), optimizer))
    splits = job.task.splits(job.seed)
    measured = [name for name in splits if name != "train"]
    run.curves = {name: [] for name in ("loss", *measured)}
    tokens_seen = 0
    for epoch in range(recipe.epochs):
        started = time.perf_counter()
        order = torch.Generator().manual_seed(1_000_003 * job.seed + epoch)
        loss, tokens = loop.train_epoch(splits["train"], order)
        schedule.step()
        run.seconds += time.perf_counter() - started
        tokens_seen += tokens
        run.curves["loss"].append(loss)
        for name in measured:
            run.curves[name].append(loop.accuracy(splits[name]))
        on_epoch()
    _conclude(run, tokens_seen)
    _measure_symmetry(run, token_net, example.to(fabric.device))
    return run


@dataclass
class _Loop:
    """The two passes over a split, on this device's share of each global batch."""

    fabric: Fabric
    job: Job
    model: nn.Module
    optimizer: torch.optim.Optimizer

    def train_epoch(self, examples: Tensor, order: torch.Generator) -> tuple[float, int]:
        """Return the mean loss over the examples, and the tokens seen, on all devices."""
        self.model.train()
        shuffled = examples[torch.randperm(len(examples), generator=order)]
        total, tokens = 0.0, 0.0
        for index in shuffled.split(self.job.recipe.batch_size or len(shuffled)):
            batch, weight = self._share(index)
            self.optimizer.zero_grad()
            loss = cross_entropy(self._forward(batch).float(), batch.target, reduction="sum")
            # Devices average their gradients, so that this is the mean over the global batch.
            loss = loss * (weight * self.fabric.world_size / len(index))
            self.fabric.backward(loss)
            self.optimizer.step()
            total += float(loss.detach()) * len(index) / self.fabric.world_size
            tokens += batch.tokens.z.shape[:-1].numel()
        total, tokens = self._sum_over_devices(total, tokens)
        return total / len(examples), int(tokens)

    @torch.no_grad()
    def accuracy(self, examples: Tensor) -> float:
        self.model.eval()
        correct, size = 0.0, self.job.recipe.batch_size
        for index in examples.split(8 * size if size else len(examples)):
            batch, weight = self._share(index)
            hit = self._forward(batch).argmax(-1) == batch.target
            correct += weight * float(hit.sum())
        return self._sum_over_devices(correct)[0] / len(examples)

    def _share(self, index: Tensor) -> tuple[Batch, float]:
        """This device's part of a global batch; a device without one works for weight 0."""
        share = index[self.fabric.global_rank :: self.fabric.world_size]
        batch = self.job.task.batch(share if len(share) else index[:1], self.job.net.graph)
        device = self.fabric.device
        rows = None if batch.rows is None else batch.rows.to(device)
        return Batch(batch.tokens.to(device), batch.target.to(device), rows), float(len(share) > 0)

    def _forward(self, batch: Batch) -> Tensor:
        return self.model(batch.tokens.z, batch.tokens.graph, batch.tokens.pos, batch.rows)

    def _sum_over_devices(self, *values: float) -> list[float]:
        mine = torch.tensor(values, dtype=torch.float64, device=self.fabric.device)
        return self.fabric.all_reduce(mine, reduce_op="sum").tolist()  # type: ignore[union-attr]


def _conclude(run: Run, tokens_seen: int) -> None:
    judge = run.curves.get("val")
    run.best_epoch = len(run.curves["loss"]) - 1
    if judge:
        run.best_epoch = max(range(len(judge)), key=lambda epoch: (judge[epoch], epoch))
    run.accuracy = run.curves["test"][run.best_epoch]
    run.tokens_per_second = tokens_seen / run.seconds if run.seconds else 0.0


def _declared(net: TokenNet, example: Tokens) -> dict[str, str]:
    symmetry = net.symmetry.on(example)
    return {"relabelling": symmetry.relabelling, "shuffling": symmetry.shuffling}


def _measure_symmetry(run: Run, net: TokenNet, example: Tokens) -> None:
    assert net.readout is not None
    invariant = net.readout.is_invariant
    run.relabelling_error = relabelling_error(net, example, invariant=invariant)
    run.shuffling_error = shuffling_error(net, example, invariant=invariant)
