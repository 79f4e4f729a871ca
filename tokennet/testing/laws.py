"""The laws: what any model of tokens may be asked, given an example."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tokennet.symmetry import (
    Action,
    Invariant,
    Permute,
    ReorderEdges,
    SymmetryReport,
    check_batch,
    check_dependency,
    check_equivariance,
    check_finite,
    check_padding,
)
from tokennet.symmetry.laws.judge import judge
from tokennet.symmetry.report import Verdict
from tokennet.symmetry.trial.change import Perturbing
from tokennet.symmetry.trial.gradient import GradientOf
from tokennet.symmetry.values import features, with_features
from tokennet.testing.backends import check_backends, has_backends
from tokennet.testing.case import Case
from tokennet.testing.ragged import check_ragged, is_listed, without_neighbours

Options = dict[str, Any]
LONGEST = 256
"""Tokens up to which every pair is asked whether one depends on the other."""


class Law(NamedTuple):
    """A law: what it says, to which cases it applies, and how it is checked."""

    summary: str
    applies: Callable[[Case, bool], bool]
    check: Callable[[Case, Options], SymmetryReport]


def _node_permutation(case: Case, options: Options) -> SymmetryReport:
    return _with_gradients(_permuted, case, options)


def _permuted(case: Case, options: Options, of: Callable[..., Any] | None = None) -> SymmetryReport:
    out = (Permute(_token_dim(case)),) if of else case.out_actions
    return check_equivariance(
        of or case.function, case.inputs, in_action=case.in_actions, out_action=out, **options
    )


def _edge_permutation(case: Case, options: Options) -> SymmetryReport:
    return _with_gradients(_reordered, case, options)


def _reordered(
    case: Case, options: Options, of: Callable[..., Any] | None = None
) -> SymmetryReport:
    position = 1 if case.kind == "graph" else 0
    actions: list[Action] = [Invariant()] * len(case.inputs)
    actions[position] = ReorderEdges()
    count = ReorderEdges().degree(case.inputs[position])
    for number, value in enumerate(case.inputs[2:], start=2):  # features and weights of edges
        if isinstance(value, Tensor) and value.shape[:1] == (count,):
            actions[number] = Permute(0)
    return check_equivariance(
        of or case.function, case.inputs, in_action=actions, out_action=Invariant(), **options
    )


def _batch_composition(case: Case, options: Options) -> SymmetryReport:
    return _with_gradients(_in_batches, case, options)


def _in_batches(
    case: Case, options: Options, of: Callable[..., Any] | None = None
) -> SymmetryReport:
    function = of or case.function
    if case.membership is None:
        return check_batch(function, case.inputs, **options)
    return check_ragged(case, function, per_token=of is not None, **options)


def _padding(case: Case, options: Options) -> SymmetryReport:
    assert case.real is not None
    return check_padding(case.function, case.inputs, case.real, **options)


def _empty_neighbourhood(case: Case, options: Options) -> SymmetryReport:
    reports = [
        check_finite(
            case.function,
            inputs,
            law="empty_neighbourhood",
            seed=options.get("seed", 0),
            jitter=options.get("jitter", True),
        )
        for inputs in without_neighbours(case)
    ]
    return _worst(reports)


def _tied_inputs(case: Case, options: Options) -> SymmetryReport:
    """On duplicate tokens, and on tokens that tie in each feature with another one."""
    reports = []
    for z in _ties(features(case.inputs[0]), _token_dim(case)):
        inputs = (with_features(case.inputs[0], z), *case.inputs[1:])
        reports.append(
            check_equivariance(
                case.function,
                inputs,
                in_action=case.in_actions,
                out_action=case.out_actions,
                **options,
            )
        )
    return _worst(reports)


def _ties(z: Tensor, dim: int) -> list[Tensor]:
    n = z.shape[dim]
    pairs = torch.arange(n, device=z.device) // 2 * 2
    duplicates = z.index_select(dim, pairs)
    if dim == -1 or not z.is_floating_point():
        return [duplicates]
    generator = torch.Generator().manual_seed(3)
    tied = z.clone()
    for feature in range(z.shape[-1]):
        order = torch.randperm(n, generator=generator).to(z.device)
        place = torch.empty_like(order)
        place[order] = order[pairs]  # the two of a pair get the first one's value
        tied[..., feature] = z[..., feature].index_select(-1, place)
    return [duplicates, tied]


def _backend_agreement(case: Case, options: Options) -> SymmetryReport:
    return check_backends(case, **options)


def _causality(case: Case, options: Options) -> SymmetryReport:
    graph = getattr(case.inputs[0], "graph", None)
    n = case.num_tokens
    allowed = torch.ones(n, n).tril().bool() if graph is None else graph.reach(n)
    settings = {key: value for key, value in options.items() if key in ("jitter", "seed")}
    return check_dependency(
        case.function,
        case.inputs,
        allowed,
        dim=_token_dim(case),
        out_dim=getattr(case.out_actions[0], "dim", -2),
        law="causality",
        **settings,
    )


def _deterministic(case: Case, options: Options) -> SymmetryReport:
    same = Perturbing(lambda inputs: inputs)
    return judge("deterministic", case.function, case.inputs, [same], noise_breaks=True, **options)


def _with_gradients(
    check: Callable[..., SymmetryReport], case: Case, options: Options
) -> SymmetryReport:
    """The law asked of values, and where it holds, of gradients."""
    report = check(case, options)
    if report.verdict is not Verdict.PASS:
        return report
    try:
        gradients = check(case, options, of=GradientOf(case.function))
    except (TypeError, RuntimeError) as error:
        note = f"values only: {str(error).splitlines()[0]}"
        return dataclasses.replace(report, notes=(*report.notes, note))
    if gradients.verdict in (Verdict.PASS, Verdict.VACUOUS):
        return report
    reason = f"values agree, but the gradient is {gradients.reason}"
    return dataclasses.replace(gradients, reason=reason)


def _worst(reports: list[SymmetryReport]) -> SymmetryReport:
    order = (Verdict.PASS, Verdict.VACUOUS, Verdict.INCONCLUSIVE, Verdict.BROKEN)
    return max(reports, key=lambda report: order.index(report.verdict))


def _token_dim(case: Case) -> int:
    return getattr(case.in_actions[0], "dim", -2)


def _has_edges(case: Case) -> bool:
    if case.kind == "tokens":
        return is_listed(case.inputs[0].graph) and case.inputs[0].graph.num_edges > 1
    return case.kind in ("data", "graph")


def _is_batch(case: Case) -> bool:
    if case.membership is not None:
        return int(case.membership.max()) > 0 if case.membership.numel() else False
    z = features(case.inputs[0])
    lead = z.dim() - (2 if z.is_floating_point() else 1)
    return case.kind in ("set", "padded", "ids") and lead > 0 and z.shape[0] > 1


def _claims_causality(case: Case, causal: bool) -> bool:
    if case.pooled or case.num_tokens > LONGEST:
        return False
    graph = getattr(case.inputs[0], "graph", None)
    if graph is None:
        return causal
    n = graph.num_targets
    return causal or graph.reach(n).num_edges < n * n


LAWS = {
    "node_permutation": Law(
        "the order of tokens does not matter",
        lambda case, causal: case.num_tokens > 1 and not (causal and case.kind != "tokens"),
        _node_permutation,
    ),
    "tied_inputs": Law(
        "nor does it where tokens are equal, or tie in a feature",
        lambda case, causal: case.num_tokens > 1 and not (causal and case.kind != "tokens"),
        _tied_inputs,
    ),
    "edge_permutation": Law(
        "the order in which edges are listed does not matter",
        lambda case, causal: _has_edges(case),
        _edge_permutation,
    ),
    "batch_composition": Law(
        "a set gives the same alone and beside any others",
        lambda case, causal: _is_batch(case),
        _batch_composition,
    ),
    "padding": Law(
        "what stands in padded places does not matter",
        lambda case, causal: case.real is not None and not bool(case.real.all()),
        _padding,
    ),
    "empty_neighbourhood": Law(
        "values and gradients are finite where nobody is listened to",
        lambda case, causal: bool(without_neighbours(case)),
        _empty_neighbourhood,
    ),
    "causality": Law(
        "outputs depend only on tokens that the graph, or the claim, lets them see",
        _claims_causality,
        _causality,
    ),
    "backend_agreement": Law(
        "every attention backend gives the same",
        lambda case, causal: isinstance(case.model, nn.Module) and has_backends(case),
        _backend_agreement,
    ),
    "deterministic": Law(
        "two runs on the same input agree", lambda case, causal: True, _deterministic
    ),
}
