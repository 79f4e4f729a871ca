"""Ragged batches for kernels that want sets of one shape: sets sorted by size, padded, and back.

`sets_alike` and `complete_or_causal` sort the sets of a batch so that those of one shape stand in
a row; `padded_sets` brings sets of about a size to one shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from tokennet.graphs import TokenGraph

_Shape = tuple[Any, ...]
"""Targets, sources, causal or not, and the sizes of a grid: the same for sets that go together."""


class Alike(NamedTuple):
    """Sets of one shape."""

    num_sets: int
    num_targets: int
    """n, of each."""
    num_sources: int
    """m, of each."""
    is_causal: bool
    """Whether each token attends to itself and those before."""
    first: int
    """Number of the first of them."""


class SortedSets(NamedTuple):
    """The sets of a graph, those of one shape in a row; and the way back."""

    targets: Tensor
    """(N,) token at each index; (0,) where the tokens are in order already."""
    sources: Tensor
    """(M,) the same of sources."""
    targets_back: Tensor
    """(N,) index of each token; (0,) where it is its own."""
    sources_back: Tensor
    """(M,) the same of sources."""
    shapes: list[Alike]


def sets_alike(graph: TokenGraph, device: torch.device | None = None) -> SortedSets:
    """The sets of a graph by their shapes, causal or not; built once and kept with the graph."""
    return graph.cached(_sorted_sets, _by_shape, device=device)


def complete_or_causal(graph: TokenGraph, device: torch.device | None = None) -> SortedSets:
    """The sets of a graph that are complete or causal, the tokens of causal ones in their order.

    Raises:
        ValueError: some set is neither.
    """
    return graph.cached(_sorted_sets, _by_past, device=device)


def _by_shape(part: TokenGraph) -> tuple[_Shape, None]:
    return (part.num_targets, part.num_sources, part.is_causal, *(part.grid_shape or ())), None


def _by_past(part: TokenGraph) -> tuple[_Shape, Tensor | None]:
    """The order of the tokens, too, if it is not their own."""
    n, m = part.num_targets, part.num_sources
    if part.is_complete:
        return (n, m, False), None
    order = causal_order(part)
    if order is None:
        raise ValueError(
            f"graph must be complete or causal, set by set, to be summed up without its edges; "
            f"got {part!r}"
        )
    return (n, m, True), order


def causal_order(graph: TokenGraph) -> Tensor | None:
    """The tokens in the order in which each attends to itself and those before, or None.

    >>> from tokennet import Causal
    >>> causal_order(Causal(3).relabel([2, 0, 1]))
    tensor([1, 2, 0])
    """
    n = graph.num_targets
    if graph.is_causal:
        return torch.arange(n)
    if not graph.is_square or graph.has_multi_edges or graph.num_edges != n * (n + 1) // 2:
        return None
    source, target = graph.edge_index()
    rank = torch.bincount(target, minlength=n)  # the first has 1 edge, the last n
    order = rank.argsort()
    is_order = torch.equal(rank[order], torch.arange(1, n + 1))
    return order if is_order and bool((rank[source] <= rank[target]).all()) else None


def _sorted_sets(
    graph: TokenGraph, sort: Callable[[TokenGraph], tuple[_Shape, Tensor | None]]
) -> SortedSets:
    groups: dict[_Shape, list[tuple[int, Tensor, Tensor]]] = {}
    first_target = first_source = 0
    for number, part in enumerate(graph.parts):
        n, m = part.num_targets, part.num_sources
        shape, order = sort(part)
        targets = (torch.arange(n) if order is None else order) + first_target
        sources = (torch.arange(m) if order is None else order) + first_source
        groups.setdefault(shape, []).append((number, targets, sources))
        first_target, first_source = first_target + n, first_source + m
    nothing = torch.zeros(0, dtype=torch.long)
    sets = [numbered for group in groups.values() for numbered in group]
    targets = _unless_in_order(torch.cat([nothing, *(targets for _, targets, _ in sets)]))
    sources = _unless_in_order(torch.cat([nothing, *(sources for _, _, sources in sets)]))
    shapes = [
        Alike(len(group), n, m, is_causal, first=group[0][0])
        for (n, m, is_causal, *_), group in groups.items()
    ]
    return SortedSets(targets, sources, targets.argsort(), sources.argsort(), shapes)


def _unless_in_order(order: Tensor) -> Tensor:
    return order[:0] if torch.equal(order, torch.arange(len(order))) else order


def stacked_targets(z: Tensor, sets: SortedSets, dim: int) -> list[Tensor]:
    """Targets, dimension `dim` counted from the end, to S sets of n for each shape."""
    sizes = [(alike.num_sets, alike.num_targets) for alike in sets.shapes]
    return _stacked(reorder(z, sets.targets, sets.targets_back, dim), sizes, dim)


def stacked_sources(z: Tensor, sets: SortedSets, dim: int) -> list[Tensor]:
    """Sources, dimension `dim` counted from the end, to S sets of m for each shape."""
    sizes = [(alike.num_sets, alike.num_sources) for alike in sets.shapes]
    return _stacked(reorder(z, sets.sources, sets.sources_back, dim), sizes, dim)


def _stacked(z: Tensor, sizes: list[tuple[int, int]], dim: int) -> list[Tensor]:
    parts = z.split([count * size for count, size in sizes], dim)
    return [part.unflatten(dim, size) for part, size in zip(parts, sizes, strict=True)]


def unstacked(stacks: list[Tensor], nothing: Tensor, sets: SortedSets, dim: int) -> Tensor:
    """Undo `stacked_targets`; `nothing` is the result of a batch without sets, no tokens."""
    parts = [nothing, *(stack.flatten(dim - 1, dim) for stack in stacks)]
    return reorder(torch.cat(parts, dim), sets.targets_back, sets.targets, dim)


_ROUND = 8
"""Sources are padded to a multiple of it, or kernels copy the mask to one that is."""
_LONGEST = 512
"""Tokens; of longer sets a call takes as long as the pairs that it would spare."""


class PaddedSets(NamedTuple):
    """The sets of a batch bin by bin, each bin padded to one shape. No set is empty."""

    sets: SortedSets
    """Padding repeats the last token of a set; the way back leads to the index where a token
    stands first."""
    valid: Tensor
    """(Q,) which sources are not padding"""


def padded_sets(graph: TokenGraph, device: torch.device | None = None) -> PaddedSets | None:
    """Those of a batch of complete and causal graphs; None where a set is empty, or too long.

    A bin has sets that are at most twice as long as others in it.
    """
    return graph.cached(_build_padded, device=device)


def _build_padded(graph: TokenGraph) -> PaddedSets | None:
    sizes = torch.tensor([[part.num_targets, part.num_sources] for part in graph.parts])
    if sizes.min() == 0 or sizes.max() > _LONGEST:
        return None
    groups: dict[tuple[int, int, bool], list[int]] = {}
    for number, part in enumerate(graph.parts):
        n, m = part.num_targets, part.num_sources
        kind = n.bit_length(), m.bit_length(), part.is_causal
        groups.setdefault(kind, []).append(number)
    starts = sizes.cumsum(0) - sizes
    bins, tokens, valid = [], ([], []), []  # type: ignore[var-annotated]
    for (*_, is_causal), numbers in groups.items():
        longest = sizes[numbers].amax(0)
        n, m = int(longest[0]), -(-int(longest[1]) // _ROUND) * _ROUND
        m = n if is_causal else m
        bins.append(Alike(len(numbers), n, m, is_causal, first=numbers[0]))
        for side, length in enumerate((n, m)):
            at = torch.arange(length).clamp(max=sizes[numbers, side, None] - 1)  # (S, length)
            tokens[side].append((starts[numbers, side, None] + at).flatten())
        valid.append((torch.arange(m) < sizes[numbers, 1, None]).flatten())
    targets, sources = (torch.cat(found) for found in tokens)
    back: list[Tensor] = []
    for found, count in ((targets, graph.num_targets), (sources, graph.num_sources)):
        first, at = torch.zeros(count, dtype=torch.long), torch.arange(len(found))
        back.append(first.scatter_reduce(0, found, at, "amin", include_self=False))
    return PaddedSets(SortedSets(targets, sources, back[0], back[1], bins), torch.cat(valid))


def masks_of(padded: PaddedSets, batch: int) -> list[Tensor | None]:
    """(B S, 1, 1, m) for each bin, False for padding; None for causal bins."""
    bins = padded.sets.shapes
    parts = padded.valid.split([alike.num_sets * alike.num_sources for alike in bins])
    return [
        None if alike.is_causal else part.view(-1, 1, 1, alike.num_sources).repeat(batch, 1, 1, 1)
        for alike, part in zip(bins, parts, strict=True)
    ]


class _Reorder(Function):
    """`index_select` by a permutation, whose adjoint is `index_select` by its inverse.

    PyTorch cannot know that the index is a permutation: it clears a tensor and adds to its rows.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(  # type: ignore[override]
        tensor: Tensor, order: Tensor, back: Tensor, dim: int
    ) -> Tensor:
        return tensor.index_select(dim, order)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[1:3])
        ctx.save_for_forward(*inputs[1:3])
        ctx.dim = inputs[3]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        order, back = ctx.saved_tensors
        return _Reorder.apply(grad, back, order, ctx.dim), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:  # type: ignore[override]
        order, back = ctx.saved_tensors
        return _Reorder.apply(tangent, order, back, ctx.dim)


def reorder(tensor: Tensor, order: Tensor, back: Tensor, dim: int) -> Tensor:
    """Tokens in another order along a dimension counted from the end: `order[i]` comes to i.

    Args:
        order: (N,) a permutation; (0,) for the order as it is.
        back: (N,) its inverse, `order.argsort()`.

    >>> order = torch.tensor([2, 0, 1])
    >>> reorder(torch.tensor([5, 6, 7]), order, order.argsort(), -1).tolist()
    [7, 5, 6]
    """
    if order.shape[0] == 0:
        return tensor
    if torch.compiler.is_compiling():
        return tensor.index_select(dim, order)  # dynamo does not support a function with a `jvp`
    return _Reorder.apply(tensor, order, back, dim)
