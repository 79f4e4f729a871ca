"""Runs of a comparison in several processes at once: needed where there are more cores than one."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tokennet.checks import require
from tokennet.compare.train import Job, Run, train

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Folders = tuple[Path, Path]
"""For the artifacts of a run, and for its parameters and answers."""
Waiting = Sequence[tuple[int, Job, Folders]]
"""Number, job and folders of each run to train."""
OnEpoch = Callable[[int, int], None]
"""Called with (number of the run, epochs done)."""


def train_all(
    fabric: Fabric, waiting: Waiting, workers: int, on_epoch: OnEpoch
) -> Iterator[tuple[int, Run]]:
    """Train the runs and yield each with its number when it is done, in any order.

    With one worker they are trained here, one after the other. With more, each worker is a new
    process with one thread and a device of the same kind; it is sent the task once.

    Raises:
        ValueError: the task cannot be sent to another process.
        RuntimeError: a worker was killed. Runs that were yielded are not lost.
    """
    workers = min(workers, len(waiting))
    if workers <= 1:
        for number, job, folders in waiting:
            yield number, train(fabric, job, partial(on_epoch, number), *folders)
        return
    sent = _sent("task", waiting[0][1].task.name, waiting[0][1].task)
    for _, job, _ in waiting:
        _sent("net", str(job.net), job.net)
    context = multiprocessing.get_context("spawn")  # a forked process cannot use threads of torch
    epochs = context.SimpleQueue()
    options = {"accelerator": fabric.device.type, "devices": 1}
    options["precision"] = fabric._precision.precision
    executor = ProcessPoolExecutor(workers, context, _start, (sent, options, epochs))
    with _told(epochs, on_epoch), _ended(executor):
        futures: dict[Future[Run], int] = {
            executor.submit(_train, number, replace(job, task=None), folders): number  # type: ignore[arg-type]
            for number, job, folders in waiting
        }
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a worker was killed, perhaps because memory was short: use fewer workers"
            ) from error


def _sent(what: str, name: str, value: Any) -> bytes:
    try:
        return pickle.dumps(value)
    except Exception as error:  # whatever a task or a net of other people raises
        told = f"workers must be 1: {what} {name} cannot be sent to other processes ({error})"
        raise ValueError(told) from error


_worker: dict[str, Any] = {}
"""What a worker keeps between runs."""


def _start(sent: bytes, options: dict[str, Any], epochs: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process, which ends us
    torch.set_num_threads(1)
    fabric = require("lightning_fabric", "compare").Fabric(**options)
    fabric.launch()
    _worker.update(task=pickle.loads(sent), fabric=fabric, epochs=epochs)


def _train(number: int, job: Job, folders: Folders) -> Run:
    def on_epoch(done: int) -> None:
        _worker["epochs"].put((number, done))

    return train(_worker["fabric"], replace(job, task=_worker["task"]), on_epoch, *folders)


@contextmanager
def _told(epochs: Any, on_epoch: OnEpoch) -> Iterator[None]:
    """Pass on what the workers say, in a thread."""

    def read() -> None:
        while (said := epochs.get()) is not None:
            on_epoch(*said)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield
    finally:
        epochs.put(None)
        thread.join()


@contextmanager
def _ended(executor: ProcessPoolExecutor) -> Iterator[None]:
    """End the workers, in the middle of a run if there was an error or Ctrl-C."""
    before = set(multiprocessing.active_children())
    try:
        yield
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
            process.join()
        raise
    executor.shutdown()
