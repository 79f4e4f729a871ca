"""Models and layers of PyG, `pyg:SGFormer` or `pyg:GPSConv(8, GCNConv(8, 8))`.

What the constructor requires is given by the names of its arguments, and the example by the names
of the arguments of `forward`: a batch of three graphs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tokennet.testing.zoo.expression import classes_of, construct
from tokennet.testing.zoo.source import Source, ZooModel, generator, package

WIDTH, HIDDEN, EDGE_WIDTH, TYPES = 8, 16, 4, 3
SIZES = (4, 5, 6)
"""Nodes of the graphs of the example."""
FILTERS = 2

VALUES: dict[str, Any] = {
    "in_channels": WIDTH, "hidden_channels": HIDDEN, "out_channels": WIDTH, "channels": WIDTH,
    "hidden_node_channels": HIDDEN, "hidden_edge_channels": HIDDEN, "embedding_dim": WIDTH,
    "num_layers": 2, "num_timesteps": 2, "depth": 2, "K": FILTERS, "k": 3, "heads": 2, "alpha": 0.1,
    "space_dimensions": 3, "propagate_dimensions": 4, "dim": EDGE_WIDTH, "kernel_size": 3,
    "num_relations": TYPES, "edge_dim": EDGE_WIDTH, "filter_size": 2, "first_aggr": True,
    "num_node_types": TYPES, "num_edge_types": TYPES, "edge_type_emb_dim": 4,
    "edge_attr_emb_dim": 4, "num_blocks": 2, "num_bilinear": 4, "num_spherical": 3,
    "num_radial": 3, "int_emb_size": 8, "basis_emb_size": 4, "out_emb_channels": 8,
    "aggregators": ["sum", "mean", "max", "std"], "scalers": ["identity", "amplification"],
    "deg": torch.tensor([0, 1, 4, 6, 3, 1]), "num_nodes": sum(SIZES), "num_classes": TYPES,
    "mode": "cat",
}  # fmt: skip
"""What a required argument of a constructor is, by its name."""


def _mlp(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs))


def _convolution() -> nn.Module:
    return package("torch_geometric.nn").GCNConv(WIDTH, WIDTH)


SPECIAL: dict[str, Callable[[], dict[str, Any]]] = {
    "GINConv": lambda: {"nn": _mlp(WIDTH, WIDTH)},
    "GINEConv": lambda: {"nn": _mlp(WIDTH, WIDTH), "edge_dim": EDGE_WIDTH},
    "EdgeConv": lambda: {"nn": _mlp(2 * WIDTH, WIDTH)},
    "DynamicEdgeConv": lambda: {"nn": _mlp(2 * WIDTH, WIDTH)},
    "NNConv": lambda: {"nn": _mlp(EDGE_WIDTH, WIDTH * WIDTH)},
    "CGConv": lambda: {"dim": EDGE_WIDTH},
    "GENConv": lambda: {"edge_dim": EDGE_WIDTH},
    "GPSConv": lambda: {"conv": _convolution()},
    "DirGNNConv": lambda: {"conv": _convolution()},
    "PNA": lambda: {name: VALUES[name] for name in ("aggregators", "scalers", "deg")},
    "PointNetConv": lambda: {"local_nn": _mlp(WIDTH + 3, WIDTH)},
    "PPFConv": lambda: {"local_nn": _mlp(WIDTH + 4, WIDTH)},
    "PointGNNConv": lambda: {
        "mlp_h": _mlp(WIDTH, 3), "mlp_f": _mlp(WIDTH + 3, WIDTH), "mlp_g": _mlp(WIDTH, WIDTH),
    },
    "SchNet": lambda: {"hidden_channels": HIDDEN, "interaction_graph": _pairs_of_each_graph},
    "MLP": lambda: {"channel_list": [WIDTH, HIDDEN, WIDTH]},
}  # fmt: skip
"""Arguments that only one class has."""


def _pairs_of_each_graph(pos: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
    """All pairs of atoms of a molecule, and their distances; PyG's own graph needs pyg-lib."""
    same = batch[:, None] == batch[None]
    edges = (same & ~torch.eye(len(batch), dtype=torch.bool)).nonzero().T
    return edges, (pos[edges[0]] - pos[edges[1]]).norm(dim=-1)


def _make(name: str) -> ZooModel:
    module = package("torch_geometric.nn", "torch-geometric")
    classes = {**classes_of(nn, nn.Module, "nn."), **classes_of(module, nn.Module, "")}
    classes |= classes_of(package("torch_geometric.nn.models"), nn.Module, "")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = construct(name, classes, "torch_geometric.nn", _created)
    return ZooModel(model.eval(), _example(model))


def _created(kind: type, arguments: list[Any], given: dict[str, Any]) -> Any:
    """An object of a class; what it requires and was not given is filled in by name."""
    parameters = list(inspect.signature(kind).parameters.values())
    if arguments or given or kind.__module__.startswith("torch.nn"):
        return kind(*arguments, **given)
    special = SPECIAL.get(kind.__name__, dict)()
    many = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in many]
    missing = [p for p in required if p not in special and p not in VALUES]
    if missing:
        raise ValueError(
            f"model pyg:{kind.__name__} needs {', '.join(missing)}: "
            f"write pyg:{kind.__name__}(...) with arguments"
        )
    return kind(**{p: VALUES[p] for p in required if p in VALUES}, **special)


def _example(model: nn.Module) -> Any:
    """A batch of graphs, with what `forward` requires, and with more where it does not run."""
    parameters = inspect.signature(model.forward).parameters
    names = [p for p in parameters if p in _values(1, 0)]
    required = [p for p in names if parameters[p].default is inspect.Parameter.empty]
    required += [p for p in names if p in ("batch", "edge_index") and p not in required]
    attempts = [required]
    for extra in (["edge_type"], ["edge_attr"], ["edge_attr", "edge_type"], ["edge_weight"]):
        attempts.append([p for p in names if p in required or p in extra])
    problem: Exception | None = None
    for chosen in attempts:
        example = _batch(chosen) if "edge_index" in chosen else _by_name(chosen)
        given = _by_name(chosen)
        try:
            with torch.no_grad():
                model(**given)
            return example
        except Exception as error:  # whatever a model raises without what it needs
            problem = problem or error
    if isinstance(problem, ImportError):
        raise ImportError(
            f"model pyg:{type(model).__name__} needs a package: {problem}"
        ) from problem
    told = f"{type(problem).__name__}: {problem}"
    raise ValueError(f"model pyg:{type(model).__name__} does not run on a batch of graphs: {told}")


def _values(n: int, seed: int) -> dict[str, Tensor]:
    """Nodes and edges of a graph: a ring with chords, both directions, by names of arguments."""
    draw = generator().manual_seed(seed)
    ring = torch.stack([torch.arange(n), (torch.arange(n) + 1) % n])
    edges = torch.cat([ring, ring.flip(0)], 1)
    count = edges.shape[1]
    return {
        "x": torch.randn(n, WIDTH, generator=draw),
        "x_0": torch.randn(n, WIDTH, generator=draw),
        "z": torch.randint(1, 9, (n,), generator=draw),
        "pos": torch.randn(n, 3, generator=draw),
        "normal": torch.randn(n, 3, generator=draw),
        "node_type": torch.randint(TYPES, (n,), generator=draw),
        "edge_index": edges,
        "edge_attr": torch.rand(count, EDGE_WIDTH, generator=draw),
        "edge_weight": torch.rand(count, generator=draw) + 0.1,
        "edge_type": torch.randint(TYPES, (count,), generator=draw),
        "batch": torch.zeros(n, dtype=torch.long),
    }


def _batch(names: list[str]) -> Any:
    """A PyG `Batch`, so that the graph of each node is known to models without `batch` too."""
    data = package("torch_geometric.data", "torch-geometric")
    graphs = []
    for seed, n in enumerate(SIZES):
        values = _values(n, seed)
        graphs.append(data.Data(**{p: values[p] for p in {"x", *names} - {"batch"}}))
    return data.Batch.from_data_list(graphs)


def _by_name(names: list[str]) -> dict[str, Tensor]:
    """The same as a dict of tensors."""
    parts = [_values(n, seed) for seed, n in enumerate(SIZES)]
    found = {
        p: torch.cat([part[p] for part in parts], -1 if p == "edge_index" else 0) for p in names
    }
    if "edge_index" in found:
        starts = [sum(SIZES[:i]) for i in range(len(SIZES))]
        shifted = [part["edge_index"] + start for part, start in zip(parts, starts, strict=True)]
        found["edge_index"] = torch.cat(shifted, 1)
    if "batch" in found:
        found["batch"] = torch.arange(len(SIZES)).repeat_interleave(torch.tensor(SIZES))
    return found


SOURCE = Source("models and layers of PyG, on a batch of three graphs", "pyg:SGFormer", _make)
