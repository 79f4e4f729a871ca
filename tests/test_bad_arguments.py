"""Odd arguments of all public constructors: TypeError or ValueError that names the argument.

Constructors are found by walking `__all__` of the packages. Each argument in turn is given each of
the odd values, with good values for the others. A constructor that is added needs good values in
`GOOD`, or in `GOOD_FOR`, of its arguments that have no default.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv

import tokennet as tn
from tokennet import compare, mixers, models, nets, ops, tokenizers

PACKAGES = ("graphs", "ops", "positional", "mixers", "nets", "models", "tokenizers", "compare")
RETURNED = {
    ops.Explanation, nets.Summary, compare.Baseline, compare.Comparison, compare.ResultRow,
    compare.LoadedRun, compare.Model, models.NamedNet,
}  # fmt: skip
"""Classes whose instances functions return, or that are registered."""
OF_TORCH = {nets.BatchNorm, mixers.FeatureMap, mixers.EluFeatures}
"""Classes whose constructor is that of `torch.nn`."""
FUNCTIONS = (
    nets.build_net, nets.mlp, tn.create_model, tn.from_mask, tn.from_mask_mod, tn.from_networkx,
    tn.from_pyg, tn.to_networkx, tn.to_mask_mod,
)  # fmt: skip
"""Besides the functions of `tokennet.models` that return a net."""


def _layer() -> tn.TokenLayer:
    return tn.TokenWise(nn.Linear(8, 8))


def _net(*layers: Any, readout: Any = None) -> tn.TokenNet:
    return tn.TokenNet(layers or [_layer()], readout)


def _attends_before(b: Any, h: Any, i: Any, j: Any) -> Any:
    return i >= j


def _no_edges() -> torch.Tensor:
    return torch.zeros(2, 0, dtype=torch.long)


def _always(value: Any, *names: str) -> dict[str, Callable[[], Any]]:
    return dict.fromkeys(names, lambda: value)


GOOD: dict[str, Callable[[], Any]] = {
    **_always(1, "k", "radius", "depth", "columns", "queries", "classes", "dilation"),
    **_always(3, "num_edge_types"),
    **_always(2, "count", "memory", "steps", "hidden", "token_hidden", "out_features", "out_dim"),
    **_always(4, "sizes", "image_heads"),
    **_always(8, "n", "dim", "channels", "size", "in_features", "num_heads", "num_targets"),
    **_always(16, "vocab", "source_vocab", "num_tokens", "image_dim"),
    **_always(64, "max_length", "max_distance"),
    **_always((1, 2), "dims", "depths"),
    **_always((-1, 0), "offsets"),
    **_always("mean", "mixer", "name"),
    **_always("index", "by"),
    **_always("abc", "alphabet"),
    **_always(torch.sub, "values"),
    **_always(nets.complete, "graph_of"),
    **_always(_attends_before, "mask_mod"),
    "z": lambda: torch.ones(3, 8),
    "tokens": lambda: tn.Tokens(torch.ones(3, 8)),
    "target": lambda: torch.zeros(3),
    "graph": lambda: tn.Full(4),
    "graphs": lambda: [tn.Full(2)],
    "edge_index": _no_edges,
    "layer": _layer,
    "layers": lambda: [_layer()],
    "encoder": _net,
    "weight": lambda: torch.ones(2, 4),
    "attr": lambda: torch.ones(3, 2),
    "spec": lambda: nets.IOSpec(8, 2),
    "embedding": lambda: nets.Embedding(8, 8),
    "mask": lambda: torch.ones(2, 2).bool(),
    "data": lambda: Data(edge_index=_no_edges(), num_nodes=2),
    "model": lambda: tokenizers.BPE.train(["to be or not to be"], vocab_size=260).model,
}
"""Good values by the names of arguments, in place of none and of large defaults."""
GOOD_FOR: dict[str, dict[str, Callable[[], Any]]] = {
    **dict.fromkeys(("llama", "modernbert"), _always(4, "num_heads")),  # 2 channels to rotate
    "EncoderDecoder": {"decoder": lambda: _net(tn.CrossAttention(8))},
    "SetPrediction": {"decoder": lambda: _net(tn.CrossAttention(8))},
    "TwoTower": dict.fromkeys(("image", "text"), lambda: _net(readout=tn.MeanReadout(8, 2))),
    "MemoryTokens": {"layers": _layer},
    "PyGMixer": {"conv": lambda: GCNConv(8, 8)},
    "OwnNet": {"net": lambda: nn.Identity},
    "TokenWise": {"fn": lambda: nn.Linear(8, 8)},
    "LearnedOffset": {"max_distance": lambda: 4},
    "LogMel": {"size": lambda: 400},
    "Points": {"k": lambda: 2},
    "NetSpec": {"graph": lambda: "full"},
    "create_model": {"name": lambda: "deep_sets"},
    "from_networkx": {"graph": lambda: nx.path_graph(3)},
    "resample_positions": {
        "net": lambda: models.vit(12, 3, num_tokens=(2, 2), dim=8, depth=1, num_heads=2),
        "grid": lambda: (2, 3),
    },
}


class _OfAnotherLibrary:
    """A class that nothing expects."""


VALUES = (
    *(None, True, 0, -1, -(10**30), 10**30, 1.5, -0.5, math.nan, math.inf, 1j, "", "x", "8", b"x"),
    *((), (3, -1), (1.5,), ("x",), [], [1, None], {}, {"a": 1}, {1, 2}, range(3), ...),
    *(torch.ones(2, 3), torch.ones(0), torch.tensor(True), torch.tensor(1j), torch.tensor(-3)),
    *(np.int64(-3), np.float32("nan"), np.bool_(False), np.ones((2, 2)), np.array(["a", "b"])),
    *(object(), _OfAnotherLibrary(), _OfAnotherLibrary, int, torch.float32, lambda: 3),
    *(nn.Linear(2, 3), nn.Linear, tn.Causal(3), tn.Causal, tn.TokenWise(nn.ReLU())),
    (item for item in ()),
)
INTEGERS = int | np.int64 | torch.Tensor
KINDS = {"int": INTEGERS, "float": INTEGERS | float, "bool": bool | np.bool_, "str": str}
"""What an argument of this annotation may accept."""


def makes_net(function: Any) -> bool:
    made = getattr(models, "__dict__", {}) | vars(nets)
    returned = inspect.signature(function).return_annotation
    return isinstance(made.get(returned), type) and issubclass(made[returned], nn.Module)


def constructors() -> list[Any]:
    """Public classes that users make instances of, and functions that make nets or graphs."""
    scores = [item for item in vars(mixers.scores).values() if inspect.isclass(item)]
    found: list[Any] = [item for item in scores if issubclass(item, mixers.Score)]
    for package in PACKAGES:
        module = importlib.import_module(f"tokennet.{package}")
        for item in (getattr(module, name) for name in module.__all__):
            if inspect.isclass(item):
                wanted = not inspect.isabstract(item) and not issubclass(item, tuple | Exception)
            else:
                wanted = package == "models" and callable(item) and makes_net(item)
            if wanted and item not in RETURNED | OF_TORCH:
                found.append(item)
    return list(dict.fromkeys([tn.Tokens, tn.Symmetry, *found, *FUNCTIONS]))


def parameters(item: Any) -> list[inspect.Parameter]:
    given = inspect.signature(item).parameters.values()
    return [parameter for parameter in given if parameter.kind != parameter.VAR_KEYWORD]


def good(item: Any) -> dict[str, Any]:
    """Good values of the arguments that have no default, or a large one."""
    given = {}
    for parameter in parameters(item):
        special = GOOD_FOR.get(item.__name__, {}).get(parameter.name)
        known, default = special or GOOD.get(parameter.name), parameter.default
        is_large = type(default) in (int, tuple) and known is not None
        if default is parameter.empty or is_large or special is not None:
            assert known is not None, f"GOOD needs a value of {parameter.name} of {item.__name__}"
            given[parameter.name] = known()
    return given


def call(item: Any, given: dict[str, Any]) -> Any:
    first = [given.pop(p.name) for p in parameters(item) if p.kind == p.VAR_POSITIONAL]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return item(*first, **given)


def fault(item: Any, parameter: inspect.Parameter, value: Any) -> str | None:
    """What is wrong with the answer to an odd value; None if nothing is."""
    name, annotation = parameter.name, str(parameter.annotation)
    try:
        call(item, good(item) | {name: value})
    except (TypeError, ValueError) as error:
        return None if re.search(rf"\b{name}\b", str(error)) else f"not named: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    kind = KINDS.get(annotation.removesuffix(" | None"))
    if kind is None or (value is None and annotation.endswith("None")):
        return None
    if kind is not KINDS["bool"] and isinstance(value, bool | float) and not abs(value) < math.inf:
        return "accepted"
    return None if isinstance(value, kind) else "accepted"


def test_good_arguments_are_accepted():
    refused = []
    for item in constructors():
        try:
            call(item, good(item))
        except Exception as error:
            refused.append(f"{item.__name__}: {type(error).__name__}: {error}")
    assert not refused, "\n".join(refused)


@pytest.mark.sweep
def test_odd_arguments_are_named(capsys):
    calls, faults = 0, []
    for item in constructors():
        for parameter in parameters(item):
            for value in VALUES:
                calls += 1
                wrong = fault(item, parameter, value)
                if wrong is not None:
                    faults.append(f"{item.__name__}({parameter.name}={value!r:.40}): {wrong:.130}")
    with capsys.disabled():
        print(f"\n{calls:,} bad calls of {len(constructors())} constructors")
    assert not faults, "\n".join(faults)


def test_faults_are_seen():
    def takes(dim: int, rate: float = 0.1) -> None:
        if dim == -1:
            raise RuntimeError("deep inside")
        if dim == 0:
            raise ValueError("size is wrong")

    dim, rate = parameters(takes)
    assert fault(takes, dim, -1) == "RuntimeError: deep inside"
    assert fault(takes, dim, 0) == "not named: size is wrong"
    assert fault(takes, dim, "x") == fault(takes, rate, math.nan) == "accepted"
    assert fault(takes, dim, np.int64(3)) is None
