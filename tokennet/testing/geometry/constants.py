"""How far constants that a model keeps in float32 can move its output by their rounding.

A rotation of an equivariant net with Clebsch-Gordan coefficients in float32 is off by 1e-7,
in whatever precision it runs. That is no break of the architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokennet.testing.engine.channels import gaps, largest, relative
from tokennet.testing.engine.intervention import Inputs, Intervention, Outputs
from tokennet.testing.engine.reach import modules_of
from tokennet.testing.engine.run import Runner


def effect_of_constants(
    function: Callable[..., Any],
    inputs: Inputs,
    interventions: Sequence[Intervention],
    jitter: int | None,
) -> float:
    """How much of a law's error depends on the last digit of constants in float32.

    The change of compared(f(apply(x))) - expected(f(x)) when the constants move by one epsilon,
    in the law's units: as large as the error itself where their rounding is its cause.
    """
    modules = modules_of(function)
    constants = [tensor.dtype for module in modules for tensor in _constants(module)]
    if torch.float32 not in constants:
        return 0.0
    runner = Runner(function, inputs, interventions, jitter)
    measured = runner.measure(torch.float64)
    eps, found = torch.finfo(torch.float32).eps, 0.0
    for seed, intervention in enumerate(interventions):
        generator, unit = torch.Generator().manual_seed(seed), measured.units(intervention)
        with runner.at(torch.float64) as x, torch.no_grad():
            before = _off(runner, x, intervention)
            for tensor in [tensor for module in modules for tensor in _constants(module)]:
                signs = torch.randint(0, 2, tensor.shape, generator=generator) * 2 - 1
                tensor.mul_(1 + eps * signs.to(tensor))
            moved = gaps(before, _off(runner, x, intervention))
        found = max(found, largest(relative(moved, unit)))
    return found


def _off(runner: Runner, inputs: Inputs, intervention: Intervention) -> Outputs:
    wanted = intervention.expected(runner.run(inputs))
    got = intervention.compared(runner.run(intervention.apply(inputs)))
    return [b - a for a, b in zip(wanted, got, strict=True)]


def _constants(module: nn.Module) -> list[Tensor]:
    """Floating-point tensors of a module that are no parameters."""
    own = [value for value in vars(module).values() if isinstance(value, Tensor)]
    found = [*module.buffers(recurse=False), *own]
    return [tensor for tensor in found if tensor.is_floating_point()]
