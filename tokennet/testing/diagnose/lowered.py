"""Where a model that is run in float64 computes in less."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tokennet.testing.diagnose.source import user_site
from tokennet.testing.engine.run import Experiment
from tokennet.testing.engine.sandbox import LOW_PRECISION, module_names


def lowered_at(experiment: Experiment) -> str:
    """The first line that gives a tensor of less than float64, or ''."""
    watch = _LowPrecision(module_names(experiment.model))
    with experiment.at(torch.float64) as x, watch:
        experiment.run(x)
    return watch.place


class _LowPrecision(TorchDispatchMode):
    """Notes the first operation that takes float64 and gives less, or computes on less."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.place, self._names = "", names

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self.place and any(
            isinstance(leaf, Tensor) and leaf.dtype in LOW_PRECISION and leaf.dim()
            for leaf in tree_leaves(result)
        ):
            site = user_site(self._names)
            self.place = f"{site.file}:{site.line}"
        return result
