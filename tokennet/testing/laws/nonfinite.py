"""The law that NaN stays within its set.

A mask that multiplies other sets by 0 holds `batch_composition`, and breaks this law: 0 times NaN
is NaN, and one spoiled example of a batch spoils all of them.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from tokennet.testing.engine.intervention import ContentIntervention, Inputs, Unaffected
from tokennet.testing.engine.verdict import run_law
from tokennet.testing.example.case import Case
from tokennet.testing.example.layout import of_sets
from tokennet.testing.example.values import features, with_features
from tokennet.testing.laws.batch import edges_of_set, is_batch, of_one_set, sizes_of_set
from tokennet.testing.laws.law import Law, Options
from tokennet.testing.laws.leading import on_leading
from tokennet.testing.report import SymmetryReport


def _spoiled(kept: Tensor, inputs: Inputs) -> Inputs:
    """The inputs with NaN for all but what is kept, along the first dimension or the tokens."""
    z = features(inputs[0])
    kept = kept.to(z.device).view(-1, *(1,) * (z.dim() - 1))
    return (with_features(inputs[0], z.masked_fill(~kept, math.nan)), *inputs[1:])


def _of_row(case: Case, number: int) -> ContentIntervention:
    """NaN in all sets of a batch but one."""
    count = features(case.inputs[0]).shape[0]
    return ContentIntervention(
        partial(_spoiled, torch.arange(count) == number),
        [Unaffected.at(count, torch.tensor([number]))],
        lambda outputs: of_sets(outputs, case.layouts, number),
    )


def _of_set(case: Case, membership: Tensor, number: int) -> ContentIntervention:
    """NaN in all sets of a ragged batch but one."""
    is_kept = membership.cpu() == number
    nodes = is_kept.nonzero().flatten()
    edges = edges_of_set(case.example, nodes)
    return ContentIntervention(
        partial(_spoiled, is_kept),
        [Unaffected.at(*size) for size in sizes_of_set(case.example, number, nodes)],
        partial(of_one_set, case.layouts, number, nodes, edges),
    )


def _watched(numbers: list[int]) -> list[int]:
    """Sets that must stay as they are while all others are NaN: the first two and the last two."""
    return sorted({*numbers[:2], *numbers[-2:]})


def _check(case: Case, options: Options) -> SymmetryReport:
    case = case.of_sets
    membership = case.example.membership
    if membership is None:
        count = features(case.inputs[0]).shape[0]
        interventions = [_of_row(case, number) for number in _watched([*range(count)])]
    else:
        numbers = _watched(membership.unique().tolist())
        interventions = [_of_set(case, membership, number) for number in numbers]
    return run_law("nonfinite_isolation", case.function, case.inputs, interventions, **options)


def _applies(case: Case, causal: bool) -> bool:
    return is_batch(case, causal) and features(case.inputs[0]).is_floating_point()


NONFINITE_ISOLATION = Law(
    "NaN in one set of a batch does not reach the others",
    _applies,
    on_leading(_check),
    """\
Says: NaN in one set of a batch does not reach the others.
Measured: all sets but one get NaN, and the outputs of that one must stay as they were; for each of
the first two and the last two sets.
Causes: masks that multiply by 0 (0 x NaN is NaN); sums over the whole batch; sets padded into one
tensor and reduced together.
Mend: select by torch.where or masked_fill and do not multiply by the mask; reduce within a set.
""",
)
