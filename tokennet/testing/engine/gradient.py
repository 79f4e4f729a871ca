"""Gradients as a function of the input, so that laws can be asked of them too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokennet.testing.engine.wrapped import Wrapped
from tokennet.testing.example.values import features, tensors_of, with_features


class NoGradient(TypeError):
    """There is nothing to differentiate."""


@dataclass(frozen=True)
class GradientOf(Wrapped):
    r"""x -> d/dx sum phi(f(x)) with phi(y) = y + y^2 / 2 + y^3 / 6, for the first input.

    A sum of one function of every number does not change when numbers change places, so
    the gradient moves as the input does: where f commutes with P, so does its gradient.
    The three powers keep it from vanishing after a softmax or a LayerNorm.

    Raises:
        NoGradient: the first input is no floating-point tensor, or f has no gradient.

    >>> GradientOf(lambda x: 2 * x)(torch.zeros(3))
    tensor([2., 2., 2.])
    """

    def expression(self, inner: str) -> tuple[str, str]:
        """The import and the expression that make this of `inner` in a script."""
        return "from tokennet.testing import GradientOf", f"GradientOf({inner})"

    def __call__(self, *inputs: Any) -> Tensor:
        leaf = features(inputs[0]).detach()
        if not leaf.is_floating_point():
            raise NoGradient(f"the input is {leaf.dtype}, which has no gradient")
        leaf.requires_grad_()
        with torch.enable_grad():
            given = with_features(inputs[0], leaf.clone())  # the model may write to it
            try:
                outputs = tensors_of(self.function(given, *inputs[1:]))
            except RuntimeError as error:  # code that leaves torch, as by .numpy()
                raise NoGradient(f"not differentiable: {error}") from error
            sums = [_phi(y).sum() for y in outputs if y.requires_grad]
            if not sums:
                raise NoGradient("the output has no gradient with respect to the input")
            total = torch.stack(sums).sum()
        return torch.autograd.grad(total, leaf, materialize_grads=True)[0]


def _phi(y: Tensor) -> Tensor:
    return y + y.square() / 2 + y**3 / 6
