"""The law that the order of tokens does not matter where they are equal, or tie in a feature."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from tokennet.testing.engine.run import Runner
from tokennet.testing.engine.tolerance import PRECISIONS
from tokennet.testing.example.case import Case
from tokennet.testing.example.values import features, with_features
from tokennet.testing.laws.equivariance import can_be_permuted, check_nodes
from tokennet.testing.laws.law import Law, Options, on_views, token_dim, worst
from tokennet.testing.laws.texts import TIES
from tokennet.testing.report import SymmetryReport, Verdict


def _check_ties(case: Case, options: Options) -> SymmetryReport:
    """On duplicate tokens, and on tokens that tie in each feature with another token."""
    z, dim, generator = features(case.inputs[0]), token_dim(case), torch.Generator().manual_seed(3)
    n = z.shape[dim]
    tied = [z.index_select(dim, _pairs(n, generator).to(z.device)) for _ in range(3)]
    if dim != -1 and z.is_floating_point():
        tied.append(z.clone())
        for feature in range(z.shape[-1]):
            first = _pairs(n, generator).to(z.device)
            tied[-1][..., feature] = z[..., feature].index_select(-1, first)

    def asked(content: Tensor) -> SymmetryReport:
        inputs = (with_features(case.inputs[0], content), *case.inputs[1:])
        example = dataclasses.replace(case.example, inputs=inputs)
        return check_nodes(
            dataclasses.replace(case, example=example), {**options, "draws": 0}, None
        )

    equal = z.index_select(dim, torch.zeros(n, dtype=torch.long, device=z.device))
    return _where_all_are_equal(case, equal, options, worst(map(asked, tied)))


def _where_all_are_equal(
    case: Case, equal: Tensor, options: Options, report: SymmetryReport
) -> SymmetryReport:
    """The report, unless the output is not finite where all tokens of a set are equal."""
    if report.verdict is not Verdict.PASS:
        return report
    inputs = (with_features(case.inputs[0], equal), *case.inputs[1:])
    runner = Runner(case.function, inputs, jitter=options["seed"] if options["jitter"] else None)
    with runner.at(PRECISIONS[report.dtype]) as x:
        finite = all(bool(y.isfinite().all()) for y in runner.run(x) if y.is_floating_point())
    if finite:
        return report
    reason = "the output is not finite where all tokens are equal"
    return dataclasses.replace(report, verdict=Verdict.INCONCLUSIVE, reason=reason)


def _pairs(n: int, generator: torch.Generator) -> Tensor:
    """Tokens in random pairs: for each token the index of the first of its pair."""
    order = torch.randperm(n, generator=generator)
    first = torch.empty_like(order)
    first[order] = order[torch.arange(n) // 2 * 2]
    return first


TIED_INPUTS = on_views(
    Law(
        "the order of tokens does not matter where tokens are equal, or tie in a feature",
        can_be_permuted,
        _check_ties,
        TIES,
    )
)
