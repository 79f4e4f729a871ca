"""Which outputs depend on which tokens, and laws about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tokennet.graphs import Causal, TokenGraph
from tokennet.testing.diagnose.localize import localize
from tokennet.testing.engine.content import new_content, replaced
from tokennet.testing.engine.intervention import Inputs, Perturbing, Unaffected
from tokennet.testing.engine.precision import PRECISIONS
from tokennet.testing.engine.run import Experiment
from tokennet.testing.engine.verdict import judge
from tokennet.testing.example.values import features
from tokennet.testing.laws.equivariance import as_inputs
from tokennet.testing.laws.influence import SCALES, dependency_matrix, with_dim
from tokennet.testing.report import UNDECIDED, SymmetryReport, Verdict

EXACT = 8
"""Epsilons; what does not depend is not even rounded otherwise, but sums that cancel may be."""
LONGEST, SAMPLED = 256, 16


def check_dependency(
    f: Callable[..., Any],
    x: Any,
    allowed: TokenGraph | Tensor,
    *,
    dim: int = -2,
    out_dim: int = -2,
    jitter: bool = True,
    seed: int = 0,
    dtype: str | torch.dtype = "auto",
    law: str = "dependency",
) -> SymmetryReport:
    """Whether output i depends on token j only where `allowed` has the edge j -> i.

    For a net of L layers on a graph the allowed set is `graph.reach(L)`. Up to 256 tokens
    every pair is asked, by gradient and by perturbation; of more, 16 outputs are asked
    whether all that they must not see, given other content at once, changes them.

    Args:
        allowed: a graph, or a boolean mask (outputs, tokens).

    Raises:
        ValueError: `allowed` has another shape than (outputs, tokens).

    >>> check_dependency(lambda x: x.flip(-2), torch.randn(6, 2), Causal(6)).verdict.name
    'BROKEN'
    """
    inputs, n = as_inputs(x), features(as_inputs(x)[0]).shape[dim]
    options: dict[str, Any] = {"jitter": jitter, "seed": seed, "dtype": dtype}
    if not isinstance(allowed, TokenGraph):
        allowed = torch.as_tensor(allowed).bool()
    if n > LONGEST:
        changes = _sampled(allowed, n, dim, out_dim, seed)
        return judge(law, f, inputs, changes, **options)
    ways = {
        way: dependency_matrix(f, x, method=way, dim=dim, out_dim=out_dim, **options)
        for way in ("gradient", "perturbation")
    }
    influence = torch.stack(list(ways.values())).amax(0)
    mask = allowed.dense() if isinstance(allowed, TokenGraph) else allowed
    if mask.shape != influence.shape:
        raise ValueError(
            f"allowed must have shape {tuple(influence.shape)} (outputs, tokens), "
            f"got {tuple(mask.shape)}"
        )
    forbidden = {way: found.masked_fill(mask.to(found.device), 0.0) for way, found in ways.items()}
    source = int(torch.stack(list(forbidden.values())).amax((0, 1)).argmax())
    kept = (~mask[:, source]).nonzero().flatten().cpu()
    changes = [
        _other_tokens([source], kept, n, len(mask), dim, out_dim, seed + number, scale)
        for number, scale in enumerate(SCALES)
    ]
    report = judge(law, f, inputs, changes, **options)
    experiment = Experiment(f, inputs, changes, jitter=seed if jitter else None)
    return _with_matrix(report, experiment, influence, forbidden)


def _other_tokens(
    sources: list[int],
    kept: Tensor,
    n: int,
    n_out: int,
    dim: int,
    out_dim: int,
    seed: int,
    scale: float = 1.0,
) -> Perturbing:
    """Other content in some tokens, and the outputs that must not notice."""

    def change(inputs: Inputs) -> Inputs:
        return replaced(inputs, new_content(features(inputs[0]), seed, scale), dim, sources)

    return Perturbing(
        change,
        [Unaffected.at(n, kept)] if n == n_out else [],
        lambda outputs: [
            y.index_select(out_dim, kept.to(y.device)) for y in with_dim(outputs, out_dim)
        ],
    )


def _sampled(
    allowed: TokenGraph | Tensor, n: int, dim: int, out_dim: int, seed: int
) -> list[Perturbing]:
    """For some outputs, other content in all tokens that they must not see."""
    n_out = allowed.num_targets if isinstance(allowed, TokenGraph) else len(allowed)
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randperm(n_out, generator=generator)[:SAMPLED].tolist()
    changes = []
    for target in targets:
        if isinstance(allowed, TokenGraph):
            row = allowed.attends(torch.tensor(target), torch.arange(n))
        else:
            row = allowed[target]
        sources = (~row).nonzero().flatten().tolist()
        if sources:
            kept = torch.tensor([target])
            changes.append(_other_tokens(sources, kept, n, n_out, dim, out_dim, seed))
    if not changes:
        raise ValueError(f"allowed must forbid something, got {allowed!r}")
    return changes


def assert_dependency(
    f: Callable[..., Any], x: Any, allowed: TokenGraph | Tensor, **options: Any
) -> SymmetryReport:
    """Assert that `check_dependency` gives PASS; its options.

    >>> from tokennet import Cycle, Self
    >>> neighbor = lambda x: x + x.roll(1, -2)
    >>> assert_dependency(neighbor, torch.randn(6, 2), Cycle(6, 1) | Self(6)).law
    'dependency'
    """
    return check_dependency(f, x, allowed, **options).assert_pass()


def assert_causal(f: Callable[..., Any], x: Any, **options: Any) -> SymmetryReport:
    """Assert that output i depends on the tokens up to i alone.

    >>> assert_causal(lambda x: x.cumsum(-2), torch.randn(5, 2)).law
    'causality'
    """
    n = features(as_inputs(x)[0]).shape[options.get("dim", -2)]
    return check_dependency(f, x, Causal(n), law="causality", **options).assert_pass()


def _with_matrix(
    report: SymmetryReport,
    experiment: Experiment,
    influence: Tensor,
    forbidden: dict[str, Tensor],
) -> SymmetryReport:
    """What the whole matrix says, over what one change said.

    Perturbations are rounded as outputs are; gradients of what does not depend are not, so
    that small influences are theirs to find.
    """
    if report.noise > report.tolerance:
        return report
    precision = PRECISIONS[report.dtype]
    exact = EXACT * torch.finfo(precision).eps
    rounded = report.tolerance * UNDECIDED[precision]
    limits = {"gradient": exact, "perturbation": max(exact, rounded)}
    excess = torch.stack([found / limits[way] for way, found in forbidden.items()]).amax(0)
    error = float(torch.stack(list(forbidden.values())).max())
    count = int((excess > 1).sum())
    if not count:
        used = bool((influence > exact).any())
        verdict = Verdict.PASS if used else Verdict.VACUOUS
        reason = "only allowed tokens matter" if used else "the output depends on no token"
        report = dataclasses.replace(report, witness=None, location=None, tolerance=exact)
        return dataclasses.replace(report, verdict=verdict, reason=reason, error=error)
    target, source = divmod(int(excess.argmax()), influence.shape[1])
    eps, place = torch.finfo(precision).eps, None
    with experiment.at(precision) as x:  # who does not depend is not even rounded otherwise
        for change in experiment.changes:
            place = place or localize(experiment, x, change, eps)
    return dataclasses.replace(
        report,
        verdict=Verdict.BROKEN if float(excess.max()) > 8 else Verdict.INCONCLUSIVE,
        tolerance=exact,
        reason=f"output {target} depends on token {source} ({error:.2g} of the largest), "
        f"one of {count} such pairs",
        error=error,
        location=place,
    )
