"""How much each output depends on each token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tokennet.testing.engine.content import new_content, replaced
from tokennet.testing.engine.intervention import Inputs, Outputs
from tokennet.testing.engine.precision import precision_of, runnable
from tokennet.testing.engine.run import Experiment, called, called_with_graph
from tokennet.testing.engine.sandbox import borrowed
from tokennet.testing.example.values import cast, features, with_features
from tokennet.testing.laws.equivariance import as_inputs

Method = Literal["gradient", "perturbation", "both"]
METHODS = ("gradient", "perturbation", "both")
SCALES = (1.0, 1.0, 1e3)
"""Sizes of the other content that a token is given, in units of the input's own."""


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


def _by_gradient(f: Callable[..., Any], inputs: Inputs, dim: int, out_dim: int) -> Tensor:
    leaf = features(inputs[0]).detach()
    outputs = with_dim(called(f, inputs), out_dim)
    if not leaf.is_floating_point():
        shape = (outputs[0].shape[out_dim], leaf.shape[dim])
        return torch.zeros(shape, dtype=torch.float64, device=leaf.device)
    leaf.requires_grad_()
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        given = (with_features(inputs[0], leaf), *inputs[1:])
        matrices = [
            _rows_of_gradients(y, leaf, dim, out_dim)
            for y in with_dim(called_with_graph(f, given), out_dim)
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
        first = with_dim(called(f, inputs), out_dim)
        columns = []
        for token in range(features(inputs[0]).shape[dim]):
            column = torch.zeros(first[0].shape[out_dim], dtype=torch.float64)
            for number, scale in enumerate(SCALES):
                new = new_content(features(inputs[0]), seed + number, scale)
                moved = called(f, replaced(inputs, new, dim, [token]))
                for y, other in zip(first, with_dim(moved, out_dim), strict=True):
                    size = torch.maximum(y.abs().max(), other.abs().max())
                    change = _largest(other - y, out_dim) / size
                    column = torch.maximum(column, change.double().cpu())
            columns.append(column.nan_to_num())
    return torch.stack(columns, 1).to(first[0].device)


def with_dim(outputs: Outputs, out_dim: int) -> Outputs:
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
