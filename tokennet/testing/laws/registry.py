"""The laws: what any model of tokens may be asked, given an example."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tokennet.testing.engine.actions import Invariant, Permute
from tokennet.testing.engine.content import new_content
from tokennet.testing.engine.gradient import GradientOf, NoGradient
from tokennet.testing.engine.intervention import Perturbing
from tokennet.testing.engine.verdict import judge
from tokennet.testing.example.calls import Selected
from tokennet.testing.example.case import Case
from tokennet.testing.example.inputs import Role
from tokennet.testing.example.parts import Inputs, is_listed, with_inputs, without_neighbors
from tokennet.testing.example.values import features, with_features
from tokennet.testing.laws.backends import check_backends, has_backends
from tokennet.testing.laws.dependency import check_dependency
from tokennet.testing.laws.equivariance import check_equivariance
from tokennet.testing.laws.finiteness import check_finite
from tokennet.testing.laws.isolation import check_batch, check_padding
from tokennet.testing.laws.ragged import check_ragged
from tokennet.testing.report import SymmetryReport, Verdict
from tokennet.tokens import Tokens

Options = dict[str, Any]
LONGEST = 256
"""Tokens up to which a graph's reach is written out to see whether it claims anything."""


class Law(NamedTuple):
    """A law: what it says, to which cases it applies, and how it is checked."""

    summary: str
    applies: Callable[[Case, bool], bool]
    check: Callable[[Case, Options], SymmetryReport]


def _node_permutation(case: Case, options: Options) -> SymmetryReport:
    return _with_gradients(_permuted, case, options)


def _permuted(case: Case, options: Options, of: GradientOf | None = None) -> SymmetryReport:
    return check_equivariance(
        of or case.function,
        _generic(case, options) if of else case.inputs,
        in_action=case.example.actions,
        out_action=(Permute(_token_dim(case)),) if of else case.out_actions,
        **options,
    )


def _generic(case: Case, options: Options) -> Inputs:
    """Other content, where tokens tie no more: the derivative of a maximum may choose among equals.

    It has the scale of the example's own.
    """
    new = new_content(features(case.inputs[0]), options.get("seed", 0))
    return (with_features(case.inputs[0], new), *case.inputs[1:])


def _edge_permutation(case: Case, options: Options) -> SymmetryReport:
    return _with_gradients(_reordered, case, options)


def _reordered(case: Case, options: Options, of: GradientOf | None = None) -> SymmetryReport:
    outs = tuple(
        Permute(layout.edges[0]) if layout.edges and not of else Invariant()
        for layout in case.layouts
    )
    return check_equivariance(
        of or case.function,
        case.inputs,
        in_action=case.example.edge_actions,
        out_action=(Invariant(),) if of else outs,
        **options,
    )


def _batch_composition(case: Case, options: Options) -> SymmetryReport:
    return _with_gradients(_in_batches, case, options)


def _in_batches(case: Case, options: Options, of: GradientOf | None = None) -> SymmetryReport:
    function = of or case.function
    if case.example.membership is None:
        return check_batch(function, case.inputs, layouts=None if of else case.layouts, **options)
    return check_ragged(case, function, per_token=of is not None, **options)


def _padding(case: Case, options: Options) -> SymmetryReport:
    assert case.example.real is not None
    return check_padding(
        case.function, case.inputs, case.example.real, layouts=case.layouts, **options
    )


def _empty_neighborhood(case: Case, options: Options) -> SymmetryReport:
    function = case.function
    if isinstance(function, Selected) and function.mask is not None:
        function = function.function  # what is not finite spreads from padded places too
    inputs = without_neighbors(case.example)
    return _worst([check_finite(function, x, **options) for x in inputs])


def _tied_inputs(case: Case, options: Options) -> SymmetryReport:
    """On duplicate tokens, and on tokens that tie in each feature with another one."""
    reports = []
    for z in _ties(features(case.inputs[0]), _token_dim(case)):
        inputs = (with_features(case.inputs[0], z), *case.inputs[1:])
        tied = dataclasses.replace(case, example=with_inputs(case.example, inputs))
        reports.append(_permuted(tied, options))
    return _worst(reports)


def _ties(z: Tensor, dim: int) -> list[Tensor]:
    n, generator = z.shape[dim], torch.Generator().manual_seed(3)
    duplicates = [z.index_select(dim, _paired(n, generator).to(z.device)) for _ in range(3)]
    if dim == -1 or not z.is_floating_point():
        return duplicates
    tied = z.clone()
    for feature in range(z.shape[-1]):
        place = _paired(n, generator).to(z.device)
        tied[..., feature] = z[..., feature].index_select(-1, place)
    return [*duplicates, tied]


def _paired(n: int, generator: torch.Generator) -> Tensor:
    """Tokens two by two at random; both of a pair are the first of it."""
    order = torch.randperm(n, generator=generator)
    place = torch.empty_like(order)
    place[order] = order[torch.arange(n) // 2 * 2]
    return place


def _backend_agreement(case: Case, options: Options) -> SymmetryReport:
    return check_backends(case, **options)


def _causality(case: Case, options: Options) -> SymmetryReport:
    graph = getattr(case.inputs[0], "graph", None)
    n = case.example.num_tokens
    allowed = torch.ones(n, n).tril().bool() if graph is None else graph.reach(n)
    layouts = [layout for layout in case.layouts if layout.tokens]
    return check_dependency(
        case.function,
        case.inputs,
        allowed,
        dim=_token_dim(case),
        out_dim=layouts[0].tokens[0],
        law="causality",
        **options,
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
    except NoGradient as error:
        note = f"values only: {error}"
        return dataclasses.replace(report, notes=(*report.notes, note))
    if gradients.verdict in (Verdict.PASS, Verdict.VACUOUS):
        return report
    return dataclasses.replace(gradients, reason=f"values agree, the gradient: {gradients.reason}")


def _worst(reports: list[SymmetryReport]) -> SymmetryReport:
    order = (Verdict.PASS, Verdict.VACUOUS, Verdict.INCONCLUSIVE, Verdict.BROKEN)
    return max(reports, key=lambda report: order.index(report.verdict))


def _token_dim(case: Case) -> int:
    role = case.example.roles[0]
    return role.dim if role.role is Role.TOKENS else -2


def _has_edges(case: Case) -> bool:
    first = case.inputs[0]
    if isinstance(first, Tokens):
        return is_listed(first.graph) and first.graph.num_edges > 1
    edges = case.example.edge_index
    return edges is not None and edges.shape[1] > 1


def _is_batch(case: Case) -> bool:
    membership = case.example.membership
    if membership is not None:
        return bool(membership.numel()) and int(membership.max()) > 0
    lead = case.example.lead
    return case.example.kind in ("set", "padded") and len(lead) > 1 and lead[0] > 1


def _claims_order(case: Case, causal: bool) -> bool:
    return causal and not isinstance(case.inputs[0], Tokens)


def _claims_causality(case: Case, causal: bool) -> bool:
    graph = getattr(case.inputs[0], "graph", None)
    if causal and case.pooled:
        raise ValueError("causal=True needs an output for each token, got pooled outputs")
    if graph is None or case.pooled:
        return causal
    n = graph.num_targets
    return causal or (n <= LONGEST and graph.reach(n).num_edges < n * n)


LAWS = {
    "node_permutation": Law(
        "the order of tokens does not matter",
        lambda case, causal: case.example.num_tokens > 1 and not _claims_order(case, causal),
        _node_permutation,
    ),
    "tied_inputs": Law(
        "nor does it where tokens are equal, or tie in a feature",
        lambda case, causal: case.example.num_tokens > 1 and not _claims_order(case, causal),
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
        lambda case, causal: case.example.real is not None and not bool(case.example.real.all()),
        _padding,
    ),
    "empty_neighborhood": Law(
        "values and gradients are finite where nobody is listened to",
        lambda case, causal: bool(without_neighbors(case.example)),
        _empty_neighborhood,
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
