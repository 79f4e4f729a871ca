"""The passes over a split of the data, on this device's share of each global batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tokennet.compare.metric import mean
from tokennet.compare.task import Batch, Model, NetSpec, Task, TrainConfig, Width
from tokennet.graphs import TokenGraph
from tokennet.nets import collect_router_losses
from tokennet.nets.evaluating import evaluating
from tokennet.tokens import Tokens

if TYPE_CHECKING:
    from lightning_fabric import Fabric


BALANCE = 0.01
"""Factor of the loss that balances experts (Fedus et al., 2021)."""
LOSS = "loss of the task"
"""The key of the loss among what is measured, where no metric has that name."""


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


class Trainable(nn.Module):
    """The net with tensors for arguments: Fabric converts tensors, not frozen dataclasses."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, rows: Tensor | None, *given: Plain) -> Tensor:
        output = self.net(*(Tokens(*plain) for plain in given))
        return output if rows is None else output[rows]


def finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _is_spoiled(output: Tensor) -> bool:
    """Whether it holds NaN or infinity; -inf may be the logit of a class that is ruled out."""
    return bool((output.isnan() | (output == math.inf)).any())


@dataclass
class Loop:
    """The two passes over a split, on this device's share of each global batch."""

    fabric: Fabric
    job: Job
    net: nn.Module
    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler

    @property
    def measured(self) -> list[str]:
        """Names of what `measure` returns."""
        return [LOSS, *(metric.name for metric in self.job.task.metrics)]

    def train_epoch(self, examples: Tensor, order: torch.Generator) -> tuple[float, int, int]:
        """Return the mean loss over the examples, the tokens seen on all devices, the steps."""
        config, world = self.job.config, self.fabric.world_size
        shuffled = examples[torch.randperm(len(examples), generator=order)]
        total, tokens = 0.0, 0.0
        parts = shuffled.split(config.batch_size or len(shuffled))
        for index in parts:
            batch, weight = self._share(index)
            self.optimizer.zero_grad()
            # Devices average their gradients, so that this is the mean over the global batch.
            with collect_router_losses(self.net) as routed:
                loss = self._losses(batch).sum() * (weight * world / len(index))
            loss = loss + BALANCE * sum((each.balance for each in routed), torch.zeros(()).to(loss))
            self.fabric.backward(loss)
            if config.clip is not None:
                self.fabric.clip_gradients(
                    self.model,
                    self.optimizer,
                    max_norm=config.clip,
                    error_if_nonfinite=False,  # type: ignore[arg-type]
                )
            self.optimizer.step()
            self.schedule.step()
            total += float(loss.detach()) * len(index) / world
            tokens += batch.tokens.z.shape[:-1].numel()
        sums = torch.tensor([total, tokens], dtype=torch.float64, device=self.fabric.device)
        total, tokens = self.fabric.all_reduce(sums, reduce_op="sum").tolist()  # type: ignore[union-attr]
        return total / len(examples), int(tokens), len(parts)

    def _losses(self, batch: Batch, output: Tensor | None = None) -> Tensor:
        task = self.job.task
        output = (self._forward(batch) if output is None else output).float()
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

    def measure(
        self, examples: Tensor, kept: dict[str, Tensor] | None = None
    ) -> dict[str, float | None] | None:
        """The loss and the metrics on these examples, None for one that is not finite.

        None for all if an output is not finite: the largest of NaN is some class too.

        Args:
            kept: receives the numbers of the examples, their targets, the rows of each metric and
                the answers.
        """
        task, size = self.job.task, self.job.config.batch_size
        rows: dict[str, list[Tensor]] = {name: [] for name in self.measured}
        parts: dict[str, list[Tensor]] = {"index": [], "answer": [], "target": []}
        spoiled, outputs = False, dict[int, Tensor]()

        def run(given: Batch) -> Tensor:
            nonlocal spoiled
            output = outputs[id(given)] = self._forward(given)
            spoiled = spoiled or _is_spoiled(output)
            # The answers do not count any more where it is spoiled, and should not raise.
            return output.nan_to_num() if _is_spoiled(output) else output

        with evaluating(self.model):
            for index in examples.split(8 * size if size else len(examples)):
                batch, weight = self._share(index)
                outputs.clear()
                answer = task.predict(Model(self.net, run), batch)
                found = {LOSS: self._losses(batch, outputs.get(id(batch)))}
                found |= {m.name: m.values(answer, batch.target) for m in task.metrics}
                for name, values in found.items():
                    rows[name].append(values.double() if weight else values.double()[:0])
                share = index[self.fabric.global_rank :: self.fabric.world_size]
                parts["index"].append(share.to(self.fabric.device))
                if isinstance(answer, Tensor) and kept is not None:
                    parts["answer"].append(answer.float() if weight else answer.float()[:0])
                    parts["target"].append(batch.target if weight else batch.target[:0])
        if self.has_diverged(spoiled):
            return None
        if kept is not None:
            columns = {**{m.name: rows[m.name] for m in task.metrics}, **parts}
            for name, tensors in columns.items():
                if len(tensors) == len(parts["index"]):
                    kept[name] = self._of_all_devices(torch.cat(tensors)).cpu()
        reduce = {LOSS: mean, **{metric.name: metric.reduce for metric in task.metrics}}
        return {
            name: finite(float(reduce[name](self._of_all_devices(torch.cat(values)))))
            for name, values in rows.items()
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
