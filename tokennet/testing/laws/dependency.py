"""Which outputs depend on which tokens, and the law that only allowed tokens matter: causality."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tokennet.checks import lookup
from tokennet.graphs import Causal, TokenGraph, from_mask
from tokennet.testing.diagnose.localize import localize
from tokennet.testing.engine.content import replaced
from tokennet.testing.engine.draws import COUNT, Draw, Draws
from tokennet.testing.engine.intervention import ContentIntervention, Inputs, Outputs, Unaffected
from tokennet.testing.engine.run import Runner, call_model, call_with_autograd
from tokennet.testing.engine.tolerance import PRECISIONS, UNDECIDED, runnable
from tokennet.testing.engine.verdict import run_law
from tokennet.testing.example.case import Case
from tokennet.testing.example.values import features, with_features
from tokennet.testing.laws.law import Law, Options, as_inputs, token_dim
from tokennet.testing.report import SymmetryReport, Verdict

Method = Literal["gradient", "perturbation", "both"]
SCALES = (1.0, 1.0, 1e3)
"""Sizes of the other content that a token is given, in units of the input's own."""
EXACT = 8
"""Epsilons; what does not depend is not even rounded otherwise, but sums that cancel may be."""
LONGEST, SAMPLED = 256, 16
"""Up to 256 tokens every pair is tested; of more tokens, 16 outputs are."""


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
    draws: int | Draws = COUNT,
) -> SymmetryReport:
    """Whether output i depends on token j only where `allowed` has the edge j -> i.

    For your own test of what a model may depend on, such as a window. For a net of L layers
    on a graph the allowed set is `graph.reach(L)`. Up to 256 tokens every pair is tested, by
    gradient and by perturbation; of more, 16 outputs are tested: whether other content in
    all tokens that they must not depend on changes them.

    Args:
        allowed: a graph, or a boolean mask (outputs, tokens).

    Raises:
        ValueError: `allowed` has another shape than (outputs, tokens).

    >>> check_dependency(lambda x: x.flip(-2), torch.randn(6, 2), Causal(6)).verdict.name
    'BROKEN'
    """
    inputs = as_inputs(x)
    n = features(inputs[0]).shape[dim]
    options: dict[str, Any] = {"jitter": jitter, "seed": seed, "dtype": dtype}
    if not isinstance(allowed, TokenGraph):
        allowed = from_mask(torch.as_tensor(allowed).bool().cpu())
    if n > LONGEST:
        runner = Runner(f, inputs, jitter=seed if jitter else None)
        with runner.at(runnable(runner, dtype)[0]) as exact, torch.no_grad():
            n_out = _with_dim(call_model(f, exact), out_dim)[0].shape[out_dim]
        _check_shape((allowed.num_targets, allowed.num_sources), (n_out, n))
        interventions = _sampled(allowed, n, (out_dim, dim), seed)
        return run_law(law, f, inputs, interventions, draws=draws, **options)
    ways = {
        way: dependency_matrix(f, x, method=way, dim=dim, out_dim=out_dim, **options)
        for way in ("gradient", "perturbation")
    }
    influence = torch.stack(list(ways.values())).amax(0)
    mask = allowed.dense()
    _check_shape(tuple(mask.shape), tuple(influence.shape))
    forbidden = {way: found.masked_fill(mask.to(found.device), 0.0) for way, found in ways.items()}
    source = int(torch.stack(list(forbidden.values())).amax((0, 1)).argmax())
    kept = (~mask[:, source]).nonzero().flatten().cpu()
    interventions = [
        _other_tokens([source], kept, mask.shape, (out_dim, dim), seed + number, scale)
        for number, scale in enumerate(SCALES)
    ]
    hidden = (~mask).any(0).nonzero().flatten().tolist()  # tokens that some output must not use

    def drawn(draw: Draw) -> ContentIntervention:
        token = hidden[draw.seed % len(hidden)]
        outputs = (~mask[:, token]).nonzero().flatten().cpu()
        seed = len(SCALES) + draw.seed
        return _other_tokens([token], outputs, mask.shape, (out_dim, dim), seed, SCALES[-1])

    if not hidden:
        draws = 0
    report = run_law(law, f, inputs, interventions, draws=draws, drawn=drawn, **options)
    found_on_a_draw = report.verdict is Verdict.BROKEN and report.draws > 0
    if report.noise > report.tolerance or found_on_a_draw:
        return report
    runner = Runner(f, inputs, interventions, jitter=seed if jitter else None)
    return _with_matrix(report, runner, influence, forbidden)


def _check_shape(got: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if got != expected:
        raise ValueError(f"allowed must have shape {expected} (outputs, tokens), got {got}")


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
    shows influences however small, as through a mask of -30. "perturbation" is the largest
    change of f_i when x_j is given other content, relative to the largest output; it shows
    what has no gradient, as the choices of a top-k router. "both" is the larger of them.
    No content is ever NaN or infinite: 0 * NaN would show a dependence on what is masked.

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
    lookup("method", method, dict.fromkeys(get_args(Method)))
    if dim == -2 and not features(as_inputs(x)[0]).is_floating_point():
        raise ValueError("dim must be given for ids of tokens: -1 for (B, N)")
    runner = Runner(f, as_inputs(x), jitter=seed if jitter else None)
    parts = []
    with runner.at(runnable(runner, dtype)[0]) as exact:
        if method != "perturbation":
            parts.append(_by_gradient(f, exact, dim, out_dim))
        if method != "gradient":
            parts.append(_by_perturbation(f, exact, dim, out_dim, seed))
    return torch.stack(parts).amax(0)


def _by_gradient(f: Callable[..., Any], inputs: Inputs, dim: int, out_dim: int) -> Tensor:
    leaf = features(inputs[0]).detach()
    outputs = _with_dim(call_model(f, inputs), out_dim)
    if not leaf.is_floating_point():
        shape = (outputs[0].shape[out_dim], leaf.shape[dim])
        return torch.zeros(shape, dtype=torch.float64, device=leaf.device)
    leaf.requires_grad_()
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        given = (with_features(inputs[0], leaf), *inputs[1:])
        matrices = [
            _rows_of_gradients(y, leaf, dim, out_dim)
            for y in _with_dim(call_with_autograd(f, given), out_dim)
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
        first = _with_dim(call_model(f, inputs), out_dim)
        columns = []
        for token in range(features(inputs[0]).shape[dim]):
            column = torch.zeros(first[0].shape[out_dim], dtype=torch.float64)
            for number, scale in enumerate(SCALES):
                outputs = call_model(f, replaced(inputs, dim, [token], seed + number, scale))
                for y, other in zip(first, _with_dim(outputs, out_dim), strict=True):
                    size = torch.maximum(y.abs().max(), other.abs().max())
                    moved = _largest(other - y, out_dim) / size
                    column = torch.maximum(column, moved.double().cpu())
            columns.append(column.nan_to_num())
    return torch.stack(columns, 1).to(first[0].device)


def _with_dim(outputs: Outputs, out_dim: int) -> Outputs:
    """The outputs that have the dimension, with the same number of entries as the first of them."""
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


def _other_tokens(
    sources: list[int],
    kept: Tensor,
    sizes: Sequence[int],
    dims: tuple[int, int],
    seed: int,
    scale: float = 1.0,
) -> ContentIntervention:
    """Other content in some tokens, and the outputs that must not change.

    Args:
        sizes: numbers of outputs and of tokens.
        dims: of outputs and of tokens.
    """
    (n_out, n), (out_dim, dim) = sizes, dims
    return ContentIntervention(
        lambda inputs: replaced(inputs, dim, sources, seed, scale),
        [Unaffected.at(n, kept)] if n == n_out else [],
        lambda outputs: [
            y.index_select(out_dim, kept.to(y.device)) for y in _with_dim(outputs, out_dim)
        ],
    )


def _sampled(
    allowed: TokenGraph, n: int, dims: tuple[int, int], seed: int
) -> list[ContentIntervention]:
    """For some outputs, other content in all tokens that they must not depend on."""
    n_out, generator = allowed.num_targets, torch.Generator().manual_seed(seed)
    interventions = []
    for target in torch.randperm(n_out, generator=generator)[:SAMPLED].tolist():
        kept = torch.tensor([target])
        sources = (~allowed.attends(kept, torch.arange(n))).nonzero().flatten().tolist()
        if sources:
            interventions.append(_other_tokens(sources, kept, (n_out, n), dims, seed))
    if not interventions:
        raise ValueError(f"allowed must forbid something, got {allowed!r}")
    return interventions


def _with_matrix(
    report: SymmetryReport, runner: Runner, influence: Tensor, forbidden: dict[str, Tensor]
) -> SymmetryReport:
    """What the whole matrix says, over what one intervention said.

    Perturbations are rounded as outputs are; gradients of what does not depend are not, so
    that small influences are theirs to find.
    """
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
        report = dataclasses.replace(report, counterexample=None, location=None, tolerance=exact)
        return dataclasses.replace(report, verdict=verdict, reason=reason, error=error)
    target, source = divmod(int(excess.argmax()), influence.shape[1])
    eps, location = torch.finfo(precision).eps, None
    with runner.at(precision) as x:  # who does not depend is not even rounded otherwise
        for intervention in runner.interventions:
            location = location or localize(runner, x, intervention, eps)
    return dataclasses.replace(
        report,
        verdict=Verdict.BROKEN if float(excess.max()) > 8 else Verdict.INCONCLUSIVE,
        tolerance=exact,
        reason=f"output {target} depends on token {source} ({error:.2g} of the largest), "
        f"one of {count} such pairs",
        error=error,
        location=location,
    )


def _check(case: Case, options: Options) -> SymmetryReport:
    graph = getattr(case.inputs[0], "graph", None)
    n = case.example.num_tokens
    layouts = [layout for layout in case.layouts if layout.tokens]
    return check_dependency(
        case.function,
        case.inputs,
        Causal(n) if graph is None else graph.reach(n),
        dim=token_dim(case),
        out_dim=layouts[0].tokens[0],
        law="causality",
        **options,
    )


def _claims_causality(case: Case, causal: bool) -> bool:
    graph = getattr(case.inputs[0], "graph", None)
    if causal and case.pooled:
        raise ValueError("causal=True needs an output for each token, got pooled outputs")
    if causal or graph is None or case.pooled:
        return causal
    n = graph.num_targets
    return n <= LONGEST and graph.reach(n).num_edges < n * n


CAUSALITY = Law(
    "outputs depend only on tokens that the graph, or the claim, makes visible to them",
    _claims_causality,
    _check,
    """\
Says: an output depends only on tokens that the graph, or the claim to be causal, makes visible to
it.
Measured: each token gets other content, and outputs that must not see it are compared; gradients
show the same for long inputs.
Causes: a mask that is off by one, transposed, or finite; a convolution padded on both sides; a
norm or a pooling along the tokens; a shift by roll, which wraps around.
Mend: use -inf and not a large number in masks; pad convolutions on the left; normalize each token
alone.
""",
)
