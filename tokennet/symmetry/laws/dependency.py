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
from tokennet.symmetry.laws.precision import PRECISIONS, precision_of, runnable
from tokennet.symmetry.locate.localise import localise
from tokennet.symmetry.report import UNDECIDED, SymmetryReport, Verdict
from tokennet.symmetry.trial.change import Inputs, Outputs, Perturbing, Unaffected
from tokennet.symmetry.trial.content import new_content, replaced
from tokennet.symmetry.trial.experiment import Experiment, called, called_with_graph
from tokennet.symmetry.values import cast, features, with_features

Method = Literal["gradient", "perturbation", "both"]
METHODS = ("gradient", "perturbation", "both")
SCALES = (1.0, 1.0, 1e3)
"""Sizes of the other content that a token is given, in units of the input's own."""
EXACT = 8
"""Epsilons; what does not depend is not even rounded otherwise, but sums that cancel may be."""
LONGEST, SAMPLED = 256, 16


def dependency_matrix(
    f: Callable[..., Any],
    x: Any,
    *,
    method: Method = "both",
    dim: int = -2,
    out_dim: int = -2,
    jitter: bool = True,
    seed: int = 0,
    dtype: str | torch.dtype = "auto",
) -> Tensor:
    r"""How much output i depends on token j, in float64: (outputs, tokens), 0 where not at all.

    "gradient" is max |d (u . f_i) / d x_j|, relative to the largest of all, for a random u; it
    sees influences however small, as through a mask of -30. "perturbation" is the largest
    change of f_i when x_j is given other content, relative to the largest output; it sees
    what has no gradient, as the choices of a top-k router. "both" is the larger of them.
    No content is ever NaN or infinite: 0 * NaN would accuse a mask that works.

    Args:
        f: from x, or from a tuple of inputs of which the first is varied, to a tensor.
        dim: the dimension of tokens in x; leading dimensions count together.
        out_dim: that of outputs; the same as `dim` for batches (0 and 0). Outputs without
            it are left out, of several the largest influence counts.
        dtype: the precision; "auto" is float64 where f can run in it.

    Raises:
        ValueError: `method` is unknown, or the output has no `out_dim`.

    >>> x = torch.randn(3, 4)
    >>> dependency_matrix(lambda x: x.cumsum(-2), x).gt(1e-12).int().tolist()
    [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    if method not in METHODS:
        raise ValueError(f"method must be among {METHODS}, got {method!r}")
    if dim == -2 and not features(as_inputs(x)[0]).is_floating_point():
        raise ValueError("dim must be given for ids of tokens: -1 for (B, N)")
    inputs, jittered = as_inputs(x), seed if jitter else None
    precision, _ = runnable(Experiment(f, inputs, (), jitter=jittered), precision_of(dtype))
    parts = []
    with borrowed(f, dtype=precision, jitter=jittered):
        exact = cast(inputs, precision)
        if method != "perturbation":
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
            y.index_select(out_dim, kept.to(y.device)) for y in _with_dim(outputs, out_dim)
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
            row = allowed.has_edge(torch.tensor(target), torch.arange(n))
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
    leaf = features(inputs[0]).detach()
    outputs = _with_dim(called(f, inputs), out_dim)
    if not leaf.is_floating_point():
        shape = (outputs[0].shape[out_dim], leaf.shape[dim])
        return torch.zeros(shape, dtype=torch.float64, device=leaf.device)
    leaf.requires_grad_()
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        given = (with_features(inputs[0], leaf), *inputs[1:])
        matrices = [
            _rows_of_gradients(y, leaf, dim, out_dim)
            for y in _with_dim(called_with_graph(f, given), out_dim)
        ]
    return torch.stack(matrices).amax(0)


def _rows_of_gradients(y: Tensor, leaf: Tensor, dim: int, out_dim: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y)
    rows = []
    for part in (y * u).transpose(0, out_dim).flatten(1).sum(1):
        gradient = None
        if part.requires_grad:
            (gradient,) = torch.autograd.grad(part, leaf, retain_graph=True, allow_unused=True)
        rows.append(_largest(torch.zeros_like(leaf) if gradient is None else gradient, dim))
    matrix = torch.stack(rows).double()
    return matrix / matrix.max().clamp(min=torch.finfo(matrix.dtype).tiny)


def _by_perturbation(
    f: Callable[..., Any], inputs: Inputs, dim: int, out_dim: int, seed: int
) -> Tensor:
    with torch.no_grad():
        first = _with_dim(called(f, inputs), out_dim)
        columns = []
        for token in range(features(inputs[0]).shape[dim]):
            column = torch.zeros(first[0].shape[out_dim], dtype=torch.float64)
            for number, scale in enumerate(SCALES):
                new = new_content(features(inputs[0]), seed + number, scale)
                moved = called(f, replaced(inputs, new, dim, [token]))
                for y, other in zip(first, _with_dim(moved, out_dim), strict=True):
                    size = torch.maximum(y.abs().max(), other.abs().max())
                    change = _largest(other - y, out_dim) / size
                    column = torch.maximum(column, change.double().cpu())
            columns.append(column.nan_to_num())
    return torch.stack(columns, 1).to(first[0].device)


def _with_dim(outputs: Outputs, out_dim: int) -> Outputs:
    """The outputs that have the dimension, with as many entries as the first of them."""
    found = [
        y
        for y in outputs
        if y.is_floating_point() and -y.dim() <= out_dim < y.dim() and y.dim() > 1
    ]
    if not found:
        shapes = [tuple(y.shape) for y in outputs]
        raise ValueError(f"the output must have a dimension {out_dim}, got {shapes}")
    return [y for y in found if y.shape[out_dim] == found[0].shape[out_dim]]


def _largest(tensor: Tensor, dim: int) -> Tensor:
    """The largest absolute value in each slice along `dim`."""
    return tensor.detach().abs().transpose(0, dim).flatten(1).amax(1)


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
            place = place or localise(experiment, x, change, eps)
    return dataclasses.replace(
        report,
        verdict=Verdict.BROKEN if float(excess.max()) > 8 else Verdict.INCONCLUSIVE,
        tolerance=exact,
        reason=f"output {target} depends on token {source} ({error:.2g} of the largest), "
        f"one of {count} such pairs",
        error=error,
        location=place,
    )
