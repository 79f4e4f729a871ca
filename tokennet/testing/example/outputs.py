"""What the outputs of a model hold: which are chosen; what is per token, pair, edge or set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokennet.checks import lookup
from tokennet.testing.engine.actions import (
    Action,
    AsSet,
    Conjugate,
    Invariant,
    Permute,
    PermutePart,
)
from tokennet.testing.engine.differences import difference
from tokennet.testing.engine.intervention import Inputs, PermutationIntervention
from tokennet.testing.engine.run import call_model
from tokennet.testing.example.inputs import Example
from tokennet.testing.example.layout import Layout
from tokennet.testing.example.parts import keep_edges, one_set_less, one_token_less
from tokennet.testing.example.roles import OF_OUTPUTS, Kind, Role, counted_from_end, parse_role
from tokennet.testing.example.values import map_tensors, named_tensors_of

NOTHING = Layout()
TRIED = 4
"""Permutations by which it is told whether an output is a set of rows."""


@dataclass(frozen=True)
class Output:
    """A tensor among the outputs, `number` in their order, and what is known of it.

    `is_unknown` says that its size follows the number of tokens in another way than one or
    several entries a token, as a list of their pairs does.
    """

    number: int
    name: str
    value: Tensor
    role: Role | None = None
    layout: Layout = NOTHING
    is_left_out: bool = False
    is_unknown: bool = False


def chosen_outputs(given: Any) -> dict[str, Role | None] | None:
    """The outputs that are asked for, with their roles where these are said.

    Raises:
        TypeError, ValueError: they are no names, or a role is none of an output.
    """
    if given is None:
        return None
    if isinstance(given, str):
        given = [given]
    if isinstance(given, Mapping):
        return {
            str(name): None if role is None else parse_role(str(name), role, OF_OUTPUTS, "outputs")
            for name, role in given.items()
        }
    if not isinstance(given, Sequence) or not all(isinstance(name, str) for name in given):
        raise TypeError(f"outputs must be a name, a list of names or a dict, got {given!r}")
    return dict.fromkeys(given)


def named_outputs(
    function: Callable[..., Any], example: Example, chosen: dict[str, Role | None] | None
) -> list[Output]:
    """The outputs, those that are not chosen marked as left out.

    Raises:
        ValueError: a chosen one is not there, or has no such dimension.
    """
    with torch.no_grad():
        output = function(*map_tensors(torch.clone, example.inputs))
    found = [
        Output(n, name, value.detach()) for n, (name, value) in enumerate(named_tensors_of(output))
    ]
    if chosen is None:
        return found
    names = [output.name for output in found]
    parts = [name.split(".") for name in names]
    prefixes = [".".join(part[:n]) for part in parts for n in range(1, len(part) + 1)]
    for name in chosen:
        lookup("outputs", name, dict.fromkeys(prefixes))
    return [_as_chosen(output, chosen) for output in found]


def _as_chosen(output: Output, chosen: dict[str, Role | None]) -> Output:
    fitting = [n for n in chosen if output.name == n or output.name.startswith(f"{n}.")]
    if not fitting:
        return dataclasses.replace(output, is_left_out=True)
    role = chosen[max(fitting, key=len)]
    if role is None:
        return output
    dims = counted_from_end(f"outputs[{output.name!r}]", role.dims, output.value.dim())
    role = dataclasses.replace(role, dims=dims)
    return dataclasses.replace(output, role=role, is_left_out=role.kind is Kind.OTHER)


def may_be_indices(output: Output) -> bool:
    """Whether an output holds integers for tokens: labels, or the numbers of other tokens."""
    y = output.value
    is_integer = not y.is_floating_point() and not y.is_complex() and y.dtype != torch.bool
    return bool(output.layout.tokens) and is_integer


def role_of_labels(output: Output) -> str:
    """The role of an output of integers if these are no numbers of tokens."""
    return str(Kind.PAIRS if len(output.layout.tokens) > 1 else Kind.TOKENS)


def has_a_known_action(output: Output, example: Example) -> bool:
    """Whether it is known what permutations do to an output; outputs that are indices are not."""
    y, layout = output.value, output.layout
    if output.role is not None:
        return True
    if output.is_unknown or may_be_indices(output):
        return False
    counts = _numbers_of_edges(example)
    if counts and any(y.shape[dim] not in counts for dim in layout.edges):
        return False
    fewer = [dim for dim in layout.tokens if y.shape[dim] < example.num_tokens]
    return not fewer or (len(layout.tokens) == 1 and example.membership is None)


def _numbers_of_edges(example: Example) -> list[int]:
    if example.edge_lists:
        return [example.inputs[example.names.index(name)].shape[1] for name in example.edge_lists]
    return [] if example.edge_index is None else [example.edge_index.shape[1]]


_Dims = tuple[int, ...] | None
"""The dimensions of an output of another size with other inputs; None where unknown."""


def with_layouts(
    function: Callable[..., Any], example: Example, every: list[Output]
) -> list[Output]:
    """Which dimensions change their size with the numbers of tokens, edges and sets.

    Raises:
        ValueError: the number of outputs is that of the tokens, or changes with that of the sets.
    """
    n, values = example.num_tokens, [output.value for output in every]
    tokens: list[_Dims] = [None] * len(every)
    sets = tokens
    shapes = _shapes(function, lambda: one_token_less(example)) if n > 1 else None
    if shapes is not None:
        _check_count("token", n, values, shapes)
        tokens = _changed(values, shapes)
    edges = [edge_dims(function, view, values) for view in views_of_edges(example)]
    has_sets = example.num_sets > 1 or (
        example.membership is not None and bool(example.membership.numel())
        and int(example.membership.max()) > 0
    )  # fmt: skip
    if has_sets:
        of_fewer = _shapes(function, lambda: one_set_less(example))
        _check_count("set", len(values), values, of_fewer)
        sets = _changed(values, of_fewer)
    found = []
    for number, output in enumerate(every):
        own = tuple(dict.fromkeys(dim for dims in edges for dim in dims[number] or ()))
        layout = _layout(output.value, example, tokens[number], own, sets[number])
        if output.role is not None:
            layout = _as_said(output, layout, example)
        odd = shapes is not None and not all(
            _is_per_token(output.value.shape[dim], shapes[number][dim], n)
            for dim in set(tokens[number] or ()).intersection(layout.tokens)
        )
        if not output.is_left_out:
            found.append(dataclasses.replace(output, layout=layout, is_unknown=odd))
    return found


def views_of_edges(example: Example) -> list[Example]:
    """The example with each of its lists of edges in question."""
    if example.edge_lists:
        return [dataclasses.replace(example, edge_list=name) for name in example.edge_lists]
    return [example] if example.roles[0].kind is Kind.WHOLE else []


def edge_dims(function: Callable[..., Any], example: Example, values: list[Tensor]) -> list[_Dims]:
    """The dimensions that change with the number of the edges in question."""
    edges = example.edge_index
    if edges is None or edges.shape[1] < 2:
        return [None] * len(values)
    keep = torch.arange(edges.shape[1]) < edges.shape[1] - 1
    return _changed(values, _shapes(function, lambda: keep_edges(example, keep)))


def _shapes(function: Callable[..., Any], inputs: Callable[[], Inputs]) -> list[torch.Size] | None:
    """The shapes of the outputs for other inputs; None where the model refuses these."""
    try:
        return [y.shape for y in call_model(function, inputs())]
    except Exception:  # whatever a model of other people raises at another size
        return None


def _check_count(
    of: str, number: int, outputs: list[Tensor], fewer: list[torch.Size] | None
) -> None:
    """Refuse outputs that are a list of sets or tokens: laws need the same outputs each time.

    Args:
        number: of outputs, if there is one for each.
        fewer: the shapes of the outputs with one set or token less.
    """
    if fewer is not None and len(fewer) < len(outputs) == number:
        raise ValueError(
            f"the model must return the same number of outputs for one {of} less, got "
            f"{len(outputs)} and {len(fewer)}: put those of all {of}s into one tensor, as by "
            "torch.stack or by padding"
        )


def _changed(outputs: list[Tensor], shapes: list[torch.Size] | None) -> list[_Dims]:
    """The dimensions of other sizes."""
    dims: list[_Dims] = [
        tuple(d for d in range(-y.dim(), 0) if shape[d] != y.shape[d])
        if len(shape) == y.dim()
        else None
        for y, shape in zip(outputs, shapes or [], strict=False)
    ]
    return dims + [None] * (len(outputs) - len(dims))


def _is_per_token(size: int, less: int, n: int) -> bool:
    """Whether a size may count n tokens, from what it is for one token less.

    One entry a token, with others beside them; several a token; or some of the tokens.

    >>> [_is_per_token(7, 6, 7), _is_per_token(14, 12, 7), _is_per_token(21, 15, 7)]
    [True, True, False]
    """
    return size - less == 1 or size == (size - less) * n or size < n


def _layout(
    y: Tensor, example: Example, tokens: _Dims, edges: tuple[int, ...], sets: _Dims
) -> Layout:
    n = example.num_tokens
    if tokens is None:  # the model accepts no other number of tokens
        tokens = tuple(d for d in range(-y.dim(), 0) if n and y.shape[d] == n and d not in edges)
        tokens = (-2,) if -2 in tokens else tokens[:1]
    tokens = tuple(d for d in tokens if d not in edges)
    if example.membership is None and example.num_sets == 1:
        return Layout(tokens, edges=edges)
    if not y.dim() or (sets == () and y.numel() == 1) or len(set(sets or ()) - set(tokens)) > 1:
        return Layout(scalar=True)
    if example.membership is not None:
        own = [d for d in sets or () if d not in tokens and d not in edges]
        return Layout(tokens, edges=edges, sets=own[0] if own else None)
    if sets and y.shape[sets[0]] != example.num_sets:  # several entries a set, in some order
        return Layout(tokens, edges=edges, scalar=True)
    usual = -y.dim() if sets is None and y.dim() else None
    return Layout(tokens, edges=edges, sets=sets[0] if sets else usual)


def _as_said(output: Output, layout: Layout, example: Example) -> Layout:
    """The layout that a role of an output says, seen from a set of tokens.

    Raises:
        ValueError: a dimension has fewer entries than there are tokens.
    """
    role, y = output.role, output.value
    assert role is not None
    several = len(example.anchors) > 1
    for name in role.sets:
        lookup(f"outputs[{output.name!r}]", name, example.anchors)
    match role.kind:
        case Kind.TOKENS | Kind.PAIRS:
            of_others = example.set not in role.sets if role.sets else not layout.tokens
            if several and of_others:
                return Layout(sets=layout.sets)
            usual = layout.tokens or ((-2,) if y.dim() > 1 else (-1,))
            tokens = role.dims or (usual if role.kind is Kind.TOKENS else (-2, -1))
            if role.kind is Kind.PAIRS and len(role.sets) == 2:
                tokens = (tokens[role.sets.index(example.set)],)
            elif role.kind is Kind.PAIRS and several:  # of two sets, each in its dimension
                tokens = tuple(dim for dim in tokens if dim in layout.tokens) or tokens
            for dim in tokens:
                if y.shape[dim] < example.num_tokens:
                    raise ValueError(
                        f"outputs[{output.name!r}]: dimension {dim} has {y.shape[dim]} entries "
                        f"for {example.num_tokens} tokens"
                    )
            return Layout(tokens, sets=layout.sets)
        case Kind.EDGES:
            return Layout(edges=role.dims or layout.edges or (-y.dim(),), sets=layout.sets)
        case Kind.PER_SET:
            return Layout(sets=role.dims[0] if role.dims else layout.sets)
        case _:
            return Layout(scalar=True)


def with_actions(
    function: Callable[..., Any], example: Example, known: list[Output]
) -> list[Action]:
    """The action on each output that its layout says, or another that holds where that fails."""
    n, outputs = example.num_tokens, [output.value for output in known]
    if n < 2 or not example.can_be_permuted:
        return [Invariant()] * len(known)
    generator = torch.Generator().manual_seed(0)
    rows = [_row_dim(output, example) for output in known]
    # A permutation may keep the order of the few rows of a set by chance.
    perms = [
        example.actions[0].random(example.inputs[0], generator)
        for _ in range(1 if set(rows) == {None} else TRIED)
    ]
    moved = [_moved(function, example, perm, outputs) for perm in perms]
    actions = []
    for number, (output, y) in enumerate(zip(known, outputs, strict=True)):
        candidates = _candidates(y, output.layout, n, rows[number])
        if output.role is not None:
            candidates = [a for a in candidates if type(a) is not Invariant] or candidates
        errors = [
            max(
                difference([action.compared(action.apply(y, perm))], [action.compared(m[number])])
                for perm, m in zip(perms, moved, strict=True)
            )
            for action in candidates
        ]
        best = min(range(len(candidates)), key=errors.__getitem__)
        actions.append(candidates[best if errors[best] < 1e-3 < errors[0] else 0])
    return actions


def _moved(
    function: Callable[..., Any], example: Example, perm: Tensor, outputs: list[Tensor]
) -> list[Tensor]:
    """The outputs for permuted tokens."""
    try:
        return call_model(
            function, PermutationIntervention(perm, example.actions, ()).apply(example.inputs)
        )
    except Exception:  # a model that raises here breaks a law, and the law reports it
        return outputs


def _row_dim(output: Output, example: Example) -> int | None:
    """The dimension of rows that may be a set, fewer than the tokens, as a pooling keeps them."""
    y, layout = output.value, output.layout
    dim = layout.tokens[0] if layout.tokens else -2
    if y.dim() < 2 or y.is_complex() or not y.is_floating_point() or output.role is not None:
        return None
    is_sets = dim == layout.sets and (example.num_sets > 1 or example.membership is not None)
    return dim if not is_sets and 1 < y.shape[dim] < example.num_tokens else None


def _candidates(y: Tensor, layout: Layout, n: int, rows: int | None) -> list[Action]:
    """Actions that the shape allows, the most probable first."""
    if rows is not None:
        return [Invariant(), AsSet(rows)]
    if not layout.tokens:
        return [Invariant()]
    if len(layout.tokens) > 1:
        return [Conjugate((layout.tokens[0], layout.tokens[1])), Invariant()]
    dim = layout.tokens[0]
    size = y.shape[dim]
    if size == n:
        return [Permute(dim), Invariant()]
    if size % n == 0:
        return [PermutePart(dim, n, 0, size // n), Invariant()]
    between = range(1, size - n) if size - n < n else ()
    parts = [PermutePart(dim, n, start) for start in (size - n, 0, *between)]
    return [*parts, Invariant()]
