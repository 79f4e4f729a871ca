"""Laws that some content must not be seen: padding, and other sets of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tokennet.symmetry.borrow import borrowed
from tokennet.symmetry.laws.equivariance import as_inputs
from tokennet.symmetry.laws.judge import judge
from tokennet.symmetry.report import SymmetryReport
from tokennet.symmetry.trial.change import Inputs, Outputs, Perturbing, Unaffected
from tokennet.symmetry.trial.content import new_content, replaced
from tokennet.symmetry.trial.experiment import called
from tokennet.symmetry.values import cast, describe, features, with_features

SCALES = (1.0, 1e3)
"""Sizes of the other content of padded places, in units of the input's own."""


def check_padding(
    f: Callable[..., Any], inputs: Any, real: Tensor, **options: Any
) -> SymmetryReport:
    """Whether what stands in padded places, and how many there are, does not matter.

    Args:
        f: from `inputs`, the first of which is (..., N, D), to (..., N, D') or, pooled,
            to (..., D'); the mask itself is among the other inputs, or known to f.
        real: (..., N) True where there is a token.

    Raises:
        ValueError: `real` does not fit the tokens, or there is no padding to vary.
    """
    inputs = as_inputs(inputs)
    z = features(inputs[0])
    real = torch.as_tensor(real).bool()
    if real.shape != z.shape[: real.dim()] or real.dim() not in (z.dim(), z.dim() - 1):
        raise ValueError(
            f"real must have shape (..., N) of the tokens {describe(z)}, got {tuple(real.shape)}"
        )
    rows = [row for row in range(real[..., 0].numel()) if not _row(real, row).all()]
    rows = [row for row in rows if _row(real, row).any()]
    if not rows:
        raise ValueError("real must leave some places of a set with tokens as padding")
    changes = [_other_padding(z.shape, real, row, scale) for row in rows[:3] for scale in SCALES]
    longer = _longer(inputs, real)
    if longer is not None and _runs(f, longer):
        changes += [_more_padding(real, row) for row in rows[:1]]
    return judge("padding", f, inputs, changes, **options)


def assert_padding_ignored(
    f: Callable[..., Any], inputs: Any, real: Tensor, **options: Any
) -> SymmetryReport:
    """Assert that `check_padding` gives PASS; its options."""
    return check_padding(f, inputs, real, **options).assert_pass()


def check_batch(f: Callable[..., Any], inputs: Any, **options: Any) -> SymmetryReport:
    """Whether sets along dimension 0 of all inputs do not see each other.

    Each is run beside others of other content, and alone.

    Raises:
        ValueError: the inputs have not the same number of sets, at least 2, in dimension 0.
    """
    inputs = as_inputs(inputs)
    sizes = {value.shape[0] for value in inputs if isinstance(value, Tensor)}
    if len(sizes) != 1 or min(sizes) < 2:
        raise ValueError(
            f"inputs must have the same number of sets, at least 2, in dimension 0, "
            f"got {describe(inputs)}"
        )
    count = sizes.pop()
    changes = [
        change
        for row in range(min(count, 2))
        for change in (_other_sets(count, row), _alone(count, row))
    ]
    return judge("batch_composition", f, inputs, changes, **options)


def assert_batch_independent(f: Callable[..., Any], inputs: Any, **options: Any) -> SymmetryReport:
    """Assert that `check_batch` gives PASS; its options.

    >>> assert_batch_independent(lambda x: x - x.mean(1, keepdim=True), torch.randn(3, 4, 2)).law
    'batch_composition'
    """
    return check_batch(f, inputs, **options).assert_pass()


def _row(real: Tensor, row: int) -> Tensor:
    return real.reshape(-1, real.shape[-1])[row]


def _other_padding(shape: torch.Size, real: Tensor, row: int, scale: float) -> Perturbing:
    """Other content in the padding of every set, and what one of them makes of it."""
    mask, (sets, n) = _row(real, row), _sets(real)
    hidden = ~real.reshape(sets, n)

    def change(inputs: Inputs) -> Inputs:
        z = features(inputs[0])
        new = new_content(z, row, scale).reshape(sets, n, *shape[real.dim() :])
        flat = z.reshape(new.shape).clone()
        flat[hidden] = new[hidden]
        return (with_features(inputs[0], flat.view_as(z)), *inputs[1:])

    kept = [Unaffected.at(n, mask.nonzero().flatten())]
    if sets > 1:
        kept.append(Unaffected.at(sets, torch.tensor([row])))
    return Perturbing(change, kept, lambda outputs: _of_tokens(outputs, real, row))


def _more_padding(real: Tensor, row: int) -> Perturbing:
    """Two further padded places in every set."""
    mask, (sets, n) = _row(real, row), _sets(real)
    index = mask.nonzero().flatten()

    def change(inputs: Inputs) -> Inputs:
        longer = _longer(inputs, real)
        assert longer is not None
        return longer

    kept = [Unaffected(n, index, n + 2, index)]
    if sets > 1:
        kept.append(Unaffected.at(sets, torch.tensor([row])))
    padded = torch.cat([real, torch.zeros_like(real[..., :1]).expand(*real.shape[:-1], 2)], -1)
    return Perturbing(
        change,
        kept,
        lambda outputs: _of_tokens(outputs, padded, row),
        wanted=lambda outputs: _of_tokens(outputs, real, row),
    )


def _longer(inputs: Inputs, real: Tensor) -> Inputs | None:
    """The inputs with two further padded places; None where the mask is no input."""
    z, found = features(inputs[0]), False
    dim = real.dim() - 1
    longer: list[Any] = [with_features(inputs[0], torch.cat([z, z.narrow(dim, 0, 2)], dim))]
    for value in inputs[1:]:
        if isinstance(value, Tensor) and value.shape == real.shape:
            says_real = torch.equal(value.bool(), real.to(value.device))
            end = torch.zeros_like(value[..., :1]) if says_real else torch.ones_like(value[..., :1])
            value, found = torch.cat([value, end, end], -1), True
        longer.append(value)
    return tuple(longer) if found else None


def _runs(f: Callable[..., Any], inputs: Inputs) -> bool:
    try:
        with borrowed(f, dtype=torch.float64), torch.no_grad():
            called(f, cast(inputs, torch.float64))
    except Exception:  # whatever a model of other people raises at another size
        return False
    return True


def _of_tokens(outputs: Outputs, real: Tensor, row: int) -> Outputs:
    """What outputs say of the tokens of one set, or of the set where they are pooled."""
    sets, n = _sets(real)
    index = _row(real, row).nonzero().flatten()
    picked = [y.reshape(sets, *y.shape[real.dim() - 1 :])[row] for y in outputs]
    return [y.index_select(0, index.to(y.device)) if y.shape[:1] == (n,) else y for y in picked]


def _sets(real: Tensor) -> tuple[int, int]:
    return real[..., 0].numel(), real.shape[-1]


def _other_sets(count: int, row: int) -> Perturbing:
    def change(inputs: Inputs) -> Inputs:
        new = new_content(features(inputs[0]), row, 3.0)
        return replaced(inputs, new, 0, [other for other in range(count) if other != row])

    kept = [Unaffected.at(count, torch.tensor([row]))]
    return Perturbing(change, kept, lambda outputs: [y[row : row + 1] for y in outputs])


def _alone(count: int, row: int) -> Perturbing:
    def change(inputs: Inputs) -> Inputs:
        return tuple(v[row : row + 1] if isinstance(v, Tensor) else v for v in inputs)

    return Perturbing(
        change,
        [Unaffected(count, torch.tensor([row]), 1, torch.tensor([0]))],
        wanted=lambda outputs: [y[row : row + 1] for y in outputs],
    )
