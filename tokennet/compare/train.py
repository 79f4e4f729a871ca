"""One run: a net is trained and measured, by one loop on Lightning Fabric for any device."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tokennet.compare.budget import example, flops_of
from tokennet.compare.data import with_validation
from tokennet.compare.kept import whole_folder, write_kept
from tokennet.compare.loop import Job, Loop, Trainable, finite
from tokennet.compare.metric import Splits
from tokennet.compare.own_nets import OwnSpec, quiet
from tokennet.compare.task import FOLDERS, RESULTS
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
    flops: int | None
    """Forward, for one example; None where they cannot be counted."""
    own: str | None = None
    """Of a net of your own: how it is called, made and trained."""
    declared: dict[str, str] | None = None
    """None for a net whose symmetry is not declared, such as an encoder with a decoder."""
    scores: dict[str, float | None] = field(default_factory=dict)
    """Metrics on the test split, which is read once, with the parameters of the epoch
    `best_epoch`; None for all if the run diverged."""
    best_epoch: int | None = 0
    """From 0: with the best first metric on the validation split, or the last one if there is no
    such split; None if the run diverged."""
    steps: int = 0
    """Of the optimizer."""
    converged: bool | None = None
    """Whether the loss on the validation split was no better, by 1 % or more, in the last fifth of
    the epochs than before; None without such a split, and for a run that diverged."""
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
    """By epoch: "loss" in training, and on the validation split "val loss", the first metric as
    "val", further ones as "val exact match". None for what is not a finite number."""

    def __str__(self) -> str:
        return f"{self.net} seed {self.seed}"


def train(
    fabric: Fabric,
    job: Job,
    on_epoch: Callable[[int], None] = lambda epochs_done: None,
    artifacts: Path | None = None,
    kept: Path | None = None,
) -> Run:
    """Train one net with one seed; its artifacts go to the folder `artifacts`.

    Parameters and answers go to the folder `kept`, unless it diverged.

    A run whose numbers are not finite any more ends there: see `Run.diverged`. On a CPU it has
    one thread: several runs at once are `compare(workers=)`.

    Any number of devices computes the same with the same global batch, except for dropout.
    Submodules are trained in the mode, train or eval, in which `Task.build` returns them.
    """
    with _one_thread(fabric.device):
        return _train(fabric, job, on_epoch, artifacts, kept)


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU the same numbers whatever the cores; small nets are no faster on two threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if device.type == "cpu" else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _train(
    fabric: Fabric, job: Job, on_epoch: Callable[[int], None], artifacts: Path | None,
    kept: Path | None,
) -> Run:  # fmt: skip
    torch.manual_seed(job.seed)
    config, width = job.config, job.width
    net = quiet(job.net.build(job.task, config, width))
    batch = example(job.task, job.net)
    own = job.net.describe(width) if isinstance(job.net, OwnSpec) else None
    size, flops = count_parameters(net), flops_of(net, batch)
    run = Run(str(job.net), job.seed, width.dim, width.hidden, size, flops, own)
    # Each process drops out other channels; the first process is seeded as a single one.
    torch.manual_seed(job.seed + 1_000_003 * fabric.global_rank)
    optimizer = torch.optim.Adam(net.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    splits = with_validation(job.task.splits(job.seed))
    steps = config.epochs * math.ceil(
        len(splits["train"]) / (config.batch_size or len(splits["train"]))
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, partial(_rate, warmup=config.warmup * steps, steps=steps)
    )
    model, tuned = fabric.setup(Trainable(net), optimizer)
    loop = Loop(fabric, job, net, model, tuned, schedule)
    answers = dict[str, Tensor]()
    _train_epochs(run, loop, splits, on_epoch, answers)
    with evaluating(net):
        _measure_symmetry(run, net, batch.tokens.to(fabric.device))
        wanted = artifacts is not None and job.task.has_artifacts and not run.diverged
        if wanted and fabric.is_global_zero:
            _write_artifacts(job, net, artifacts)  # type: ignore[arg-type]
    if kept is not None and not run.diverged and fabric.is_global_zero:
        write_kept(net, answers, kept)
    return run


def _rate(step: int, warmup: float, steps: int) -> float:
    """The learning rate of a step over its peak: rises linearly, then falls as a cosine."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / max(1.0, steps - warmup))


def _train_epochs(
    run: Run, loop: Loop, splits: Splits, on_epoch: Callable[[int], None], kept: dict[str, Tensor]
) -> None:
    """Train, and fill in the curves and the scores; the net is left as at the best epoch."""
    first, tokens_seen, state = loop.job.task.metrics[0], 0, {}
    for epoch in range(loop.job.config.epochs):
        started = time.perf_counter()
        order = torch.Generator().manual_seed(1_000_003 * loop.job.seed + epoch)
        loss, tokens, steps = loop.train_epoch(splits["train"], order)
        run.seconds += time.perf_counter() - started
        run.steps += steps
        tokens_seen += tokens
        run.curves.setdefault("loss", []).append(finite(loss))
        diverged = loop.has_diverged(not math.isfinite(loss))
        if "val" in splits:
            found = None if diverged else loop.measure(splits["val"])
            diverged = found is None
            _extend(run.curves, found or dict.fromkeys(loop.measured, None))
        if loop.fabric.loggers:
            now = {name: curve[-1] for name, curve in run.curves.items()}
            known = {f"{loop.job}/{name}": v for name, v in now.items() if v is not None}
            loop.fabric.log_dict(known, step=epoch + 1)
        on_epoch(epoch + 1)
        if diverged:
            run.diverged = epoch + 1
            break
        if "val" not in splits or first.best(run.curves["val"]) == epoch:
            state = {name: value.clone() for name, value in loop.net.state_dict().items()}
            run.best_epoch = epoch
    run.tokens_per_second = tokens_seen / run.seconds if run.seconds else 0.0
    found = None
    if not run.diverged:
        loop.net.load_state_dict(state)
        found = loop.measure(splits["test"], kept)
        run.converged = _converged(run.curves.get("val loss", []))
    if found is None or found[first.name] is None:
        run.diverged = run.diverged or (run.best_epoch or 0) + 1
        run.best_epoch, run.converged = None, None
    names = [metric.name for metric in loop.job.task.metrics]
    run.scores = {name: None if run.diverged else found[name] for name in names}  # type: ignore[index]


def _extend(curves: dict[str, list[float | None]], found: Mapping[str, float | None]) -> None:
    """Add what was measured on the validation split: the loss, the first metric, the others."""
    loss, first, *_ = found
    names = {loss: "val loss", first: "val"}
    for name, value in found.items():
        curves.setdefault(names.get(name, f"val {name}"), []).append(value)


def _converged(losses: Sequence[float | None]) -> bool | None:
    last = math.ceil(len(losses) / 5)
    before, after = losses[:-last], losses[-last:]
    if not losses or not before or None in losses:
        return False if losses else None
    best = min(before)  # type: ignore[type-var]
    return best - min(after) < 0.01 * abs(best)  # type: ignore[type-var, operator, arg-type]


def _write_artifacts(job: Job, net: nn.Module, folder: Path) -> None:
    with whole_folder(folder) as unfinished:
        try:
            job.task.write_artifacts(net, job.net, unfinished)
        except Exception as error:  # it may read parts that only the task's own nets have
            if not isinstance(job.net, OwnSpec):
                raise
            told = f"no artifacts of {job.net}: {type(error).__name__}: {error}"
            warnings.warn(told, RuntimeWarning, stacklevel=2)
        taken = sorted({path.name for path in unfinished.iterdir()} & {*RESULTS, *FOLDERS})
        if taken:
            raise ValueError(
                f"task {job.task.name}: write_artifacts must not write {', '.join(taken)}, which "
                "the comparison writes"
            )


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
        run.relabeling_error = finite(relabeling_error(net, tokens, invariant=invariant))
    run.shuffling_error = finite(shuffling_error(net, tokens, invariant=invariant))
