"""One run: a net is trained and measured, by one loop on Lightning Fabric for any device."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import torch
from torch import Tensor, nn

from tokennet.compare.budget import example, flops_of
from tokennet.compare.metric import Splits
from tokennet.compare.task import RESULTS, Batch, Model, NetSpec, Task, TrainConfig, Width
from tokennet.graphs import TokenGraph
from tokennet.nets import TokenNet, count_parameters
from tokennet.nets.evaluating import evaluating
from tokennet.testing import relabeling_error, shuffling_error
from tokennet.tokens import Tokens

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass
class Run:
    """The result of one training run."""

    net: str
    seed: int
    dim: int
    hidden: int
    parameters: int
    flops: int
    """Forward, for one example."""
    declared: dict[str, str] | None = None
    """None for a net whose symmetry is not declared, such as an encoder with a decoder."""
    scores: dict[str, float | None] = field(default_factory=dict)
    """Metrics on the test split, at the epoch `best_epoch`; None for all if the run diverged."""
    best_epoch: int | None = 0
    """From 0; None if the run diverged."""
    diverged: int | None = None
    """The epoch, from 1, in which the loss, a parameter, an output or the first score was not a
    finite number; training ended there. None for a run that did not diverge."""
    seconds: float = 0.0
    """Training alone, without evaluation."""
    tokens_per_second: float = 0.0
    relabeling_error: float | None = None
    """None where the mixer refuses the relabeled graph, or nothing is declared."""
    shuffling_error: float | None = None
    curves: dict[str, list[float | None]] = field(default_factory=dict)
    """By epoch: "loss", and for each split but "train" the first metric under the name of the
    split, further ones as "test exact match". None for what is not a finite number."""

    def __str__(self) -> str:
        return f"{self.net} seed {self.seed}"


@dataclass(frozen=True)
class Job:
    """One run to do."""

    task: Task
    net: NetSpec
    config: TrainConfig
    width: Width
    seed: int

    def __str__(self) -> str:
        return f"{self.net} seed {self.seed}"


Plain = tuple[Tensor, TokenGraph, Tensor | None]


class _Trainable(nn.Module):
    """The net with tensors for arguments: Fabric converts tensors, not frozen dataclasses."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, rows: Tensor | None, *given: Plain) -> Tensor:
        output = self.net(*(Tokens(*plain) for plain in given))
        return output if rows is None else output[rows]


def train(
    fabric: Fabric,
    job: Job,
    on_epoch: Callable[[int], None] = lambda epochs_done: None,
    artifacts: Path | None = None,
) -> Run:
    """Train one net with one seed; its artifacts go to the folder `artifacts`.

    A run whose numbers are not finite any more ends there: see `Run.diverged`.

    Any number of devices computes the same with the same global batch, except for dropout.
    Submodules are trained in the mode, train or eval, in which `Task.build` returns them.
    """
    torch.manual_seed(job.seed)
    config, width = job.config, job.width
    net = job.task.build(job.net, config, width)
    for part in net.modules():  # all nets are given the same, whatever they read of it
        if isinstance(part, TokenNet):
            part.warns_of_positions = False
    batch = example(job.task, job.net)
    run = Run(
        str(job.net), job.seed, width.dim, width.hidden, count_parameters(net), flops_of(net, batch)
    )
    # Each process drops out other channels; the first process is seeded as a single one.
    torch.manual_seed(job.seed + 1_000_003 * fabric.global_rank)
    optimizer = torch.optim.Adam(net.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    splits = job.task.splits(job.seed)
    steps = math.ceil(len(splits["train"]) / (config.batch_size or len(splits["train"])))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, config.epochs * (steps if config.smooth else 1)
    )
    model, tuned = fabric.setup(_Trainable(net), optimizer)
    loop = _Loop(fabric, job, net, model, tuned, schedule)
    _train_epochs(run, loop, splits, on_epoch)
    with evaluating(net):
        _measure_symmetry(run, net, batch.tokens.to(fabric.device))
        wanted = artifacts is not None and job.task.has_artifacts and not run.diverged
        if wanted and fabric.is_global_zero:
            _write_artifacts(job, net, artifacts)  # type: ignore[arg-type]
    return run


def _train_epochs(run: Run, loop: _Loop, splits: Splits, on_epoch: Callable[[int], None]) -> None:
    """Train, and fill in the curves and the scores."""
    job, tokens_seen, tests = loop.job, 0, []
    for epoch in range(job.config.epochs):
        started = time.perf_counter()
        order = torch.Generator().manual_seed(1_000_003 * job.seed + epoch)
        loss, tokens = loop.train_epoch(splits["train"], order)
        run.seconds += time.perf_counter() - started
        tokens_seen += tokens
        run.curves.setdefault("loss", []).append(_finite(loss))
        diverged = loop.has_diverged(not math.isfinite(loss))
        for split in splits:
            if split == "train":
                continue
            found = None if diverged else loop.scores(splits[split])
            diverged = found is None
            scores = found or dict.fromkeys((metric.name for metric in job.task.metrics), None)
            for i, (name, score) in enumerate(scores.items()):
                run.curves.setdefault(f"{split} {name}" if i else split, []).append(score)
            if split == "test":
                tests.append(scores)
        on_epoch(epoch + 1)
        if diverged:
            run.diverged = epoch + 1
            break
    run.tokens_per_second = tokens_seen / run.seconds if run.seconds else 0.0
    first, validation = job.task.metrics[0], run.curves.get("val")
    best = first.best(validation) if validation else len(tests) - 1
    if run.diverged is None and tests[best][first.name] is None:
        run.diverged = best + 1
    run.best_epoch = None if run.diverged else best
    run.scores = dict.fromkeys(tests[best], None) if run.diverged else tests[best]


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _is_spoiled(output: Tensor) -> bool:
    """Whether it holds NaN or infinity; -inf may be the logit of a class that is ruled out."""
    return bool((output.isnan() | (output == math.inf)).any())


def _write_artifacts(job: Job, net: nn.Module, folder: Path) -> None:
    """Complete files only, though another comparison may write the same."""
    unfinished = folder.with_name(f".{folder.name}.{uuid4().hex}")
    unfinished.mkdir(parents=True)
    try:
        job.task.write_artifacts(net, job.net, unfinished)
        taken = sorted({path.name for path in unfinished.iterdir()} & {*RESULTS, "runs"})
        if taken:
            raise ValueError(
                f"task {job.task.name}: write_artifacts must not write {', '.join(taken)}, which "
                "the comparison writes"
            )
        shutil.copytree(unfinished, folder, copy_function=os.replace, dirs_exist_ok=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


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
        config, world = self.job.config, self.fabric.world_size
        shuffled = examples[torch.randperm(len(examples), generator=order)]
        total, tokens = 0.0, 0.0
        for index in shuffled.split(config.batch_size or len(shuffled)):
            batch, weight = self._share(index)
            self.optimizer.zero_grad()
            # Devices average their gradients, so that this is the mean over the global batch.
            loss = self._losses(batch).sum() * (weight * world / len(index))
            self.fabric.backward(loss)
            if config.clip is not None:
                self.fabric.clip_gradients(
                    self.model,
                    self.optimizer,
                    max_norm=config.clip,
                    error_if_nonfinite=False,  # type: ignore[arg-type]
                )
            self.optimizer.step()
            if config.smooth:
                self.schedule.step()
            total += float(loss.detach()) * len(index) / world
            tokens += batch.tokens.z.shape[:-1].numel()
        if not config.smooth:
            self.schedule.step()
        sums = torch.tensor([total, tokens], dtype=torch.float64, device=self.fabric.device)
        total, tokens = self.fabric.all_reduce(sums, reduce_op="sum").tolist()  # type: ignore[union-attr]
        return total / len(examples), int(tokens)

    def _losses(self, batch: Batch) -> Tensor:
        output, task = self._forward(batch).float(), self.job.task
        if _is_spoiled(output):  # the net diverged; some losses, such as matchings, would raise
            return output * math.nan
        losses = task.loss(output, batch.target)
        if losses.shape != batch.target.shape[:1]:
            raise ValueError(
                f"task {task.name}: loss must have shape {tuple(batch.target.shape[:1])}, "
                f"one for each example; got {tuple(losses.shape)}"
            )
        return losses

    def has_diverged(self, spoiled: bool) -> bool:
        """Whether something was not finite on any device, or a parameter is not."""
        spoiled = spoiled or not all(bool(p.isfinite().all()) for p in self.net.parameters())
        count = torch.tensor(float(spoiled), device=self.fabric.device)
        return bool(self.fabric.all_reduce(count, reduce_op="sum"))

    def scores(self, examples: Tensor) -> dict[str, float | None] | None:
        """The metrics on these examples, None for one that is not finite.

        None for all if an output is not finite: the largest of NaN is some class too.
        """
        task, size = self.job.task, self.job.config.batch_size
        rows: dict[str, list[Tensor]] = {metric.name: [] for metric in task.metrics}
        spoiled = False

        def run(batch: Batch) -> Tensor:
            nonlocal spoiled
            output = self._forward(batch)
            if not _is_spoiled(output):
                return output
            spoiled = True
            return output.nan_to_num()  # the answers do not count any more, and should not raise

        with evaluating(self.model):
            for index in examples.split(8 * size if size else len(examples)):
                batch, weight = self._share(index)
                answer = task.predict(Model(self.net, run), batch)
                for metric in task.metrics:
                    values = metric.values(answer, batch.target).double()
                    rows[metric.name].append(values if weight else values[:0])
        if self.has_diverged(spoiled):
            return None
        return {
            metric.name: _finite(
                float(metric.reduce(self._of_all_devices(torch.cat(rows[metric.name]))))
            )
            for metric in task.metrics
        }

    def _share(self, index: Tensor) -> tuple[Batch, float]:
        """This device's part of a global batch; without a part, an example of weight 0."""
        share = index[self.fabric.global_rank :: self.fabric.world_size]
        batch = self.job.task.batch(share if len(share) else index[:1], self.job.net.graph)
        return batch.to(self.fabric.device), float(len(share) > 0)

    def _forward(self, batch: Batch) -> Tensor:
        return self.model(batch.rows, *((t.z, t.graph, t.pos) for t in batch.given))

    def _of_all_devices(self, rows: Tensor) -> Tensor:
        """The rows of all devices, whose numbers of rows may differ."""
        if self.fabric.world_size == 1:
            return rows
        counts = self.fabric.all_gather(torch.tensor(len(rows), device=rows.device)).tolist()  # type: ignore[union-attr]
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = zip(self.fabric.all_gather(padded), counts, strict=True)
        return torch.cat([part[:count] for part, count in parts])


def _measure_symmetry(run: Run, net: nn.Module, tokens: Tokens) -> None:
    """What the net declares, and how far it is from that; nothing for a net with a source."""
    if not isinstance(net, TokenNet) or net.needs_source or net.readout is None:
        return
    symmetry, invariant = net.symmetry.on(tokens), net.readout.is_invariant
    run.declared = {"relabeling": symmetry.relabeling, "shuffling": symmetry.shuffling}
    if run.diverged:
        return
    # The fixed sparsity pattern of a convolution does not fit the relabeled graph.
    with suppress(ValueError):
        run.relabeling_error = _finite(relabeling_error(net, tokens, invariant=invariant))
    run.shuffling_error = _finite(shuffling_error(net, tokens, invariant=invariant))
