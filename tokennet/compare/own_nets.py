"""Nets of your own among the compared ones: modules, classes, functions of the size."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from tokennet.checks import check_type, checked, lookup
from tokennet.compare.adapters import OnGraphs, OnImages
from tokennet.compare.fingerprint import code_of_net
from tokennet.compare.spec import NetSpec, TrainConfig, Width
from tokennet.compare.task import Batch, Model, Task
from tokennet.nets import TokenNet
from tokennet.nets.evaluating import evaluating

Called = Literal["tokens", "images", "graph"]
FIRST_SIZES = (16, 32, 64, 24, 48, 128)
"""Sizes that are tried, to see how a function of the size is called."""


@checked()
@dataclass(frozen=True)
class OwnNet:
    """A net of yours in `compare(task, nets=[...])`, with what cannot be read off the net itself.

    Args:
        net: a class or a function that makes the module, of its size where it has a required
            argument, which is then matched: built anew for each seed. Or a module: copied, and
            its parameters drawn again by `reset_parameters` of all parts.
        name: in tables; the name of the module's class by default.
        graph: the graph of its tokens, the task's first by default.
        called: "tokens" for `net(tokens)`, "images" for `net(images)` as in timm, "graph" for
            `net(x, edge_index)` as in PyG. By default by the names of its arguments, or the
            first of these that runs.
        training: changes of the `TrainConfig`, such as {"lr": 1e-4}.

    >>> OwnNet(nn.Identity, name="nothing", training={"lr": 1e-4}).name
    'nothing'
    """

    net: nn.Module | Callable[..., nn.Module]
    name: str | None = None
    graph: str | None = None
    called: Called | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not callable(self.net):
            told = f"net must be a module, or make one, got {type(self.net).__name__}"
            raise TypeError(told)
        if self.called is not None:
            lookup("called", self.called, dict.fromkeys(get_args(Called)))
        check_type("training", self.training, Mapping, "a mapping of names to values")
        known = {each.name: None for each in fields(TrainConfig)}
        for name in self.training:
            lookup("training", name, known)

    @property
    def is_module(self) -> bool:
        return isinstance(self.net, nn.Module)

    @property
    def is_sized(self) -> bool:
        """Whether it is made for a size that can be chosen."""
        return not self.is_module and _needs_an_argument(self.net)

    def make(self, size: int) -> nn.Module:
        """A module with parameters that were just drawn, where they can be."""
        if isinstance(self.net, nn.Module):
            net = copy.deepcopy(self.net)
            again = [] if parts_without_reset(net) else net.modules()
            for part in again:
                if callable(reset := getattr(part, "reset_parameters", None)):
                    reset()
            return net
        made = self.net(size) if self.is_sized else self.net()
        check_type(f"what {_name_of(self.net)} returns", made, nn.Module, "a module")
        return made


def _needs_an_argument(make: Callable[..., Any]) -> bool:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(make).parameters.values()
    except ValueError:  # of a builtin
        return False
    return any(p.default is p.empty and p.kind in kinds for p in parameters)


def _name_of(make: Any) -> str:
    return getattr(make, "__name__", type(make).__name__)


def parts_without_reset(net: nn.Module) -> list[str]:
    """Kinds of the parts that have parameters of their own and cannot draw them again."""
    parts = [part for part in net.modules() if [*part.parameters(recurse=False)]]
    return sorted({type(p).__name__ for p in parts if not hasattr(p, "reset_parameters")})


@dataclass(frozen=True, eq=False)
class OwnSpec(NetSpec):
    """An `OwnNet` for a task: `mixer` is its name. Made by `own_spec`."""

    own: OwnNet = field(kw_only=True)
    called: Called = field(kw_only=True)
    given: str | None = field(kw_only=True, default=None)
    """Its name, where it was given by name."""

    def __str__(self) -> str:
        return self.mixer if self.called == "images" else super().__str__()

    @property
    def name(self) -> str | None:
        return self.given

    @property
    def is_fixed(self) -> bool:  # type: ignore[override]
        return not self.own.is_sized

    def config_of(self, config: TrainConfig) -> TrainConfig:
        return replace(config, **self.own.training)

    def build(self, task: Task, config: TrainConfig, width: Width) -> nn.Module:
        return adapted(self.own.make(width.dim), task, self.called)

    def code(self, width: Width) -> str:
        """Of the source of the net and all that it is made of; and of the values of a module that
        is not drawn again."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = self.own.make(width.dim)
        return code_of_net(self.own.net, net, bool(self.own.is_module and parts_without_reset(net)))

    def describe(self, width: Width) -> str:
        """How it is called, where its size comes from, what differs in training: for tables."""
        shown = {"tokens": "tokens", "images": "images", "graph": OnGraphs.called}[self.called]
        if self.own.is_module:
            again = "" if parts_without_reset(self.own.net) else ", drawn again"  # type: ignore[arg-type]
            size = f"a module as given{again}"
        else:
            size = f"size {width.dim}" if self.own.is_sized else "fixed size"
        training = "".join(f"; {name} {value}" for name, value in self.own.training.items())
        return f"{shown}; {size}{training}"


def adapted(net: nn.Module, task: Task, called: Called) -> nn.Module:
    """The net as a function of tokens."""
    if called == "images":
        return OnImages(net, task.to_images)
    if called == "graph":
        return OnGraphs(net, task.interface.readout == "token")
    return net


def own_spec(task: Task, own: OwnNet, seeds: int) -> OwnSpec:
    """Find out how a net is called, by calling it with two examples.

    Raises:
        ValueError: it cannot be drawn again for several seeds, or no way of calling it runs.
    """
    graph = own.graph or task.graphs[0]
    lookup("graph", graph, dict.fromkeys(task.graphs))
    if isinstance(own.net, nn.Module) and seeds > 1 and (parts := parts_without_reset(own.net)):
        raise ValueError(
            f"nets: the parameters of {type(own.net).__name__} cannot be drawn again for each of "
            f"{seeds} seeds, {', '.join(parts)} has no reset_parameters: give a class or a "
            "function that makes it, or ask for one seed"
        )
    net = quiet(_first_of(own))
    batch = task.batch(task.splits(0)["train"][:2], graph)
    ways = [own.called] if own.called else _ways(net, batch)
    problems = []
    for called in ways:
        try:
            _try(adapted(net, task, called), task, batch)
        except Exception as error:  # whatever a net of other people raises
            told = " ".join(str(error).split("\n")[0].split())
            problems.append(f"{called}: {type(error).__name__}: {told}")
            continue
        return OwnSpec(own.name or type(net).__name__, graph, own=own, called=called)
    told = "; of ".join(problems)
    raise ValueError(f"nets: {type(net).__name__} does not run. As a net of {told}")


def _first_of(own: OwnNet) -> nn.Module:
    """The net at the first size at which it can be made."""
    problem: Exception | None = None
    with torch.random.fork_rng():
        for size in FIRST_SIZES if own.is_sized else (1,):
            try:
                return own.make(size)
            except Exception as error:  # such as an assertion that heads divide it
                problem = problem or error
    told = f"nets: {_name_of(own.net)} cannot be made: {type(problem).__name__}: {problem}"
    raise ValueError(told) from problem


def _ways(net: nn.Module, batch: Batch) -> list[Called]:
    """How it may be called, the most probable first."""
    if isinstance(net, TokenNet) or batch.source is not None:
        return ["tokens"]
    names = [*inspect.signature(net.forward).parameters]
    if "edge_index" in names:
        return ["graph"]
    if names[:1] == ["tokens"]:
        return ["tokens"]
    return ["images"] if type(net).__module__.startswith("timm.") else ["tokens", "images"]


def quiet(net: nn.Module) -> nn.Module:
    """The net without warnings of positions: all are given the same, whatever they read of it."""
    for part in net.modules():
        if isinstance(part, TokenNet):
            part.warns_of_positions = False
    return net


def _try(net: nn.Module, task: Task, batch: Batch) -> None:
    """Raise what is wrong with its output for a batch."""
    with evaluating(net), torch.random.fork_rng():
        output = batch.run(net)
        if not isinstance(output, Tensor):
            raise TypeError(f"the output must be a tensor, got {type(output).__name__}")
        expected = _shape(task)
        if output.shape != expected:
            raise ValueError(
                f"the output must have shape {tuple(expected)}, got {tuple(output.shape)}"
            )
        task.loss(output.float(), batch.target)
        answer = task.predict(Model(net), batch)
        for metric in task.metrics:
            metric.values(answer, batch.target)


def _shape(task: Task) -> torch.Size:
    """Of the output of the task's own nets for two examples."""
    spec = task.parse(task.nets[0])
    dim = math.lcm(task.config.num_heads, 2 * max(task.interface.num_coordinates, 1))
    net = quiet(task.build(spec, task.config, Width(dim, 4)))
    with evaluating(net):
        return task.batch(task.splits(0)["train"][:2], spec.graph).run(net).shape
