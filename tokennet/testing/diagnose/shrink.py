"""From a failing intervention to the smallest counterexample, and a script that shows it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from tokennet.testing.diagnose.script import script_of
from tokennet.testing.engine.content import seeded_content
from tokennet.testing.engine.intervention import (
    Inputs,
    Intervention,
    Outputs,
    PermutationIntervention,
)
from tokennet.testing.engine.run import Runner, error_of, other_content
from tokennet.testing.report import Counterexample

Error = Callable[[Inputs, Intervention], float]
FEWEST = 8
"""Up to this many tokens are tried when the number is reduced."""


def smallest_counterexample(
    runner: Runner,
    inputs: Inputs,
    intervention: Intervention,
    *,
    threshold: float,
    swaps: bool,
    jittered: bool,
) -> Counterexample:
    """Reduce a failing intervention while its error stays above `threshold`.

    A permutation is a product of transpositions; as the error of a product is at most the
    sum of those of its factors, on the inputs they meet, halving it and going on with the
    worse half ends in one transposition that carries a share of the error.

    Args:
        runner: to be called within its `at`.
        swaps: transpositions are in the group.
        jittered: the break shows only once parameters are moved a little.
    """
    error = runner.error
    if isinstance(intervention, PermutationIntervention) and swaps:
        inputs, intervention = _one_swap(runner, inputs, intervention, threshold)
        inputs, intervention = _fewer_tokens(error, inputs, intervention, threshold)
    for simpler in intervention.simpler():
        if error(inputs, simpler) > threshold:
            intervention = simpler
            break
    other, seeded = seeded_content(inputs), False
    with contextlib.suppress(Exception):  # content that the model refuses
        if other is not None and error(other, intervention) > threshold:
            inputs, seeded = other, True
    return counterexample_of(runner, inputs, intervention, jittered=jittered, seeded=seeded)


def counterexample_of(
    runner: Runner, inputs: Inputs, intervention: Intervention, *, jittered: bool, seeded: bool
) -> Counterexample:
    """What an intervention shows on inputs, with a script where one can be written."""
    perm, text = None, ""
    if isinstance(intervention, PermutationIntervention):
        perm = tuple(intervention.perm.tolist())
    with contextlib.suppress(Exception):  # values that cannot be written
        text = script_of(runner, inputs, intervention, jittered=jittered, seeded=seeded)
    changed = intervention.apply(inputs)
    return Counterexample(
        perm,
        runner.error(inputs, intervention),
        text,
        inputs,
        changed=changed,
        expected=intervention.expected(runner.run(inputs)),
        got=intervention.compared(runner.run(changed)),
        words=intervention.words,
    )


def _one_swap(
    runner: Runner, inputs: Inputs, intervention: PermutationIntervention, threshold: float
) -> tuple[Inputs, PermutationIntervention]:
    """One run for each halving: the worse half starts or ends where the other one does."""
    states = _arrangements(intervention.perm)
    low, high = 0, len(states) - 1
    other = runner.run(other_content(inputs))

    @functools.cache
    def output(state: int) -> Outputs:
        return runner.run(intervention.with_perm(states[state]).apply(inputs))

    def step(a: int, b: int) -> PermutationIntervention:
        return intervention.with_perm(torch.argsort(states[a])[states[b]])

    def error(a: int, b: int) -> float:
        return error_of(step(a, b), output(a), other, output(b))

    while high - low > 1:
        middle = (low + high) // 2
        low, high = max([(low, middle), (middle, high)], key=lambda half: error(*half))
    if error(low, high) <= threshold:
        return inputs, intervention
    return intervention.with_perm(states[low]).apply(inputs), step(low, high)


def _arrangements(perm: Tensor) -> list[Tensor]:
    """Permutations from the identity to `perm`, each one swap further."""
    current, index_of = list(range(len(perm))), list(range(len(perm)))
    states = [torch.tensor(current, dtype=torch.long)]
    for i, wanted in enumerate(perm.tolist()):
        j = index_of[wanted]
        if i != j:
            current[i], current[j] = current[j], current[i]
            index_of[current[i]], index_of[current[j]] = i, j
            states.append(torch.tensor(current))
    return states


def _fewer_tokens(
    error: Error, inputs: Inputs, intervention: PermutationIntervention, threshold: float
) -> tuple[Inputs, PermutationIntervention]:
    moved = (intervention.perm != torch.arange(len(intervention.perm))).nonzero().flatten()
    if len(moved) != 2:
        return inputs, intervention
    others = [i for i in range(len(intervention.perm)) if i not in moved.tolist()]
    swap = intervention.with_perm(torch.tensor([1, 0]))
    for count in range(2, min(len(intervention.perm), FEWEST + 1)):
        index = torch.tensor([*moved.tolist(), *others[: count - 2]])
        perm = torch.cat([swap.perm, torch.arange(2, count)])
        try:
            fewer = tuple(
                action.restrict(value, index)
                for action, value in zip(intervention.in_actions, inputs, strict=True)
            )
            smaller = intervention.with_perm(perm)
            if error(fewer, smaller) > threshold:
                return fewer, smaller
        except Exception:  # whatever a model of other people raises at another size
            continue
    return inputs, intervention
