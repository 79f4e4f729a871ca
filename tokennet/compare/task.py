"""`Task`: data in one of three layouts, behind one method."""

from __future__ import annotations

import hashlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokennet.nets import Interface
from tokennet.testing.resolve import resolve
from tokennet.tokens import Tokens


@dataclass(frozen=True)
class Batch:
    """Some examples as tokens, with their classes."""

    tokens: Tokens
    target: Tensor
    """(n,) the class of each example, int64."""
    rows: Tensor | None = None
    """(n,) which rows of the net's output are these examples; None for all, in order."""


@dataclass(frozen=True)
class Recipe:
    """How the nets of a task are built and trained: the same for each of them."""

    epochs: int = 30
    batch_size: int | None = None
    """Examples in one step, over all devices; None for all at once."""
    lr: float = 1e-3
    weight_decay: float = 0.0
    """Of Adam, as an L2 penalty."""
    depth: int = 2
    heads: int = 4
    mlp_ratio: float = 2.0
    """Width of the token-wise MLPs over `dim`, before widths are matched."""
    dropout: float = 0.0
    positions: str = "none"
    size: int = 50_000
    """Parameters of each net when sizes are matched and none is given."""


class Task(ABC):
    """A classification task whose nets differ in mixer and graph only.

    A subclass sets `name`, `graphs`, `nets` and `interface` (and `recipe` and `summary` if it
    likes), can be made without arguments, and defines `splits` and `batch`. Examples are
    numbered; what an example is decides the layout of the data:

    - many sets of equal size that share a graph: `Tokens` with a leading dimension,
    - one graph whose tokens are the examples: always the same `Tokens`, and `rows`,
    - graphs of any size: a ragged `Tokens.batch`.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    """One line for `tokennet tasks`."""
    graphs: ClassVar[tuple[str, ...]]
    """Names that may follow the @ in a net."""
    nets: ClassVar[tuple[str, ...]]
    """Nets compared by default, each as "mixer@graph"."""
    recipe: ClassVar[Recipe] = Recipe()
    interface: Interface

    @abstractmethod
    def splits(self, seed: int) -> Mapping[str, Tensor]:
        """Numbers of the examples in "train", "test" and, if there is one, "val".

        With a "val" split the test accuracy is read at the epoch of the best validation
        accuracy, without one at the last epoch.
        """

    @abstractmethod
    def batch(self, index: Tensor, graph: str) -> Batch:
        """The examples of these numbers, as tokens on the graph of that name."""


@dataclass(frozen=True)
class Net:
    """A mixer on a graph, as in "attention@grid"."""

    mixer: str
    graph: str

    def __str__(self) -> str:
        return f"{self.mixer}@{self.graph}"

    @staticmethod
    def parse(text: str, mixers: Mapping[str, Any], graphs: tuple[str, ...]) -> Net:
        """Read "mixer@graph".

        Raises:
            ValueError: it is not of that form, or one of the names is not known.
        """
        mixer, at, graph = text.strip().partition("@")
        if not at:
            raise ValueError(f"a net is written mixer@graph, such as attention@full; got {text!r}")
        if mixer not in mixers:
            raise ValueError(f"mixer must be one of {', '.join(mixers)}; got {mixer!r} in {text!r}")
        if graph not in graphs:
            raise ValueError(
                f"graph must be one of {', '.join(graphs)} for this task; got {graph!r} in {text!r}"
            )
        return Net(mixer, graph)


def load_task(name: str, registry: Mapping[str, type[Task]]) -> Task:
    """Make the task of that name, or `module:Class` from a file of one's own.

    Raises:
        ValueError: there is no such task, module or class, or it is not a `Task`.
    """
    if ":" not in name:
        if name not in registry:
            raise ValueError(
                f"task must be one of {', '.join(registry)} or module:Class; got {name!r}"
            )
        return registry[name]()
    found = resolve(name, "task")
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise ValueError(f"task {name!r} must be a Task, got {found!r}")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise ValueError(f"task {name!r} must define {missing}")
    try:
        return found()
    except TypeError as error:
        raise ValueError(f"task {name!r} must be made without arguments: {error}") from error


def fingerprint(task: Task, graph: str, seed: int) -> str:
    """A hash of all that a net is shown with this graph and seed: examples, edges, classes."""
    digest = hashlib.sha256()
    for split, index in sorted(task.splits(seed).items()):
        digest.update(f"{split} {len(index)}".encode())
        for part in index.split(1024):
            batch = task.batch(part, graph)
            tokens, on = batch.tokens, batch.tokens.graph
            edges = on.edge_index() if on.is_explicit else None
            features = getattr(on, "edge_attr", None)
            digest.update(repr(on).encode())
            for tensor in (part, tokens.z, tokens.pos, edges, features, batch.target, batch.rows):
                if tensor is not None:
                    digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def check_task(task: Task, nets: Sequence[Net]) -> None:
    """Look at the splits and at one batch for each graph before anything is trained.

    Raises:
        ValueError: what a task gives does not fit together.
    """
    missing = [name for name in ("name", "graphs", "nets", "interface") if not hasattr(task, name)]
    if missing:
        raise ValueError(f"task {type(task).__name__} must set {', '.join(missing)}")
    splits = task.splits(0)
    for split in ("train", "test"):
        index = splits.get(split)
        if not isinstance(index, Tensor) or index.dtype != torch.int64 or not len(index):
            raise ValueError(
                f"task {task.name}: splits must have an int64 tensor of examples in {split!r}, "
                f"got {index!r}"
            )
    for graph in dict.fromkeys(net.graph for net in nets):
        index = splits["train"][:2]
        batch = task.batch(index, graph)
        if not isinstance(batch, Batch):
            raise ValueError(
                f"task {task.name}: batch must give a Batch, got {type(batch).__name__}"
            )
        if batch.tokens.dim != task.interface.in_features:
            raise ValueError(
                f"task {task.name}: tokens must have in_features = {task.interface.in_features} "
                f"channels, got {batch.tokens.dim}"
            )
        if batch.target.shape != index.shape or batch.target.dtype != torch.int64:
            raise ValueError(
                f"task {task.name}: target must be int64 of shape {tuple(index.shape)}, "
                f"got {batch.target.dtype} of shape {tuple(batch.target.shape)}"
            )
        classes = task.batch(splits["test"], graph).target
        if int(classes.max()) >= task.interface.out_features:
            raise ValueError(
                f"task {task.name}: target must be below out_features = "
                f"{task.interface.out_features}, got {int(classes.max())}"
            )
