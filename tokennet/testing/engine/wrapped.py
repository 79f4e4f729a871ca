"""Models within a wrapper of the checker's own: the base class, and gradients as a function."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokennet.testing.example.values import features, tensors_of, with_features


@dataclass(frozen=True)
class Wrapped(ABC):
    """Calls a model in another way; reports name the model itself."""

    function: Callable[..., Any]

    imports: ClassVar[str]
    """The line that a script needs to make one."""

    def expression(self, inner: str) -> str:
        """The expression that makes this of `inner` in a script."""
        given = [repr(getattr(self, field.name)) for field in dataclasses.fields(self)[1:]]
        return f"{type(self).__name__}({', '.join([inner, *given])})"

    @abstractmethod
    def __call__(self, *inputs: Any) -> Any:
        """Call the model."""


def identity(model: Any) -> Any:
    """What is the same for two wrappers of one model in the same way, as a key."""
    if not isinstance(model, Wrapped):
        return id(model)
    given = (getattr(model, field.name) for field in dataclasses.fields(model)[1:])
    return (type(model), identity(model.function), *given)


class NoGradient(TypeError):
    """There is nothing to differentiate."""


@dataclass(frozen=True)
class GradientOf(Wrapped):
    r"""x -> d/dx sum phi(f(x)) with phi(y) = y + y^2 / 2 + y^3 / 6, for the first input.

    Needed where a law is asked of gradients too. The sum does not depend on the order of the
    numbers, so that where f commutes with P, its gradient does. The three powers keep it
    from vanishing after a softmax or a LayerNorm.

    Raises:
        NoGradient: the first input is no floating-point tensor, or f has no gradient.

    >>> GradientOf(lambda x: 2 * x)(torch.zeros(3))
    tensor([2., 2., 2.])
    """

    imports = "from tokennet.testing import GradientOf"

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
            numbers = [torch.view_as_real(y) if y.is_complex() else y for y in outputs]
            sums = [(y + y.square() / 2 + y**3 / 6).sum() for y in numbers if y.requires_grad]
            if not sums:
                raise NoGradient("the output has no gradient with respect to the input")
            total = torch.stack(sums).sum()
            try:
                return torch.autograd.grad(total, leaf, materialize_grads=True)[0]
            except NotImplementedError as error:  # as of operations on nested tensors
                raise NoGradient(f"not differentiable: {error}"[:200]) from error
