"""Another library's module given the weights of ours, and the two held against each other."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def copy_linear(ours: nn.Linear, theirs: nn.Linear) -> list[tuple[Tensor, Tensor]]:
    """Copy weight and bias; return the pairs."""
    pairs = [(ours.weight, theirs.weight)]
    if ours.bias is not None:
        pairs.append((ours.bias, theirs.bias))
    with torch.no_grad():
        for mine, other in pairs:
            mine.copy_(other)
    return pairs


def compare(
    ours: Tensor,
    theirs: Tensor,
    z: Tensor,
    pairs: list[tuple[Tensor, Tensor]],
    tolerance: float = 1e-10,
) -> None:
    """Values, and gradients of z and of each pair of parameters, of a common loss, in float64.

    Tensors are compared relative to their largest entry.
    """
    assert ours.dtype == torch.float64
    weight = torch.randn_like(theirs)
    mine = torch.autograd.grad((ours * weight).sum(), [z, *(a for a, _ in pairs)])
    other = torch.autograd.grad((theirs * weight).sum(), [z, *(b for _, b in pairs)])
    for got, want in zip((ours, *mine), (theirs, *other), strict=True):
        error = (got - want.view_as(got)).abs().max() / want.abs().max().clamp(min=1e-3)
        assert float(error.detach()) <= tolerance


def compare_entries(
    ours: Tensor, theirs: Tensor, z: Tensor, pairs: Sequence[tuple[Tensor, Tensor]] = ()
) -> None:
    """As `compare`, each entry by itself: to 1e-12."""
    weight = torch.randn_like(ours)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    mine = torch.autograd.grad((ours * weight).sum(), [z, *(a for a, _ in pairs)])
    other = torch.autograd.grad((theirs * weight).sum(), [z, *(b for _, b in pairs)])
    for got, want in zip(mine, other, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
