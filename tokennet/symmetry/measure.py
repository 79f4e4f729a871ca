"""Measuring the two actions on a layer or net, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from tokennet.graphs import Disjoint, TokenGraph
from tokennet.tokens import Tokens

Model = Callable[[Tokens], Tokens | Tensor]
Action = Literal["relabelling", "shuffling"]


def relabelling_error(
    model: Model,
    tokens: Tokens | Tensor,
    *,
    invariant: bool = False,
    trials: int = 3,
    seed: int = 0,
) -> float:
    r"""Largest relative error of f(P tokens) = P f(tokens), z, graph and pos moved together.

        max |f(P x) - P f(x)| / max |f(x)|

    over random permutations P, on a float64 copy of the model in eval mode. A model
    without index-based parameters gives rounding, about 1e-15.

    Args:
        model: a layer or net from `Tokens` to `Tokens` or to a tensor. What is no module
            cannot be copied, and must take float64 itself.
        tokens: an example; a tensor is taken as tokens on the complete graph.
        invariant: the output has no token dimension (pooled), so P leaves it as it is.
        trials: number of permutations; within each graph for a ragged batch.
        seed: of the permutations.
    """
    return _error(model, tokens, "relabelling", invariant, trials, seed)


def shuffling_error(
    model: Model,
    tokens: Tokens | Tensor,
    *,
    invariant: bool = False,
    trials: int = 3,
    seed: int = 0,
) -> float:
    """The same as `relabelling_error` with z alone moved, graph and pos held.

    A set function gives rounding; a model that reads a graph or positions does not,
    unless P happens to be an automorphism of them.
    """
    return _error(model, tokens, "shuffling", invariant, trials, seed)


def random_permutation(graph: TokenGraph, generator: torch.Generator) -> Tensor:
    """A uniform permutation of the tokens that keeps each graph of a `Disjoint` together."""
    if not isinstance(graph, Disjoint):
        return torch.randperm(graph.num_targets, generator=generator)
    parts, start = [torch.arange(0)], 0
    for size in graph.sizes:
        parts.append(start + torch.randperm(size, generator=generator))
        start += size
    return torch.cat(parts)


def _error(
    model: Model, tokens: Tokens | Tensor, action: Action, invariant: bool, trials: int, seed: int
) -> float:
    if isinstance(tokens, Tensor):
        tokens = Tokens(tokens)
    model, tokens = _in_float64(model), tokens.to(torch.float64)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        expected = _values(model(tokens))
        if not invariant and expected.shape[-2:-1] != (tokens.num_tokens,):
            raise ValueError(
                f"the output must have a row for each of {tokens.num_tokens} tokens, got shape "
                f"{tuple(expected.shape)}; for a pooled output say invariant=True"
            )
        scale = _largest(expected)
        errors = [0.0]
        for _ in range(trials):
            perm = random_permutation(tokens.graph, generator)
            moved = _act(action, tokens, perm)
            aim = expected if invariant else expected[..., perm.to(expected.device), :]
            errors.append(_largest(_values(model(moved)) - aim))
    # In `max` a NaN can hide behind a number; here it comes out.
    worst = float(torch.tensor(errors, dtype=torch.float64).max())
    return worst / scale if scale else worst


def _in_float64(model: Model) -> Model:
    if not isinstance(model, nn.Module):
        return model
    return copy.deepcopy(model).double().eval()


def _act(action: Action, tokens: Tokens, perm: Tensor) -> Tokens:
    if action == "relabelling":
        return tokens.permute(perm)
    return tokens.replace(z=tokens.z[..., perm.to(tokens.z.device), :])


def _values(output: Tokens | Tensor) -> Tensor:
    return output.z if isinstance(output, Tokens) else output


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0
