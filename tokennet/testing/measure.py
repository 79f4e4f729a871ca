"""The error under relabeling and under shuffling as a number, in float64.

For plots and tables; `check` returns a verdict with the evidence.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tokennet.testing.engine.actions import Action, Invariant, Permute
from tokennet.testing.engine.graph_actions import Relabel, Shuffle
from tokennet.testing.engine.run import Runner
from tokennet.tokens import Tokens

Model = Callable[[Tokens], Tokens | Tensor]


def relabeling_error(
    model: Model,
    tokens: Tokens | Tensor,
    *,
    invariant: bool = False,
    num_permutations: int = 3,
    seed: int = 0,
) -> float:
    r"""Largest relative error of f(P tokens) = P f(tokens), z, graph and pos moved together.

        max |f(P x) - P f(x)| / max |f(x)|

    over random permutations P, with the model in eval mode and float64; its state is
    restored. A model without index-based parameters gives rounding, about 1e-15. Where
    an output is NaN, so is the error.

    Args:
        model: a layer, a net or a function from `Tokens` to `Tokens` or to a tensor. The
            modules that a function refers to are in float64 too.
        tokens: an example; a tensor is taken as tokens on the complete graph.
        invariant: the output has no token dimension (pooled), so P leaves it as it is.
        num_permutations: how many are drawn; within each graph for a ragged batch.
        seed: of the permutations.

    Raises:
        ValueError: the output has no row for each token, and `invariant` is not said.

    >>> relabeling_error(lambda tokens: tokens.z.relu(), torch.randn(5, 2))
    0.0
    """
    return _error(Relabel(), model, tokens, invariant, num_permutations, seed)


def shuffling_error(
    model: Model,
    tokens: Tokens | Tensor,
    *,
    invariant: bool = False,
    num_permutations: int = 3,
    seed: int = 0,
) -> float:
    """The same as `relabeling_error` with z alone moved, graph and pos held.

    A set function gives rounding; a model that reads a graph or positions does not,
    unless P happens to be an automorphism of them.

    >>> shuffling_error(lambda tokens: tokens.z.cumsum(-2), torch.randn(5, 2)) > 1e-2
    True
    """
    return _error(Shuffle(), model, tokens, invariant, num_permutations, seed)


def _error(
    action: Action, model: Model, tokens: Tokens | Tensor, invariant: bool, count: int, seed: int
) -> float:
    tokens = Tokens(tokens) if isinstance(tokens, Tensor) else tokens
    out_action = Invariant() if invariant else Permute()
    generator = torch.Generator().manual_seed(seed)
    runner, errors = Runner(model, (tokens,)), [0.0]
    with runner.at(torch.float64) as x:
        expected = runner.run(x)[0]
        if not invariant and expected.shape[-2:-1] != (tokens.num_tokens,):
            raise ValueError(
                f"the output must have a row for each of {tokens.num_tokens} tokens, got shape "
                f"{tuple(expected.shape)}; for a pooled output say invariant=True"
            )
        for _ in range(count):
            perm = action.random(tokens, generator)
            permuted = runner.run((action.apply(x[0], perm),))[0]
            errors.append(_largest(permuted - out_action.apply(expected, perm)))
    # In `max` a NaN can hide behind a number; here it comes out.
    worst = float(torch.tensor(errors, dtype=torch.float64).max())
    scale = _largest(expected)
    return worst / scale if scale else worst


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0
