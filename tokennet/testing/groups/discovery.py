"""`discover_group`: the permutations of the tokens that a model commutes with, by running it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import torch
from torch import Tensor

from tokennet.testing.engine.sandbox import sandboxed
from tokennet.testing.groups.naming import name
from tokennet.testing.groups.permutations import Permutation, orbits, order
from tokennet.testing.groups.probe import OutDim, Probe
from tokennet.testing.groups.search import Search
from tokennet.tokens import Tokens


@dataclass(frozen=True)
class GroupReport:
    """The permutations of tokens that a model commutes with. Made by `discover_group`."""

    generators: tuple[Permutation, ...]
    """Each a tuple p that acts on the tokens as `x[p]`; all of them verified."""
    degree: int
    """The number of tokens."""
    order: int
    """The number of elements of the group with these generators."""
    order_at_most: int
    """No larger group is possible; equal to `order` where the result is exact."""
    exact: bool
    """Whether the group is known, not only bounded from both sides."""
    orbits: tuple[tuple[int, ...], ...]
    """The sets of tokens that the group carries into each other."""
    name: str
    """As returned by `tokennet.testing.groups.name`."""
    evaluations: int
    """Calls of the model."""
    note: str = ""
    """What the group alone does not show: tokens without influence, for instance."""

    def __str__(self) -> str:
        known = f"{self.name}, order {_count(self.order)}"
        if not self.exact:
            known = f"at least {self.name} (order {_count(self.order)})"
            if self.order_at_most > self.order:
                known += f", at most order {_count(self.order_at_most)}"
        moved = [_ranges(orbit) for orbit in self.orbits if len(orbit) > 1]
        if fixed := len(self.orbits) - len(moved):
            moved.append(f"{fixed} fixed")
        note = f"; {self.note}" if self.note else ""
        return f"{known}, orbits {', '.join(moved)}{note}"


def discover_group(
    f: Callable[[Any], Any],
    x: Tensor | Tokens,
    *,
    dim: int = -2,
    out_dim: OutDim = "infer",
    budget: int = 20_000,
    seed: int = 0,
) -> GroupReport:
    r"""The permutations P of the tokens with f(P x) = P f(x), or f(P x) = f(x) where pooled.

    For use when it is not known which symmetry a model has, or to hold it to a claim.

    1. All tokens equal but one: the responses of outputs to tokens color the pairs of
       tokens, and the automorphisms H of these colors contain the group (nauty, McKay and
       Piperno, 2014, arXiv 1301.1493). This takes about 3 N evaluations.
       Where f treats equal tokens differently by index, as sorting may, H is S_N.
    2. Generators of H are tried on random inputs in float64. If all hold, H is the group.
    3. Otherwise two tokens among equal tokens yield finer colors, if there are evaluations
       left for 3 N^2 of them, and then every coset in H of the subgroup verified so far is
       tried, or random elements of H where these are too many.

    Of `Tokens` only z is moved, graph and positions are kept ("shuffling"). The model
    runs in eval mode, and every parameter is changed a little at random: the group is
    that of the architecture, not of weights that happen to be equal. "Exact" is up to
    measurement: broken symmetries below 1e-9 of the range of an output are not seen, nor
    those that show on fewer than some per cent of random inputs.

    Args:
        f: a model or function from what `x` is to tensors, `Tokens`, or nests of them.
        x: an example: tensor with tokens along `dim`, or `Tokens`. Its values set mean and
            deviation of random inputs, or the range where they are integers.
        dim: dimension of the tokens in `x`.
        out_dim: dimension of the tokens in the outputs, None if these are pooled. "infer":
            `dim` if the output has the same number of dimensions and N entries there, None if it
            has no dimension of N entries.
        budget: number of evaluations of f allowed.
        seed: of inputs and changes of parameters.

    Raises:
        TypeError: `x` is neither a tensor nor `Tokens`, or f returns no tensors.
        ValueError: `dim` or `out_dim` do not fit, `budget` is too small to begin with, or
            outputs are not finite, not repeatable, or dominated by rounding.

    >>> def f(x):  # a set of two kinds
    ...     return x.tanh() + x[:3].mean(0) - 2 * x[3:].sum(0).sin()
    >>> print(discover_group(f, torch.zeros(8, 2)))
    S_3 x S_5, order 720, orbits {0-2}, {3-7}
    """
    with sandboxed(f, jitter=seed), torch.no_grad():
        probe = Probe(f, x, dim, out_dim, seed)
        search = Search(probe, budget, seed)
        exact = search.run() and probe.depends_on_input
        silent = search.silent()
    note = f"the output does not depend on tokens {_ranges(silent)}" if silent else ""
    if not probe.depends_on_input:
        note = "the output is the same at all inputs tried"
    n, found = probe.num_tokens, search.lower
    size = order(found, n)
    return GroupReport(
        generators=tuple(found),
        degree=n,
        order=size,
        order_at_most=size if exact else order(search.upper, n),
        exact=exact,
        orbits=tuple(orbits(found, n)),
        name=name(found, n),
        evaluations=probe.evaluations,
        note=note,
    )


def _count(number: int) -> str:
    return f"{number:,}" if number < 10**15 else f"{Decimal(number):.2e}"


def _ranges(points: Sequence[int]) -> str:
    """{0-3, 7} for 0, 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for i in points:
        if runs and runs[-1][-1] == i - 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    return f"{{{', '.join(f'{r[0]}-{r[-1]}' if len(r) > 1 else str(r[0]) for r in runs)}}}"
