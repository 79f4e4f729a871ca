"""The laws of permutations: of tokens, and of the order of edges.

The check functions hold a model to a group and actions of your own choice.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tokennet.graphs import TokenGraph
from tokennet.graphs.indices import check_permutation
from tokennet.testing.engine.actions import Action, AsSet, Invariant, Permute
from tokennet.testing.engine.content import new_content
from tokennet.testing.engine.draws import COUNT, Draws
from tokennet.testing.engine.graph_actions import Relabel, ReorderEdges, Shuffle
from tokennet.testing.engine.intervention import Inputs, PermutationIntervention
from tokennet.testing.engine.run import call_model
from tokennet.testing.engine.sandbox import sandboxed
from tokennet.testing.engine.verdict import run_law
from tokennet.testing.engine.wrapped import GradientOf
from tokennet.testing.example.case import Case
from tokennet.testing.example.outputs import edge_dims, views_of_edges
from tokennet.testing.example.parts import is_listed
from tokennet.testing.example.values import describe, features, is_pyg_data, with_features
from tokennet.testing.groups import automorphisms
from tokennet.testing.laws.law import (
    Law,
    Options,
    as_inputs,
    on_views,
    token_dim,
    with_gradients,
    worst,
)
from tokennet.testing.laws.texts import EDGES, NODES
from tokennet.testing.report import SymmetryReport
from tokennet.tokens import Tokens

Actions = Action | Sequence[Action]
Group = Sequence[Any] | None


def check_equivariance(
    f: Callable[..., Any],
    inputs: Any,
    *,
    group: Group = None,
    in_action: Actions | None = None,
    out_action: Actions | None = None,
    num_permutations: int = 5,
    dtype: str | torch.dtype = "auto",
    jitter: bool = True,
    seed: int = 0,
    draws: int | Draws = COUNT,
) -> SymmetryReport:
    r"""Whether f(P x) = P f(x) for the permutations P of a group, with the evidence.

        error = max |f(P x) - P f(x)| / max |f(x)|

    decided in float64 against a tolerance of 64 eps max(1, r / eps32), where r is the
    measured |f32 - f64|, so that a model that amplifies rounding is no false positive and a
    small break is not missed. f runs in a sandbox: in eval mode, on parameters that are moved
    a little, its state restored afterwards. A break comes with the smallest counterexample
    found and the statement of code where it happens. `check` chooses the actions itself; use
    this where the group or an action is your own.

    Args:
        f: a module or function on tensors, `Tokens` or PyG `Data`.
        inputs: its input, or a tuple of inputs.
        group: generators as permutations; None for every permutation that the action of
            the first input allows (within each graph of a ragged batch).
        in_action: how P acts on each input; a single one is for the first input, and the
            others stay as they are. By default `Permute(-2)` for a tensor and `Relabel()`
            for `Tokens` and `Data`.
        out_action: how P acts on the output, or on each output; `Permute(-2)` by default.
        num_permutations: number of random permutations, besides the generators of `group`.
        dtype: the precision that decides; "auto" is float64 where f can run in it.
        jitter: move parameters a little, so that a table of zeros hides nothing.
        seed: of permutations and of the jitter.
        draws: how often the law is tried on other content, where it holds.

    Raises:
        TypeError, ValueError: an action does not fit its input, `group` is no list of
            permutations, or there is no input.

    >>> report = check_equivariance(lambda x: x + x.mean(-2, keepdim=True), torch.randn(5, 3))
    >>> print(report.verdict)
    PASS
    >>> report = check_equivariance(lambda x: x.cumsum(-2), torch.randn(5, 3))
    >>> print(report.verdict, report.counterexample.perm)
    BROKEN (1, 0)
    """
    inputs = as_inputs(inputs)
    if num_permutations < 1:
        raise ValueError(f"num_permutations must be at least 1, got {num_permutations}")
    ins = _in_actions(inputs, in_action)
    outs = _as_actions("out_action", out_action, Permute(-2))
    perms = _permutations(group, inputs, ins, num_permutations, seed)
    as_sets = [number for number, out in enumerate(outs) if isinstance(out, AsSet)]
    ordered, membership = _ordered(inputs, ins), _membership(inputs, ins)
    if as_sets and ordered is None:
        ordered = (features(inputs[0]).shape[-1],)
    interventions = [
        PermutationIntervention(perm, ins, outs, ordered, membership) for perm in perms
    ]
    law = "invariance" if all(isinstance(out, Invariant) for out in outs) else "equivariance"
    options: dict[str, Any] = {"dtype": dtype, "jitter": jitter, "seed": seed, "draws": draws}
    report = run_law(law, f, inputs, interventions, swaps=group is None, **options)
    told = [f"output {n} is compared as a set of rows, in any order" for n in as_sets]
    return dataclasses.replace(report, notes=(*report.notes, *told))


def assert_equivariant(f: Callable[..., Any], inputs: Any, **options: Any) -> SymmetryReport:
    """Assert that `check_equivariance` gives PASS; its options.

    Raises:
        AssertionError: with the printed report.

    >>> assert_equivariant(torch.relu, torch.randn(5, 3)).runs
    5
    """
    return check_equivariance(f, inputs, **options).assert_pass()


def assert_invariant(f: Callable[..., Any], inputs: Any, **options: Any) -> SymmetryReport:
    """Assert that f(P x) = f(x): a pooled output.

    >>> assert_invariant(lambda x: x.sum(-2), torch.randn(5, 3)).runs
    5
    """
    return assert_equivariant(f, inputs, out_action=Invariant(), **options)


def assert_set_to_set(f: Callable[..., Any], inputs: Any, **options: Any) -> SymmetryReport:
    """Assert that f is a function from sets to sets: z alone moves, all of S_n.

    For `Tokens` and `Data` the graph and positions are held, so that a model that reads
    them fails unless they are symmetric themselves.

    >>> assert_set_to_set(lambda x: x - x.mean(-2, keepdim=True), torch.randn(5, 3)).runs
    5
    """
    action = _action_on(as_inputs(inputs)[0], Shuffle())
    return assert_equivariant(f, inputs, in_action=action, **options)


def assert_relabeling_equivariant(
    f: Callable[..., Any], inputs: Any, **options: Any
) -> SymmetryReport:
    """Assert that names of tokens do not matter: z, graph and pos move together.

    >>> from tokennet import Attention, Causal
    >>> tokens = Tokens(torch.randn(5, 8), Causal(5))
    >>> assert_relabeling_equivariant(Attention(8, num_heads=2), tokens).runs
    5
    """
    return assert_equivariant(f, inputs, in_action=Relabel(), **options)


def assert_automorphism_equivariant(
    f: Callable[..., Any], inputs: Any, graph: TokenGraph | None = None, **options: Any
) -> SymmetryReport:
    """Assert that f commutes with the automorphisms of a graph that is held fixed.

    The group is found by nauty (McKay and Piperno 2014, arXiv 1301.1493), with edge
    features as colors of edges.

    Args:
        graph: by default that of the `Tokens` given.

    Raises:
        ValueError: there is no graph, or it has no automorphism but the identity, so that
            nothing would be tested.

    >>> from tokennet import Attention, Cycle
    >>> ring = Tokens(torch.randn(5, 8), Cycle(5))
    >>> assert_automorphism_equivariant(Attention(8, num_heads=2), ring).runs
    5
    """
    inputs = as_inputs(inputs)
    if graph is None:
        graph = getattr(inputs[0], "graph", None)
    if graph is None:
        raise ValueError(f"graph must be given for inputs without one, got {describe(inputs)}")
    generators = automorphisms(graph)
    if not generators:
        raise ValueError(f"graph has no automorphism but the identity: {graph!r}")
    action = _action_on(inputs[0], Shuffle())
    return assert_equivariant(f, inputs, group=generators, in_action=action, **options)


def _action_on(value: Any, own: Action) -> Action:
    """An action on `Tokens` or `Data`, or the one on a tensor."""
    return own if isinstance(value, Tokens) or is_pyg_data(value) else Permute(-2)


def _as_actions(name: str, given: Any, default: Action) -> tuple[Action, ...]:
    if given is None:
        return (default,)
    actions = (given,) if isinstance(given, Action) else tuple(given)
    for action in actions:
        if not isinstance(action, Action):
            raise TypeError(f"{name} must be an Action or several, got {action!r}")
    return actions


def _in_actions(inputs: Inputs, given: Any) -> tuple[Action, ...]:
    actions = _as_actions("in_action", given, _action_on(inputs[0], Relabel()))
    if len(actions) == 1:
        actions += (Invariant(),) * (len(inputs) - 1)
    if len(actions) != len(inputs):
        raise ValueError(
            f"in_action must be one action or one for each of the {len(inputs)} inputs, "
            f"got {len(actions)}"
        )
    return actions


def _degree(inputs: Inputs, actions: tuple[Action, ...]) -> int:
    found = {
        degree
        for action, value in zip(actions, inputs, strict=True)
        if (degree := action.degree(value)) is not None
    }
    if len(found) != 1:
        raise ValueError(
            f"the actions on the inputs must permute the same number of things, got "
            f"{sorted(found) or 'none'} for {describe(inputs)}"
        )
    degree = found.pop()
    if degree < 2:
        raise ValueError(f"inputs must have at least 2 tokens to permute, got {degree}")
    return degree


def _ordered(inputs: Inputs, actions: tuple[Action, ...]) -> tuple[int, ...] | None:
    """Sizes that do not count edges, where edges may be listed in another order."""
    if any(isinstance(action, ReorderEdges) for action in actions):
        return features(inputs[0]).shape[:-1] or features(inputs[0]).shape
    if any(isinstance(value, Tokens) for value in inputs):
        return (features(inputs[0]).shape[-2], features(inputs[0]).shape[-1])
    return None


def _membership(inputs: Inputs, actions: tuple[Action, ...]) -> Tensor | None:
    """The set of each token, where the first input is a ragged batch sorted by set."""
    first = inputs[0]
    found = getattr(actions[0], "membership", None)
    if isinstance(first, Tokens) and first.graph.is_ragged:
        found = first.graph.batch()
    if is_pyg_data(first) and isinstance(first.batch, Tensor):
        found = first.batch
    if found is None or bool((found.diff() < 0).any()):
        return None
    if len(found) != features(first).shape[getattr(actions[0], "dim", -2)]:
        return None
    return found.cpu()


def _permutations(
    group: Group, inputs: Inputs, actions: tuple[Action, ...], count: int, seed: int
) -> list[Tensor]:
    degree, generator = _degree(inputs, actions), torch.Generator().manual_seed(seed)
    if isinstance(group, str):
        raise TypeError(f"group must be a list of permutations, got {group!r}")
    if group is not None:
        generators = [check_permutation("group", perm, degree) for perm in group]
        if not generators:
            raise ValueError("group must have at least one generator, got none")
        words = [_word(generators, generator) for _ in range(count)]
        found = [perm for perm in [*generators, *words] if not _is_identity(perm)]
        if not found:
            raise ValueError("group must have a generator that moves a token, got the identity")
        return found
    pairs = zip(actions, inputs, strict=True)
    action, value = next(pair for pair in pairs if pair[0].degree(pair[1]) is not None)
    drawn = (action.random(value, generator) for _ in range(20 * count))
    perms = list(itertools.islice((perm for perm in drawn if not _is_identity(perm)), count))
    if not perms:
        raise ValueError(f"inputs must have tokens that can be permuted, got {describe(inputs)}")
    return perms


def _word(generators: list[Tensor], generator: torch.Generator) -> Tensor:
    """A product of random generators."""
    length = 2 * math.ceil(math.log2(len(generators[0]) + 1)) + 2
    chosen = torch.randint(len(generators), (length,), generator=generator)
    word = generators[int(chosen[0])]
    for number in chosen[1:].tolist():
        word = word[generators[number]]
    return word


def _is_identity(perm: Tensor) -> bool:
    return torch.equal(perm, torch.arange(len(perm)))


def check_nodes(
    case: Case, options: Options, gradient: GradientOf | None, group: Group = None
) -> SymmetryReport:
    """The law of the order of tokens, of values or of a gradient; under all or some permutations.

    >>> from tokennet.testing.example.case import make_case
    >>> case = make_case(lambda x: x + x.roll(1, -2), torch.randn(4, 3))
    >>> print(check_nodes(case, {}, None, group=[[1, 2, 3, 0]]).verdict)
    PASS
    """
    function, inputs, out_actions = case.function, case.inputs, case.out_actions
    if gradient is not None:
        # Other content, without ties: the derivative of a maximum may choose among equals.
        z = new_content(features(inputs[0]), options.get("seed", 0))
        function, inputs = gradient, (with_features(inputs[0], z), *inputs[1:])
        out_actions = (Permute(token_dim(case)),)
    actions = case.example.actions
    return check_equivariance(
        function, inputs, group=group, in_action=actions, out_action=out_actions, **options
    )


def _check_edges(case: Case, options: Options, gradient: GradientOf | None) -> SymmetryReport:
    reports = []
    for example in views_of_edges(case.example):
        edges = example.edge_index
        if edges is not None and edges.shape[1] < 2:
            continue
        outs = _edge_actions(dataclasses.replace(case, example=example))
        reports.append(
            check_equivariance(
                gradient or case.function,
                case.inputs,
                in_action=example.edge_actions,
                out_action=[Invariant()] if gradient else outs,
                **options,
            )
        )
    return worst(reports)


def _edge_actions(case: Case) -> list[Action]:
    """How another order of the edges in question acts on each output."""
    layouts = case.layouts
    if len(case.example.edge_lists) < 2:
        return [Permute(at.edges[0]) if at.edges else Invariant() for at in layouts]
    with sandboxed(case.function, dtype=None), torch.no_grad():
        values = call_model(case.function, case.inputs)
        dims = edge_dims(case.function, case.example, values)
    return [Permute(own[0]) if own else Invariant() for own in dims]


def can_be_permuted(case: Case, causal: bool) -> bool:
    """Whether there are tokens, in no order that the model claims to depend on."""
    claims_order = causal and not isinstance(case.inputs[0], Tokens)
    return case.example.can_be_permuted and not claims_order


def _has_edges(case: Case, causal: bool) -> bool:
    first = case.inputs[0]
    if isinstance(first, Tokens):
        return is_listed(first.graph) and first.graph.num_edges > 1
    lists = [view.edge_index for view in views_of_edges(case.example)]
    return any(edges is not None and edges.shape[1] > 1 for edges in lists)


NODE_PERMUTATION = on_views(
    Law(
        "the order of tokens does not matter",
        can_be_permuted,
        with_gradients(check_nodes),
        NODES,
    )
)
EDGE_PERMUTATION = Law(
    "the order in which edges are listed does not matter",
    _has_edges,
    with_gradients(_check_edges),
    EDGES,
)
