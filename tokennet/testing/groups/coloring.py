"""An upper bound of a model's group, from the responses of outputs to one or two tokens.

Let all tokens be the same vector c except token t. If f(P x) = P f(x), then the response
of output i obeys V[p[i], p[t]] = V[i, t]: a symmetry of f is an automorphism of the colored
pairs V. So N inputs bound the group of f from above.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tokennet.testing.groups.graph_automorphisms import numbered
from tokennet.testing.groups.probe import Probe

_JUMP = 1e-6


class Coloring(NamedTuple):
    """Colors of tokens and of pairs that every symmetry of a model keeps."""

    vertices: np.ndarray
    """(N,) numbers."""
    pairs: np.ndarray
    """(N, N) numbers of [output or token, token]."""

    def __and__(self, other: Coloring) -> Coloring:
        """Colors that differ where either coloring differs."""
        both = zip(self, other, strict=True)
        return Coloring(*(numbered(np.stack(colors, -1)) for colors in both))


def uniform(n: int) -> Coloring:
    """One color for all tokens, one for all pairs."""
    return Coloring(np.zeros(n, dtype=np.int64), np.zeros((n, n), dtype=np.int64))


def one_token(probe: Probe) -> Coloring:
    """Responses of output i to token t among equal ones, in 3 N + 3 evaluations.

    Of pooled outputs f also those of the gradient g = df/dx, since g(P x) = P g(x).
    Responses that jump where tokens are equal, as sorting may, say nothing of f elsewhere
    and are left out.
    """
    n, (constant, other) = probe.num_tokens, _distinct(probe, 2)
    response = functools.partial(probe.response_with_gradient, weights=probe.weights())
    inputs = [constant, *(_replaced(constant, {t: other}) for t in range(n))]
    return _colored(probe, response, inputs, _one_token_colors)


def two_tokens(probe: Probe) -> Coloring:
    """Responses T[i, s, t] to tokens s and t among equal ones, in 3 N (N - 1) evaluations.

    A pair gets the multisets of the responses that it takes part in, in each of its roles.
    """
    n, (constant, first, second) = probe.num_tokens, _distinct(probe, 3)
    response = functools.partial(probe.response, weights=probe.weights())
    pairs = [(s, t) for s in range(n) for t in range(n) if s != t]
    inputs = [_replaced(constant, {s: first, t: second}) for s, t in pairs]
    return _colored(probe, response, inputs, functools.partial(_two_token_colors, n=n))


def clustered(values: np.ndarray, tolerance: float) -> np.ndarray:
    """Number values; two numbers differ if a gap of more than `tolerance` is between the values.

    >>> clustered(np.array([0.3, 0.1, 0.3 + 1e-13]), tolerance=1e-9).tolist()
    [1, 0, 1]
    """
    flat = values.ravel()
    ranked = np.argsort(flat, kind="stable")
    steps = np.diff(flat[ranked], prepend=flat[ranked[:1]]) > tolerance
    result = np.empty(flat.shape, dtype=np.int64)
    result[ranked] = np.cumsum(steps)
    return result.reshape(values.shape)


def _colored(
    probe: Probe,
    response: Callable[[Tensor], list[Tensor]],
    inputs: list[Tensor],
    colors: Callable[[np.ndarray, float], Coloring],
) -> Coloring:
    """Colors from all responses to the inputs: rows, pooled outputs, gradient.

    Responses that are not finite, or that jump at a small change of the inputs, are left out.
    """
    responses = _stacked(map(response, inputs))
    nudged = [_stacked(map(response, z)) for z in zip(*map(probe.nudged, inputs), strict=True)]
    coloring = uniform(probe.num_tokens)
    for part, *neighbors in zip(responses, *nudged, strict=True):
        if all(np.isfinite(values).all() for values in (part, *neighbors)):
            scale = max(1.0, np.abs(part).max())
            jump = max(np.abs(part - other).max() for other in neighbors) / scale
            if jump <= _JUMP:
                coloring = coloring & colors(part, scale * max(probe.resolution, jump))
    return coloring


def _stacked(responses: Iterable[list[Tensor]]) -> list[np.ndarray]:
    """Rows (inputs, N), pooled outputs (inputs, 1), and the gradient (inputs, N) if it exists."""
    return [torch.stack(part).numpy() for part in zip(*responses, strict=True)]


def _one_token_colors(responses: np.ndarray, tolerance: float) -> Coloring:
    constant, replaced = responses[0], responses[1:]
    n = len(replaced)
    if responses.shape[1] == 1:  # pooled
        return Coloring(clustered(replaced[:, 0], tolerance), np.zeros((n, n), dtype=np.int64))
    return Coloring(clustered(constant, tolerance), clustered(replaced.T, tolerance))


def _two_token_colors(responses: np.ndarray, tolerance: float, n: int) -> Coloring:
    triples = np.full((responses.shape[1], n, n), -1)  # (N, N, N), pooled (1, N, N)
    triples[:, ~np.eye(n, dtype=bool)] = clustered(responses.T, tolerance)
    roles = [numbered(np.sort(triples, 0).transpose(1, 2, 0))]
    if len(triples) == n:
        s, t = np.indices((n, n))
        roles += [triples[s, s, t], triples[t, s, t]]
        roles += [numbered(np.sort(triples, 2)), numbered(np.sort(triples, 1).swapaxes(1, 2))]
    return Coloring(np.zeros(n, dtype=np.int64), numbered(np.stack(roles, -1)))


def _distinct(probe: Probe, count: int) -> tuple[Tensor, ...]:
    """All tokens equal, (N, ...), and `count` - 1 other tokens, (...)."""
    equal = probe.random(1)[0]
    drawn = (probe.random(1)[0] for _ in itertools.count())
    others = itertools.islice((z for z in drawn if not torch.equal(z, equal)), count - 1)
    return equal.expand(probe.num_tokens, *equal.shape), *others


def _replaced(constant: Tensor, others: dict[int, Tensor]) -> Tensor:
    tokens = constant.clone()
    for t, other in others.items():
        tokens[t] = other
    return tokens
