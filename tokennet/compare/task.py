"""`Task`: data, loss and metrics behind a few methods."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from tokennet.compare.metric import Metric, accuracy, classes
from tokennet.compare.net import NetSpec, Width
from tokennet.nets import IOSpec, TokenNet, build_net
from tokennet.testing.resolve import resolve
from tokennet.tokens import Tokens


@dataclass(frozen=True)
class Batch:
    """Some examples as tokens, with their targets.

    >>> batch = Batch(Tokens(torch.zeros(2, 5, 3)), torch.tensor([0, 1]))
    >>> batch.run(lambda tokens: tokens.z.sum((-2, -1))).shape
    torch.Size([2])
    """

    tokens: Tokens
    target: Tensor
    """(n, ...) of each example: its class (n,), the class of each token (n, N), numbers, ..."""
    rows: Tensor | None = None
    """(n,) which rows of the net's output are these examples; None for all, in order."""
    source: Tokens | None = None
    """Another set that the net listens to, for nets that do."""

    def to(self, device: torch.device | str) -> Batch:
        return Batch(
            self.tokens.to(device),
            self.target.to(device),
            None if self.rows is None else self.rows.to(device),
            None if self.source is None else self.source.to(device),
        )

    @property
    def given(self) -> tuple[Tokens, ...]:
        """What the net is called with: the tokens, or first the source, as `EncoderDecoder` is."""
        return (self.tokens,) if self.source is None else (self.source, self.tokens)

    def run(self, net: Callable[..., Tensor]) -> Tensor:
        """The net's output for these examples, (n, ...)."""
        output = net(*self.given)
        return output if self.rows is None else output[self.rows]


class Model:
    """A net that is asked for its answers: called with a batch, it gives its output.

    >>> from tokennet import MeanReadout, TokenNet
    >>> model = Model(TokenNet([], MeanReadout(8, 3)))
    >>> model(Batch(Tokens(torch.zeros(4, 5, 8)), torch.zeros(4))).shape
    torch.Size([4, 3])

    Attributes:
        net: the net itself, for tasks that ask in another way.
    """

    def __init__(self, net: nn.Module, run: Callable[[Batch], Tensor] | None = None) -> None:
        self.net, self._run = net, run

    def __call__(self, batch: Batch) -> Tensor:
        return batch.run(self.net) if self._run is None else self._run(batch)


@dataclass(frozen=True)
class TrainConfig:
    """How the nets of a task are built and trained: the same for each of them.

    >>> replace(TrainConfig(), depth=4).depth
    4
    """

    epochs: int = 30
    batch_size: int | None = None
    """Examples in one step, over all devices; None for all at once."""
    lr: float = 1e-3
    weight_decay: float = 0.0
    """Of Adam, as an L2 penalty."""
    depth: int = 2
    num_heads: int = 4
    mlp_ratio: float = 2.0
    """Width of the token-wise MLPs over `dim`, before widths are matched."""
    dropout: float = 0.0
    positions: str = "none"
    size: int = 50_000
    """Parameters of each net when sizes are matched and none is given."""
    clip: float | None = None
    """Largest norm of the gradient of a step; None for any."""
    smooth: bool = False
    """Whether the cosine of the learning rate falls with each step, for runs of few epochs,
    or with each epoch."""


def net_of_blocks(net: NetSpec, interface: IOSpec, recipe: TrainConfig, width: Width) -> TokenNet:
    """What `build_net` makes of the net's mixer by this recipe."""
    return build_net(
        net.mixer,
        interface,
        width.dim,
        recipe.depth,
        hidden=width.hidden,
        num_heads=recipe.num_heads,
        positions=recipe.positions,  # type: ignore[arg-type]
        dropout=recipe.dropout,
    )


class Task(ABC):
    """Data, a loss and metrics, on which nets differ in mixer, graph and perhaps readout only.

    A subclass sets `name`, `graphs`, `nets` and `interface` (and what else it likes of the
    class attributes), can be made without arguments, and defines `splits` and `batch`. As it
    stands it classifies, by cross entropy and accuracy; a task with other targets sets
    `metrics` and defines `loss`. Examples are numbered; what an example is decides the layout
    of the data:

    - many sets of equal size that share a graph: `Tokens` with a leading dimension,
    - one graph whose tokens are the examples: always the same `Tokens`, and `rows`,
    - graphs of any size: a ragged `Tokens.batch`.

    >>> from tokennet import Full
    >>> class Sign(Task):
    ...     name, graphs, nets = "sign", ("full",), ("mean@full",)
    ...     interface = IOSpec(in_features=1, out_features=2)
    ...     z = torch.randn(100, 5, 1)
    ...
    ...     def splits(self, seed):
    ...         return {"train": torch.arange(80), "test": torch.arange(80, 100)}
    ...
    ...     def batch(self, index, graph):
    ...         z = self.z[index]
    ...         return Batch(Tokens(z, Full(5)), (z.sum((1, 2)) > 0).long())
    >>> Sign().batch(torch.arange(3), "full").tokens.z.shape
    torch.Size([3, 5, 1])
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    """One line for `tokennet tasks`."""
    graphs: ClassVar[tuple[str, ...]]
    """Names that may follow the @ in a net."""
    forms: ClassVar[tuple[str, ...]] = ()
    """Names besides those of mixers that may precede the @, whose nets `build` makes."""
    readouts: ClassVar[tuple[str, ...]] = ()
    """Names that may follow the / in a net, if any may."""
    nets: ClassVar[tuple[str, ...]]
    """Nets compared by default, each as "mixer@graph" or "mixer@graph/readout"."""
    recipe: ClassVar[TrainConfig] = TrainConfig()
    seeds: ClassVar[int] = 3
    """How many seeds are compared by default."""
    metrics: ClassVar[tuple[Metric, ...]] = (accuracy,)
    """What is measured; the first one decides which epoch and which net is best."""
    interface: IOSpec
    """What goes in and out; where batches have a source, what goes in is the source."""

    @abstractmethod
    def splits(self, seed: int) -> Mapping[str, Tensor]:
        """Numbers of the examples in "train", "test" and, if there is one, "val".

        With a "val" split the test metrics are read at the epoch that is best on it, without
        one at the last epoch.
        """

    @abstractmethod
    def batch(self, index: Tensor, graph: str) -> Batch:
        """The examples of these numbers, as tokens on the graph of that name."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """What is minimized, (n,): for each example; by default the cross entropy."""
        return classes(output, target)

    def predict(self, model: Model, batch: Batch) -> Tensor:
        """The answers that the metrics judge; by default the output of the net, `model(batch)`.

        A net that is trained on the target of the step before must be asked step by step here,
        as by `model.net.generate`.
        """
        return model(batch)

    def build(self, net: NetSpec, recipe: TrainConfig, width: Width) -> nn.Module:
        """The net to train: by default blocks of mixer and token-wise MLP (`build_net`).

        A task whose nets have another form (encoder and decoder, a set of queries) puts it
        around the mixer here. The module is called with the batch's tokens, or with its source
        and its tokens, as an `EncoderDecoder` is. Its number of parameters must grow linearly
        in `width.hidden`; to match FLOPs it must have `flops(...)` of the same arguments.
        """
        interface = self.interface
        if net.readout is not None:
            interface = replace(interface, readout=net.readout)
        return net_of_blocks(net, interface, recipe, width)

    def baselines(self, seed: int) -> Mapping[str, Mapping[str, float]]:
        """What trivial models get on the test split: name of model to name of metric to figure."""
        return {}

    def show(self, model: nn.Module, net: NetSpec, folder: Path) -> None:
        """Write something a person can look at into `folder`: a sample, a picture.

        Called once for each trained net, in eval mode and without gradients; that of the best
        net is put beside the results.
        """
        return None

    @property
    def shows(self) -> bool:
        return type(self).show is not Task.show


def load_task(name: str, registry: Mapping[str, type[Task]]) -> Task:
    """Make the task of that name, or `module:Class` from a file of one's own.

    Raises:
        ValueError: there is no such task, module or class, or it is not a `Task`.

    >>> from tokennet.compare import TASKS
    >>> load_task("sort", TASKS).name
    'sort'
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
