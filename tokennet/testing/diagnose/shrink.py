"""From a failing permutation to the smallest counterexample, and a script that shows it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tokennet.testing.diagnose.script import script_of
from tokennet.testing.engine.content import seeded_content
from tokennet.testing.engine.intervention import Change, Inputs, Permuting
from tokennet.testing.engine.run import Experiment
from tokennet.testing.report import Witness

Error = Callable[[Inputs, Change], float]
FEWEST = 8
"""Up to this many tokens are tried when the number is reduced."""


def smallest_witness(
    experiment: Experiment,
    inputs: Inputs,
    change: Change,
    *,
    threshold: float,
    swaps: bool,
    jittered: bool,
) -> Witness:
    """Reduce a failing change while its error stays above `threshold`.

    A permutation is a product of transpositions; as the error of a product is at most the
    sum of those of its factors, on the inputs they meet, halving it and going on with the
    worse half ends in one transposition that carries a share of the error.

    Args:
        experiment: to be called within its `at`.
        swaps: transpositions are in the group.
        jittered: the break shows only once parameters are moved a little.
    """
    error = experiment.error
    if isinstance(change, Permuting) and swaps:
        inputs, change = _one_swap(error, inputs, change, threshold)
        inputs, change = _fewer_tokens(error, inputs, change, threshold)
    inputs, seeded = _random_content(error, inputs, change, threshold)
    perm = tuple(change.perm.tolist()) if isinstance(change, Permuting) else None
    text = script_of(
        experiment.model, experiment.run, inputs, change, jittered=jittered, seeded=seeded
    )
    return Witness(perm, error(inputs, change), text, inputs)


def _one_swap(
    error: Error, inputs: Inputs, change: Permuting, threshold: float
) -> tuple[Inputs, Permuting]:
    states = _arrangements(change.perm)
    low, high = 0, len(states) - 1

    def step(a: int, b: int) -> tuple[Inputs, Permuting]:
        between = torch.argsort(states[a])[states[b]]
        return change.with_perm(states[a]).move(inputs), change.with_perm(between)

    while high - low > 1:
        middle = (low + high) // 2
        halves = [(low, middle), (middle, high)]
        low, high = max(halves, key=lambda half: error(*step(*half)))
    found = step(low, high)
    return found if error(*found) > threshold else (inputs, change)


def _arrangements(perm: Tensor) -> list[Tensor]:
    """Permutations from the identity to `perm`, each one swap further."""
    current = list(range(len(perm)))
    place = list(range(len(perm)))
    states = [torch.tensor(current, dtype=torch.long)]
    for i, wanted in enumerate(perm.tolist()):
        j = place[wanted]
        if i != j:
            current[i], current[j] = current[j], current[i]
            place[current[i]], place[current[j]] = i, j
            states.append(torch.tensor(current))
    return states


def _fewer_tokens(
    error: Error, inputs: Inputs, change: Permuting, threshold: float
) -> tuple[Inputs, Permuting]:
    moved = (change.perm != torch.arange(len(change.perm))).nonzero().flatten()
    if len(moved) != 2:
        return inputs, change
    others = [i for i in range(len(change.perm)) if i not in moved.tolist()]
    swap = change.with_perm(torch.tensor([1, 0]))
    for count in range(2, min(len(change.perm), FEWEST + 1)):
        index = torch.tensor([*moved.tolist(), *others[: count - 2]])
        perm = torch.cat([swap.perm, torch.arange(2, count)])
        try:
            fewer = tuple(
                action.restrict(value, index)
                for action, value in zip(change.in_actions, inputs, strict=True)
            )
            smaller = change.with_perm(perm)
            if error(fewer, smaller) > threshold:
                return fewer, smaller
        except Exception:  # whatever a model of other people raises at another size
            continue
    return inputs, change


def _random_content(
    error: Error, inputs: Inputs, change: Change, threshold: float
) -> tuple[Inputs, bool]:
    """Numbers that a script can make again from a seed, if they show the break too."""
    other = seeded_content(inputs)
    try:
        shows = other is not None and error(other, change) > threshold
    except Exception:  # content that the model refuses
        shows = False
    return (other, True) if shows and other is not None else (inputs, False)
