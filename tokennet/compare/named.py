"""Nets by name: mixers of this library, `timm:`, `pyg:`, and `module:object` of your own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from tokennet.checks import lookup
from tokennet.compare.own_nets import OwnNet, own_spec
from tokennet.compare.spec import NO_MIXER, NetSpec
from tokennet.compare.task import Task
from tokennet.mixers import MIXERS
from tokennet.testing.resolve import resolve
from tokennet.testing.zoo.expression import name_and_arguments
from tokennet.testing.zoo.source import package

Named = str | NetSpec | OwnNet | nn.Module | Callable[..., nn.Module]


def specs_of(task: Task, nets: list[Named], seeds: int) -> list[NetSpec]:
    """The nets to compare, from names and from modules of your own.

    Raises:
        ValueError: a name that does not exist, a net that does not run, or two of one name.
        TypeError: what is neither a name nor a net.
    """
    specs = [_spec(task, net, seeds) for net in nets]
    names = [str(spec) for spec in specs]
    own = {str(spec) for spec in specs if names.count(str(spec)) > 1 and type(spec) is not NetSpec}
    if own:
        raise ValueError(f"nets must have different names: write OwnNet(net, name=...), got {own}")
    return specs


def _spec(task: Task, net: Named, seeds: int) -> NetSpec:
    if isinstance(net, NetSpec):
        return net
    if isinstance(net, str):
        mixers = {*MIXERS, *task.forms, NO_MIXER}
        if ":" not in net or net.partition(":")[0].strip() in mixers:
            return task.parse(net)
        return replace(own_spec(task, _by_name(net.strip(), task), seeds), given=net.strip())
    return own_spec(task, net if isinstance(net, OwnNet) else OwnNet(net), seeds)


def _by_name(text: str, task: Task) -> OwnNet:
    front, at, graph = text.rpartition("@")
    name, graph = (front, graph) if at and ")" not in graph else (text, "")
    kind, _, rest = name.partition(":")
    if kind == "timm":
        return _timm(rest, task)
    if kind == "pyg":
        return _pyg(rest, task, graph or None)
    try:
        found = resolve(name, "net")
    except ValueError as error:
        try:
            lookup("mixer", kind, MIXERS)
        except ValueError as unknown:
            if "did you mean" in str(unknown):
                raise unknown from error
        raise
    return OwnNet(found, graph=graph or None)


def _timm(text: str, task: Task) -> OwnNet:
    """A model of timm for the images and classes of a task; nothing is downloaded."""
    timm = package("timm")
    name, options = name_and_arguments(text)
    if name not in timm.list_models():
        lookup("net timm", name, dict.fromkeys(timm.list_models(f"*{name[:4]}*") or [""]))
    if options.get("pretrained"):
        raise ValueError("nets: pretrained must be left out of timm, which would download weights")
    batch = task.batch(task.splits(0)["train"][:2], task.graphs[0])
    channels, height, width = task.to_images(batch.tokens).shape[-3:]
    given = {"num_classes": task.interface.out_features, "in_chans": channels, **options}
    sized = {"img_size": (height, width), **given}
    return OwnNet(partial(_create, name, sized, given), name, called="images")


def _create(name: str, sized: dict[str, Any], given: dict[str, Any]) -> nn.Module:
    """With the size of the images, where the model has such an argument."""
    create = package("timm").create_model
    try:
        return create(name, **sized)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return create(name, **given)


def _pyg(text: str, task: Task, graph: str | None) -> OwnNet:
    """A model of PyG, of the depth of the task, with the hidden channels that are asked for."""
    from torch_geometric.nn import models

    name, options = name_and_arguments(text)
    known = {n: kind for n, kind in vars(models).items() if _is_module(kind)}
    kind = lookup("net pyg", name, known)
    io = task.interface
    if io.ids:
        raise ValueError(f"nets: pyg:{name} needs features, and tokens of {task.name} are ids")
    given = {
        "in_channels": io.in_features, "out_channels": io.out_features,
        "num_layers": task.config.depth, "dropout": task.config.dropout,
    }  # fmt: skip
    accepted = inspect.signature(kind).parameters
    every = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    given = {n: value for n, value in given.items() if n in accepted or (every and n != "dropout")}
    if "hidden_channels" in accepted and "hidden_channels" not in options:
        make: Any = _Hidden(kind, {**given, **options})
    else:
        make = partial(kind, **{**given, **options})
    return OwnNet(make, name, graph, called="graph")


class _Hidden:
    """Makes a net of PyG of a number of hidden channels."""

    def __init__(self, kind: type[nn.Module], given: dict[str, Any]) -> None:
        self.kind, self.given, self.__name__ = kind, given, kind.__name__

    def __call__(self, size: int) -> nn.Module:
        return self.kind(hidden_channels=size, **self.given)


def _is_module(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, torch.nn.Module)
