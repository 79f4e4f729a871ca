"""Modules of torch.nn, written as in Python: `torch:nn.TransformerEncoderLayer(8, 2)`."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from tokennet.testing.zoo.expression import classes_of, construct
from tokennet.testing.zoo.source import SETS, TOKENS, VOCABULARY, Source, ZooModel, generator

SPACES = {"1d": (16,), "2d": (16, 16), "3d": (8, 8, 8)}
WIDTHS = ("embed_dim", "d_model", "in_features", "input_size", "in_channels", "num_features",
          "num_channels", "normalized_shape")  # fmt: skip
"""Attributes that hold the width of the input."""


def _make(text: str) -> ZooModel:
    classes = classes_of(nn, nn.Module, "nn.", "")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = construct(text, classes, "torch.nn", _created).eval()
    example, roles = _example(model)
    return ZooModel(model, example, {"roles": roles} if roles else {})


def _created(kind: type, arguments: list[Any], given: dict[str, Any]) -> Any:
    try:
        return kind(*arguments, **given)
    except Exception as error:  # whatever a constructor raises
        told = f"{type(error).__name__}: {error}"
        raise ValueError(f"model nn.{kind.__name__} cannot be made: {told}") from error


def _example(model: nn.Module) -> tuple[Any, dict[str, str]]:
    """An input of the first layer that has a width, and the roles that cannot be guessed."""
    for layer in model.modules():
        if isinstance(layer, nn.Embedding):
            size = min(layer.num_embeddings, VOCABULARY)
            return torch.randint(size, (SETS, TOKENS), generator=generator()), {}
        width = _width(layer)
        if width is None:
            continue
        space = next((size for end, size in SPACES.items() if end in type(layer).__name__), None)
        if space is not None:
            return torch.randn(SETS, width, *space, generator=generator()), {}
        return _sets(model, _batch_first(model), width)
    if any(True for _ in model.parameters()):
        raise ValueError("no layer of the model says how wide its input is: name an --example")
    return _sets(model, True, 8)


def _batch_first(model: nn.Module) -> bool:
    """Whether the sets are the first dimension: no layer says that they are not."""
    return all(getattr(layer, "batch_first", True) for layer in model.modules())


def _sets(model: nn.Module, batch_first: bool, width: int) -> tuple[Any, dict[str, str]]:
    """Sets of tokens, one for each input of the model."""
    shape = (SETS, TOKENS, width) if batch_first else (TOKENS, SETS, width)
    x = torch.randn(shape, generator=generator())
    names = [
        name
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    roles = {} if batch_first else dict.fromkeys(names[:1], "tokens:0")
    if isinstance(model, nn.MultiheadAttention):
        return {"query": x, "key": x.clone(), "value": x.clone()}, dict.fromkeys(
            ("query", "key", "value") if roles else (), "tokens:0"
        )
    if len(names) == 1:
        return x, roles
    cut = x[:, : TOKENS - 2] if batch_first else x[: TOKENS - 2]
    other: Tensor = cut.flip(0) + 1
    if not batch_first:
        roles[names[1]] = f"tokens:{names[1]}:0"
    return {names[0]: x, names[1]: other}, roles


def _width(layer: nn.Module) -> int | None:
    for name in WIDTHS:
        value = getattr(layer, name, None)
        if isinstance(value, int):
            return value
        if isinstance(value, tuple) and value and isinstance(value[-1], int):
            return value[-1]
    return None


SOURCE = Source(
    "modules of torch.nn with arguments", "torch:nn.TransformerEncoderLayer(8, 2)", _make
)
