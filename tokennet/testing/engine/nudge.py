"""Inputs and parameters moved by a relative epsilon, as rounding moves them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tokennet.testing.engine.intervention import Inputs
from tokennet.testing.engine.reach import modules_of
from tokennet.testing.example.values import features, with_features


def nudged(inputs: Inputs, eps: float, seed: int) -> Inputs:
    """The inputs with features that are moved, where those are floating-point numbers."""
    old = features(inputs[0])
    if not old.is_floating_point():
        return inputs
    values, index = old.unique(return_inverse=True)  # equal values stay equal: ties are no rounding
    generator = torch.Generator().manual_seed(seed)
    return (with_features(inputs[0], old * _factors(values, eps, generator)[index]), *inputs[1:])


@contextmanager
def nudged_parameters(model: Callable[..., Any], eps: float, seed: int) -> Iterator[None]:
    """Within the context parameters are moved; for a model in the sandbox.

    That shows rounding inside the model, which inputs that hardly move the output do not.
    """
    parameters = [p for m in modules_of(model) for p in m.parameters(recurse=False)]
    given = {id(p): (p, p.data) for p in parameters if p.is_floating_point()}
    generator = torch.Generator().manual_seed(seed)
    try:
        for parameter, data in given.values():
            parameter.data = data * _factors(data, eps, generator)
        yield
    finally:
        for parameter, data in given.values():
            parameter.data = data


def _factors(like: Tensor, eps: float, generator: torch.Generator) -> Tensor:
    """1 + eps or 1 - eps, drawn for each entry."""
    return 1 + eps * (torch.randint(0, 2, like.shape, generator=generator).to(like) * 2 - 1)
