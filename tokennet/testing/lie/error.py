"""`lie_derivative` and `lie_error`: how far a map is from equivariance under one generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tokennet.testing.lie.generator import LieGenerator
from tokennet.testing.lie.pushforward import (
    Map,
    Method,
    Pushforward,
    in_float64,
    measuring,
    norm,
    pushforward,
)

OutGenerator = LieGenerator | None | Literal["auto"]

ROUNDING: dict[Method, float] = {"forward mode": 1e-12, "central difference": 1e-8}
"""What is smaller than this part of f(x) counts as zero."""

PROBES = 8


@dataclass(frozen=True)
class LieError:
    """How far a map is from equivariance under one generator. Made by `lie_error`.

    Attributes:
        name: of the module; empty for a map that is not part of a model.
        generator: name of the generator.
        lee: the local equivariance error, in squared units of the output per unit of t.
        relative: between 0 (equivariant) and 1; see `lie_error`.
        invariant: the output was expected to stay, not to move with the input.
        method: how J_f X x was computed. A central difference has an error of about 1e-10.
        out_shape: shape of the output.
    """

    name: str
    generator: str
    lee: float
    relative: float
    invariant: bool
    method: Method
    out_shape: tuple[int, ...]

    def __str__(self) -> str:
        aim = "invariance" if self.invariant else "equivariance"
        name = f"{self.name}: " if self.name else ""
        return (
            f"{name}{aim} under {self.generator}: relative error {self.relative:.2e}, "
            f"LEE {self.lee:.2e} (output {self.out_shape}, {self.method})"
        )


def lie_derivative(
    f: Map, x: Tensor, generator: LieGenerator, *, out_generator: OutGenerator = "auto"
) -> Tensor:
    r"""The Lie derivative of f at x: it shows where in the output f is not equivariant.

        L_X f(x) = d/dt rho_out(-t) f(rho_in(t) x) at t = 0  =  J_f(x) X x - X_out f(x)

    Gruver, Finzi, Goldblum, Wilson (2022), "The Lie Derivative for Measuring Learned
    Equivariance", arXiv:2210.02984. Arguments, units and errors are those of `lie_error`.

    Returns:
        A float64 tensor of the shape of f(x), in units of f(x) per unit of t.

    Multiplication by a mask m has the Lie derivative -m' x:

    >>> from tokennet.testing.lie import LieGenerator
    >>> p, x = torch.linspace(-0.75, 0.75, 4).double(), torch.ones(1, 4)
    >>> along_t = LieGenerator.translation(dims=1)
    >>> derivative = lie_derivative(lambda x: torch.cos(torch.pi * p) * x, x, along_t)
    >>> torch.allclose(derivative, torch.pi * torch.sin(torch.pi * p))
    True
    """
    with measuring(f):
        x = in_float64(x)
        pushed = pushforward(f, x, generator(x))
        out = action_on(pushed.value, x, generator) if out_generator == "auto" else out_generator
        return pushed.change if out is None else pushed.change - out(pushed.value)


def lie_error(
    f: Map, x: Tensor, generator: LieGenerator, *, out_generator: OutGenerator = "auto"
) -> LieError:
    r"""Local equivariance error of f under a continuous group, over the batch x.

    For use when a single number is needed, to compare models or layers.

        LEE      = E_x ||L_X f(x)||^2 / dim f(x),     L_X f(x) = J_f(x) X x - X_out f(x)
        relative = ||L_X f(x)|| / (||J_f(x) X x|| + ||X_out f(x)||)

    LEE is that of Gruver et al. (2022, arXiv:2210.02984), who measure classifiers after
    the softmax; it scales with f and the unit of t. `relative` does not: 0 if and only if f
    is equivariant at x, at most 1, norms over the batch. For an invariant output X_out is
    zero and this would be always 1, so there the motion is compared with motions of the same
    size and random signs s = +-1 for each entry of x:

        relative = ||J_f(x) X x|| / (||J_f(x) X x|| + (E_s ||J_f(x) (s * X x)||^2)^(1/2))

    Both forms measure how much cancels: of two terms above, of the single entries here. A
    generic f, not invariant at all, is near 1/2. What is below rounding (1e-12 of ||f(x)||,
    1e-8 if by differences) counts as 0.

    f runs in float64 and eval mode, and its state is restored; tensors that it refers to
    outside of modules keep their precision. J_f X x is computed by forward mode and checked
    against central differences, which are used instead where operations have no forward
    mode or code detaches; `method` says which it was.

    Args:
        f: a map from tensor to tensor (or to `Tokens`, whose z counts), a module or not.
        x: floating-point, shape (..., C, T), (..., C, H, W), or (..., N, D) for a generator
            `on_tokens`. The device is that of x and f.
        generator: see `LieGenerator` for the units of t.
        out_generator: the action on the output; None where it should not move. "auto": an
            output with the number of dimensions of x moves by `generator` at its own size, one
            that has lost all dimensions of space stays.

    Raises:
        TypeError: x is not floating-point, or f does not return one floating-point tensor.
        ValueError: x or the output does not have the shape that its generator needs, or
            "auto" cannot infer how the output moves.

    >>> from torch import nn
    >>> from tokennet.testing.lie import LieGenerator
    >>> x, along_x = torch.randn(2, 3, 8, 8), LieGenerator.translation()
    >>> circular = nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")
    >>> lie_error(circular, x, along_x).relative < 1e-12
    True
    >>> lie_error(nn.Conv2d(3, 4, 3, padding=1), x, along_x).relative > 1e-3
    True
    """
    with measuring(f):
        x = in_float64(x)
        motion = generator(x)
        pushed = pushforward(f, x, motion)
        out = action_on(pushed.value, x, generator) if out_generator == "auto" else out_generator
        return summary(f, x, motion, pushed, generator, out)


def action_on(value: Tensor, x: Tensor, generator: LieGenerator) -> LieGenerator | None:
    """How an output moves, inferred from its shape and that of the input.

    Raises:
        ValueError: the shape is ambiguous.
    """
    batch_dims = x.dim() - generator.value_dims
    if generator.fits(value, batch_dims):
        return generator
    if value.dim() <= batch_dims + 1:
        return None
    raise ValueError(
        f"out_generator must say how an output of shape {tuple(value.shape)} moves with an "
        f"input of shape {tuple(x.shape)}: a generator, or None if it should stay"
    )


def summary(
    f: Map,
    x: Tensor,
    motion: Tensor,
    pushed: Pushforward,
    generator: LieGenerator,
    out: LieGenerator | None,
    name: str = "",
) -> LieError:
    """The `LieError` from the two terms of L_X f(x)."""
    expected = torch.zeros_like(pushed.value) if out is None else out(pushed.value)
    derivative = pushed.change - expected
    other = _incoherent(f, x, motion, pushed.method) if out is None else norm(expected)
    size = norm(pushed.change) + other
    negligible = size <= ROUNDING[pushed.method] * norm(pushed.value)
    return LieError(
        name=name,
        generator=generator.name,
        lee=float(derivative.square().mean()),
        relative=0.0 if negligible else norm(derivative) / size,
        invariant=out is None,
        method=pushed.method,
        out_shape=tuple(pushed.value.shape),
    )


def _incoherent(f: Map, x: Tensor, motion: Tensor, method: Method) -> float:
    """Root mean square over signs s of ||J_f(x) (s * motion)||."""
    random, total = torch.Generator().manual_seed(0), 0.0
    for _ in range(PROBES):
        signs = 2 * torch.randint(0, 2, motion.shape, generator=random) - 1
        direction = signs.to(motion.device) * motion
        total += norm(pushforward(f, x, direction, method).change) ** 2
    return (total / PROBES) ** 0.5
