"""The lowest precision that a model computes in, as under autocast, whatever its input is."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tokennet.testing.engine.run import Runner


class _Lowest(TorchDispatchMode):
    """Alters nothing; `found` is the precision with the largest epsilon of all results."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.found = dtype

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        dtypes = {leaf.dtype for leaf in tree_leaves(result) if isinstance(leaf, Tensor)}
        lower = dtypes.intersection([torch.float16, torch.bfloat16])
        self.found = max([self.found, *lower], key=lambda dtype: torch.finfo(dtype).eps)
        return result


def lowest_precision(runner: Runner, dtype: torch.dtype) -> torch.dtype:
    """The lowest precision that a model computes in when its input is in `dtype`."""
    lowest = _Lowest(dtype)
    # Not every operation runs under a dispatch mode: what was seen before it counts.
    with runner.at(dtype) as x, contextlib.suppress(Exception), lowest:
        runner.run(x)
    return lowest.found
