"""`Task`: data, loss and metrics on which nets are compared; write one for data of your own."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokennet.checks import checked, lookup, require
from tokennet.compare.data import stratified_fold
from tokennet.compare.metric import Metric, Splits, accuracy, classes, error, majority, median
from tokennet.compare.spec import NO_MIXER, NetSpec, TrainConfig, Width, net_of_blocks
from tokennet.compare.variants import read_options
from tokennet.graphs import TokenGraph
from tokennet.mixers import MIXERS
from tokennet.nets import IOSpec
from tokennet.tokens import Tokens

RESULTS = ("results.json", "results.csv", "config.json", "curves.png")
"""Files of a comparison; the artifacts of the best net are beside them."""
FOLDERS = ("runs", "kept")
"""Finished runs, and their parameters and answers."""


@checked()
@dataclass(frozen=True)
class Batch:
    """Some examples as tokens, with their targets: what `Task.batch` returns.

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
    """Another set that the net attends to, for nets with a source."""

    def to(self, device: torch.device | str) -> Batch:
        rows = None if self.rows is None else self.rows.to(device)
        source = None if self.source is None else self.source.to(device)
        return Batch(self.tokens.to(device), self.target.to(device), rows, source)

    @property
    def given(self) -> tuple[Tokens, ...]:
        """What the net is called with: the tokens, or first the source, as `EncoderDecoder` is."""
        return (self.tokens,) if self.source is None else (self.source, self.tokens)

    def run(self, net: Callable[..., Tensor]) -> Tensor:
        """The net's output for these examples, (n, ...)."""
        output = net(*self.given)
        return output if self.rows is None else output[self.rows]


class Model:
    """A net as `Task.predict` is given it: called with a batch, it returns its output.

    >>> from tokennet import MeanReadout, TokenNet
    >>> model = Model(TokenNet([], MeanReadout(8, 3)))
    >>> model(Batch(Tokens(torch.zeros(4, 5, 8)), torch.zeros(4))).shape
    torch.Size([4, 3])

    Attributes:
        net: the net itself, for tasks that call it in another way, such as `net.generate`.
    """

    def __init__(self, net: nn.Module, run: Callable[[Batch], Tensor] | None = None) -> None:
        self.net, self._run = net, run

    def __call__(self, batch: Batch) -> Tensor:
        return batch.run(self.net) if self._run is None else self._run(batch)


class Task(ABC):
    """Data, a loss and metrics, on which nets differ in mixer, graph and perhaps readout only.

    Subclass it to compare nets on data of your own: set `name`, `graphs`, `nets` and
    `interface`, and define `splits` and `batch`; the class is called without arguments. By
    default a task classifies, by cross entropy and accuracy; a task with other targets sets
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
    config: ClassVar[TrainConfig] = TrainConfig()
    full_epochs: ClassVar[int | None] = None
    """Epochs of `--full`, which trains until nothing improves; None for four times the epochs of
    `config`."""
    seeds: ClassVar[int] = 3
    """How many seeds are compared by default."""
    metrics: ClassVar[tuple[Metric, ...]] = (accuracy,)
    """What is measured; the first one decides which epoch and which net is best."""
    dataset: ClassVar[str | None] = None
    """Name of the data set that has to be downloaded, a folder of `TOKENNET_DATA`, if any."""
    tiny: ClassVar[Mapping[str, int]] = {}
    """Arguments of the class that make a small copy of the task, for tests."""
    interface: IOSpec
    """What goes in and out; where batches have a source, what goes in is the source."""
    arguments: Mapping[str, Any] | None
    """What the class was called with, by name; None where that is not all numbers and text."""
    source: Mapping[str, Any] | None = None
    """Name and arguments that `load_task` makes it of, if that made it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Task:
        task = super().__new__(cls)
        if cls.__init__ is object.__init__ and (args or kwargs):
            raise TypeError(f"{cls.__name__} takes no arguments")
        bound = inspect.signature(cls.__init__).bind(task, *args, **kwargs)
        given = {n: str(v) if isinstance(v, Path) else v for n, v in bound.arguments.items()}
        given.pop(next(iter(given), ""), None)  # self
        plain = all(isinstance(value, int | float | str | None) for value in given.values())
        task.arguments = given if plain else None
        return task

    @abstractmethod
    def splits(self, seed: int) -> Splits:
        """Numbers of the examples in "train", "test" and perhaps "val".

        Without "val", a tenth of the training examples is held out for it. The epoch that is best
        on it is kept, and the test is read once, at the end.
        """

    @abstractmethod
    def batch(self, index: Tensor, graph: str) -> Batch:
        """The examples of these numbers, as tokens on the graph of that name."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """What is minimized, (n,): for each example; by default the cross entropy."""
        return classes(output, target)

    def predict(self, model: Model, batch: Batch) -> Tensor:
        """The answers that the metrics compare with the target; by default `model(batch)`.

        A net that is trained on the target of the step before must decode incrementally here,
        as by `model.net.generate`.
        """
        return model(batch)

    def build(self, net: NetSpec, config: TrainConfig, width: Width) -> nn.Module:
        """The net to train: by default blocks of mixer and token-wise MLP (`build_net`).

        A task whose nets have another form (encoder and decoder, a set of queries) puts it
        around the mixer here. The module is called with the batch's tokens, or with its source
        and its tokens, as an `EncoderDecoder` is. Its number of parameters must grow linearly
        in `width.hidden`; to match FLOPs it must have `flops(...)` of the same arguments.
        """
        return net_of_blocks(net, self.interface, config, width)

    def to_images(self, tokens: Tokens) -> Tensor:
        """(n, C, H, W) the images that these tokens were cut from, for nets that read images.

        Raises:
            ValueError: by default: the examples are no images.
        """
        raise ValueError(f"task {self.name} has no images")

    def baselines(self, seed: int) -> Mapping[str, Mapping[str, float]]:
        """Scores of trivial models on the test split: {name of model: {name of metric: score}}."""
        return {}

    def write_artifacts(self, model: nn.Module, net: NetSpec, folder: Path) -> None:
        """Write a sample or a picture of what a trained net does into `folder`.

        Called once for each trained net, in eval mode and without gradients; the artifacts of
        the best net are put beside the results.

        Raises:
            ValueError: of `compare`: a file has the name of one of the results.
        """
        return None

    def complete(
        self, model: nn.Module, net: NetSpec, prompt: str, length: int, sampling: Mapping[str, Any]
    ) -> str:
        """The text that a trained net writes after `prompt`, with it.

        Args:
            length: number of new tokens.
            sampling: temperature, generator and so on, as of `Decoder.generate`.

        Raises:
            ValueError: by default: the task is not about text.
        """
        raise ValueError(f"task {self.name} does not continue texts")

    @property
    def has_artifacts(self) -> bool:
        return type(self).write_artifacts is not Task.write_artifacts

    def test_examples(self, model: nn.Module, graph: str, count: int = 8) -> tuple[Tensor, Batch]:
        """Numbers of the first examples of the test, and their batch on the model's device."""
        index = self.splits(0)["test"][:count]
        return index, self.batch(index, graph).to(next(model.parameters()).device)

    def parse(self, text: str) -> NetSpec:
        """Read "mixer@graph" or "mixer@graph/readout"; the mixer "none" does not mix.

        "none" alone is on the first graph of the task. Behind a mixer there may be options, as
        "attention:cosine:depth=4@full", see `tokennet.compare.variants`.

        Raises:
            ValueError: it is not of that form, or this task has no such mixer, graph or readout.

        >>> from tokennet.compare import TASKS
        >>> TASKS["sort"]().parse("attention@causal").graph
        'causal'
        """
        front, slash, readout = text.strip().partition("/")
        named, at, graph = front.partition("@")
        mixer, *words = named.split(":")
        if mixer == NO_MIXER and not at:
            graph = self.graphs[0]
        elif not at:
            raise ValueError(
                f"a net is written mixer@graph, such as attention@full, or none; got {text!r}"
            )
        lookup("mixer", mixer, {**MIXERS, **dict.fromkeys((*self.forms, NO_MIXER))})
        lookup("graph", graph, dict.fromkeys(self.graphs))
        if slash and not self.readouts:
            raise ValueError(f"readout must be left out for this task; got {readout!r}")
        if slash:
            lookup("readout", readout, dict.fromkeys(self.readouts))
        return NetSpec(mixer, graph, readout or None, read_options(mixer, words))


class StoredTask(Task):
    """A task whose examples are all in memory, in one order: first those to train on.

    By default they are sets of the same size, on the same graphs and positions.
    """

    z: Tensor
    """(examples, N, C)"""
    target: Tensor
    """(examples, ...)"""
    train_size: int
    on: Mapping[str, TokenGraph]
    """The graph of each set, by name."""
    pos: Tensor

    def splits(self, seed: int) -> Splits:
        """The first `train_size` examples, then the test."""
        index = torch.arange(len(self.target))
        return {"train": index[: self.train_size], "test": index[self.train_size :]}

    def batch(self, index: Tensor, graph: str) -> Batch:
        return Batch(Tokens(self.z[index], self.on[graph], self.pos), self.target[index])

    def baselines(self, seed: int) -> Mapping[str, Mapping[str, float]]:
        """The best constant answer: the median, or the most frequent class."""
        constant = median if self.metrics[0] is error else majority
        return constant(self.target, self.splits(seed))


class FoldedTask(StoredTask):
    """Sets of several sizes, of which the test is one of `folds` parts with the same classes."""

    folds: ClassVar[int]
    sets: Mapping[str, Sequence[Tokens]]
    """By the name of the graph that they are on."""

    def splits(self, seed: int) -> Splits:
        return stratified_fold(self.target, self.folds, seed)

    def batch(self, index: Tensor, graph: str) -> Batch:
        sets = self.sets[graph]
        return Batch(Tokens.batch([sets[number] for number in index.tolist()]), self.target[index])


def new_figure(size: tuple[float, float]) -> Any:
    """An empty matplotlib figure of this size in inches."""
    return require("matplotlib.figure", "compare").Figure(figsize=size, layout="constrained")
