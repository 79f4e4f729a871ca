"""Which outputs depend on which tokens, and laws about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tokennet.graphs import Causal, TokenGraph
from tokennet.symmetry.borrow import borrowed
from tokennet.symmetry.laws.equivariance import as_inputs
from tokennet.symmetry.laws.judge import judge
from tokennet.symmetry.locate.localise import localise
from tokennet.symmetry.report import SymmetryReport, Verdict
from tokennet.symmetry.trial.change import Inputs, Perturbing, Unaffected
from tokennet.symmetry.trial.content import new_content, replaced
from tokennet.symmetry.trial.experiment import Experiment, called
from tokennet.symmetry.values import cast, features, tensors_of, with_features

Method = Literal["gradient", "perturbation", "both"]
METHODS = ("gradient", "perturbation", "both")
SCALES = (1.0, 1.0, 1e3)
"""Sizes of the other content that a token is given, in units of the input's own."""
EXACT = 8 * torch.finfo(torch.float64).eps
"""What does not depend is not even rounded otherwise; sums that cancel may leave this much."""


def dependency_matrix(
    f: Callable[..., Any],
    x: Any,
    *,
    method: Method = "both",
    dim: int = -2,
    out_dim: int = -2,
    jitter: bool = True,
    seed: int = 0,
) -> Tensor:
    r"""How much output i depends on token j, in float64: (outputs, tokens), 0 where not at all.

    "gradient" is max |d (u . f_i) / d x_j|, relative to the largest over j, for a random u; it
    sees influences however small, as through a mask of -30. "perturbation" is the largest
    change of f_i when x_j is given other content, relative to the largest output; it sees
    what has no gradient, as the choices of a top-k router. "both" is the larger of them.
    No content is ever NaN or infinite: 0 * NaN would accuse a mask that works.

    Args:
        f: from x, or from a tuple of inputs of which the first is varied, to a tensor.
        dim: the dimension of tokens in x; leading dimensions count together.
        out_dim: that of outputs; the same as `dim` for batches (0 and 0).

    Raises:
        ValueError: `method` is unknown, or the output has no `out_dim`.

    >>> x = torch.randn(3, 4)
    >>> dependency_matrix(lambda x: x.cumsum(-2), x).gt(1e-12).int().tolist()
    [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    if method not in METHODS:
        raise ValueError(f"method must be among {METHODS}, got {method!r}")
    inputs = as_inputs(x)
    parts = []
    with borrowed(f, jitter=seed if jitter else None):
        exact = cast(inputs, torch.float64)
        if method != "perturbation" and features(exact[0]).is_floating_point():
            parts.append(_by_gradient(f, exact, dim, out_dim))
        if method != "gradient":
            parts.append(_by_perturbation(f, exact, dim, out_dim, seed))
    return torch.stack(parts).amax(0)


def check_dependency(
    f: Callable[..., Any],
    x: Any,
    allowed: TokenGraph | Tensor,
    *,
    dim: int = -2,
    out_dim: int = -2,
    jitter: bool = True,
    seed: int = 0,
    law: str = "dependency",
) -> SymmetryReport:
    """Whether output i depends on token j only where `allowed` has the edge j -> i.

    For a net of L layers on a graph the allowed set is `graph.reach(L)`.

    Args:
        allowed: a graph, or a boolean mask (outputs, tokens).

    Raises:
        ValueError: `allowed` has another shape than the dependency matrix.
    """
    options: dict[str, Any] = {"dim": dim, "out_dim": out_dim, "jitter": jitter, "seed": seed}
    influence = dependency_matrix(f, x, **options)
    mask = allowed.dense() if isinstance(allowed, TokenGraph) else torch.as_tensor(allowed).bool()
    if mask.shape != influence.shape:
        raise ValueError(
            f"allowed must have shape {tuple(influence.shape)} (outputs, tokens), "
            f"got {tuple(mask.shape)}"
        )
    mask = mask.to(influence.device)
    source = int(influence.masked_fill(mask, 0.0).amax(0).argmax())
    kept = (~mask[:, source]).nonzero().flatten()
    change = Perturbing(
        lambda inputs: replaced(inputs, new_content(features(inputs[0]), seed), dim, [source]),
        [Unaffected.at(influence.shape[0], kept)],
        lambda outputs: [y.index_select(out_dim, kept.to(y.device)) for y in outputs],
    )
    report = judge(law, f, as_inputs(x), [change], jitter=jitter, seed=seed)
    experiment = Experiment(f, as_inputs(x), [change], jitter=seed if jitter else None)
    return _with_matrix(report, experiment, influence, mask)


def assert_dependency(
    f: Callable[..., Any], x: Any, allowed: TokenGraph | Tensor, **options: Any
) -> SymmetryReport:
    """Assert that `check_dependency` gives PASS; its options.

    >>> from tokennet import Cycle, Self
    >>> neighbour = lambda x: x + x.roll(1, -2)
    >>> assert_dependency(neighbour, torch.randn(6, 2), Cycle(6, 1) | Self(6)).law
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


def _by_gradient(f: Callable[..., Any], inputs: Inputs, dim: int, out_dim: int) -> Tensor:
    leaf = features(inputs[0]).detach().requires_grad_()
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        y = tensors_of(f(with_features(inputs[0], leaf), *inputs[1:]))[0]
        _check_output(y, out_dim)
        generator = torch.Generator().manual_seed(0)
        u = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y)
        rows = [
            torch.autograd.grad(part, leaf, retain_graph=True, allow_unused=True)[0]
            if part.requires_grad
            else None
            for part in (y * u).transpose(0, out_dim).flatten(1).sum(1)
        ]
    zeros = torch.zeros_like(leaf)
    sizes = [_largest(zeros if row is None else row, dim) for row in rows]
    matrix = torch.stack(sizes)
    return matrix / matrix.amax(1, keepdim=True).clamp(min=torch.finfo(matrix.dtype).tiny)


def _by_perturbation(
    f: Callable[..., Any], inputs: Inputs, dim: int, out_dim: int, seed: int
) -> Tensor:
    with torch.no_grad():
        y = called(f, inputs)[0]
        _check_output(y, out_dim)
        columns = []
        for token in range(features(inputs[0]).shape[dim]):
            column = torch.zeros(y.shape[out_dim], dtype=torch.float64, device=y.device)
            for number, scale in enumerate(SCALES):
                new = new_content(features(inputs[0]), seed + number, scale)
                moved = replaced(inputs, new, dim, [token])
                other = called(f, moved)[0]
                size = torch.maximum(y.abs().max(), other.abs().max())
                column = torch.maximum(column, _largest(other - y, out_dim) / size)
            columns.append(column.nan_to_num())
    return torch.stack(columns, 1)


def _check_output(y: Tensor, out_dim: int) -> None:
    if not -y.dim() <= out_dim < y.dim() or y.dim() < 2:
        raise ValueError(f"the output must have a dimension {out_dim}, got shape {tuple(y.shape)}")


def _largest(tensor: Tensor, dim: int) -> Tensor:
    """The largest absolute value in each slice along `dim`."""
    return tensor.detach().abs().transpose(0, dim).flatten(1).amax(1)


def _with_matrix(
    report: SymmetryReport,
    experiment: Experiment,
    influence: Tensor,
    mask: Tensor,
) -> SymmetryReport:
    """What the whole matrix says, over what one change said."""
    if report.noise > report.tolerance:
        return report
    forbidden = influence.masked_fill(mask, 0.0)
    error, count = float(forbidden.max()), int((forbidden > EXACT).sum())
    if not count:
        used = bool((influence > EXACT).any())
        verdict = Verdict.PASS if used else Verdict.VACUOUS
        reason = "only allowed tokens matter" if used else "the output depends on no token"
        return dataclasses.replace(
            report,
            verdict=verdict,
            reason=reason,
            error=error,
            tolerance=EXACT,
            witness=None,
            location=None,
        )
    target, source = divmod(int(forbidden.argmax()), influence.shape[1])
    with experiment.at(torch.float64) as x:  # who does not depend is not even rounded otherwise
        eps = torch.finfo(torch.float64).eps
        place = localise(experiment, x, experiment.changes[0], eps)
    return dataclasses.replace(
        report,
        verdict=Verdict.BROKEN if error > 8 * EXACT else Verdict.INCONCLUSIVE,
        tolerance=EXACT,
        reason=f"output {target} depends on token {source} ({error:.2g} of the largest), "
        f"one of {count} such pairs",
        error=error,
        location=place,
    )
