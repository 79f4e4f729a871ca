"""Trivial models that a net has to beat."""

from __future__ import annotations

import torch
from torch import Tensor


def majority(train: Tensor, test: Tensor) -> dict[str, dict[str, float]]:
    """The commonest class of the training targets, whatever the example.

    >>> majority(torch.tensor([1, 1, 0]), torch.tensor([0, 1, 1, 1]))
    {'majority': {'accuracy': 0.75}}
    """
    commonest = int(torch.bincount(train.flatten()).argmax())
    return {"majority": {"accuracy": float((test == commonest).double().mean())}}


def constant(train: Tensor, test: Tensor) -> dict[str, dict[str, float]]:
    """The median of the training targets, the constant of least absolute error.

    >>> constant(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([2.0, 4.0]))
    {'median': {'mean absolute error': 1.0}}
    """
    off = (test - train.median()).abs()
    return {"median": {"mean absolute error": float(off.double().mean())}}
