"""`Probe`: a model evaluated on chosen inputs, with its outputs in units of their range."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from tokennet.testing.example.values import cast, describe, tensors_of
from tokennet.tokens import Tokens

FINEST = 1e-9
"""Differences below this part of an output's range are never taken for broken symmetry."""

_COARSEST = 1e-4
_NUDGE = 1e-12
_DRAWS = 3

OutDim = int | Literal["infer"] | None


class Answer(NamedTuple):
    """All outputs of a model on one input, flattened."""

    rows: Tensor
    """(N, R), outputs that move with the tokens."""
    pooled: Tensor
    """(S,), outputs that do not."""

    def gap(self, other: Answer) -> float:
        """The largest difference between two answers."""
        gaps = [(a - b).abs().flatten() for a, b in zip(self, other, strict=True)]
        return float(torch.cat([gaps[0].new_zeros(1), *gaps]).max())


class Weights(NamedTuple):
    """A number for each column of the rows, of the pooled outputs and of the tokens."""

    rows: Tensor
    pooled: Tensor
    inputs: Tensor


class Probe:
    """A model on N tokens of the shape and scale of an example, in float64.

    Each column of the outputs is measured in units of its range over random inputs.
    `resolution` is what rounding may change then: ten thousand times the rounding of the
    inputs, carried through the model, and at least `FINEST`.

    Args:
        f: from a value like `x` to tensors, or anything that holds them.
        x: tensor, or `Tokens` whose z is varied while graph and positions are kept.
        dim: dimension of the tokens in x (in z).
        out_dim: dimension of the tokens in each output tensor, None for pooled ones;
            "infer" takes `dim` where that has N entries.
        seed: of the random inputs.

    Raises:
        TypeError: `x` is neither a tensor nor `Tokens`.
        ValueError: a dimension does not exist or fit, or outputs are not finite, not
            repeatable, or too sensitive to rounding to be compared.
    """

    def __init__(
        self, f: Callable[[Any], Any], x: Tensor | Tokens, dim: int, out_dim: OutDim, seed: int
    ) -> None:
        self._f, self._x = f, cast(x, torch.float64)
        example = self._x.z if isinstance(x, Tokens) else self._x
        self._dim, self._out_dim = _check_dim(x, example, dim), out_dim
        self.num_tokens = example.shape[dim]
        self._tokens_first = example.movedim(dim, 0)  # (N, ...)
        self._deviation = 1.0
        if example.is_floating_point():
            self._deviation = float(example.std(correction=0)) or 1.0
        self._generator = torch.Generator().manual_seed(seed)
        self.evaluations = 0
        inputs = [self.random() for _ in range(_DRAWS)]
        raw = [self._raw(z) for z in inputs]
        parts = [torch.stack(part) for part in zip(*raw, strict=True)]
        if not all(bool(part.isfinite().all()) for part in parts):
            raise ValueError("f must return finite numbers on random inputs of the scale of x")
        self.depends_on_input = any(bool((part != part[0]).any()) for part in parts)
        self._scale = Answer(*map(_range, parts))
        self.examples = [(z, self._scaled(it)) for z, it in zip(inputs, raw, strict=True)]
        self.resolution = self._measured_resolution()
        self._differentiable = example.is_floating_point() and len(self._scale.pooled) > 0

    def random(self, num_tokens: int | None = None) -> Tensor:
        """Random tokens (N, ...) with the mean and deviation, or the range, of the example."""
        like = self._tokens_first
        shape = (self.num_tokens if num_tokens is None else num_tokens, *like.shape[1:])
        if like.is_floating_point():
            noise = torch.randn(shape, generator=self._generator, dtype=torch.float64)
            return like.mean() + noise.to(like.device) * self._deviation
        low, high = int(like.min()), int(like.max())
        drawn = torch.randint(low, high + 1, shape, generator=self._generator)
        return drawn.to(like.device, like.dtype)

    def answer(self, tokens: Tensor) -> Answer:
        """Outputs at tokens (N, ...)."""
        return self._scaled(self._raw(tokens))

    def _scaled(self, raw: Answer) -> Answer:
        return Answer(raw.rows / self._scale.rows, raw.pooled / self._scale.pooled)

    def _raw(self, tokens: Tensor) -> Answer:
        self.evaluations += 1
        z = tokens.movedim(0, self._dim)
        value = self._x.replace(z=z) if isinstance(self._x, Tokens) else z
        rows = [torch.zeros(self.num_tokens, 0, dtype=torch.float64)]
        pooled = [torch.zeros(0, dtype=torch.float64)]
        for tensor in tensors_of(self._f(value)):
            real = torch.view_as_real(tensor) if tensor.is_complex() else tensor.double()
            dim = self._token_dim(tensor)
            if dim is None:
                pooled.append(real.flatten().cpu())
            else:
                rows.append(real.movedim(dim, 0).reshape(self.num_tokens, -1).cpu())
        return Answer(torch.cat(rows, 1), torch.cat(pooled))

    def response(self, tokens: Tensor, weights: Weights) -> list[Tensor]:
        """Weighted rows (N,) and pooled outputs (1,)."""
        answer = self.answer(tokens)
        return [answer.rows @ weights.rows, (answer.pooled @ weights.pooled)[None]]

    def response_with_gradient(self, tokens: Tensor, weights: Weights) -> list[Tensor]:
        """The same, and the gradient of the pooled outputs by the tokens if there is one,
        weighted and in units of the deviation of the tokens, (N,)."""
        if not self._differentiable:
            return self.response(tokens, weights)
        leaf = tokens.detach().clone().requires_grad_()
        try:
            with torch.enable_grad():
                rows, total = self.response(leaf, weights)
                (gradient,) = torch.autograd.grad(total.sum(), leaf)
        except RuntimeError:  # f has no derivative, or does not depend on the tokens
            self._differentiable = False
            return self.response(tokens, weights)
        by_token = gradient.reshape(self.num_tokens, -1).cpu() @ weights.inputs
        return [rows.detach(), total.detach(), by_token * self._deviation]

    def weights(self) -> Weights:
        """Random weights for `response`."""
        sizes = [*(len(part) for part in self._scale), self._tokens_first[0].numel()]
        drawn = [torch.randn(k, generator=self._generator, dtype=torch.float64) for k in sizes]
        return Weights(*(part / max(1, len(part)) ** 0.5 for part in drawn))

    def nudged(self, tokens: Tensor) -> list[Tensor]:
        """Tokens moved by 1e-12 of their deviation in a random direction, and in the opposite one.

        Of the two, at least one ranks equal tokens differently than by index. Integers stay.
        """
        if not tokens.is_floating_point():
            return [tokens, tokens]
        noise = torch.randn(tokens.shape, generator=self._generator, dtype=torch.float64)
        step = _NUDGE * self._deviation * noise.to(tokens.device)
        return [tokens + step, tokens - step]

    def _measured_resolution(self) -> float:
        tokens, first = self.examples[0]
        again = self.answer(tokens)
        if first.gap(again) > FINEST:
            raise ValueError(
                "f must return the same output for the same input, but two calls differ by "
                f"{first.gap(again):.1e} of its range"
            )
        change = first.gap(self.answer(self.nudged(tokens)[0]))
        if change > _COARSEST:
            raise ValueError(
                "f must not magnify rounding, but a change of x by 1e-12 of its size changes "
                f"the output by {change:.1e} of its range"
            )
        return max(FINEST, change)

    def _token_dim(self, output: Tensor) -> int | None:
        n, shape = self.num_tokens, tuple(output.shape)
        if self._out_dim is None:
            return None
        if isinstance(self._out_dim, int):
            if not -len(shape) <= self._out_dim < len(shape) or shape[self._out_dim] != n:
                raise ValueError(
                    f"out_dim must be a dimension with {n} entries, one for each token, of an "
                    f"output of shape {shape}, got {self._out_dim}"
                )
            return self._out_dim
        if n not in shape:
            return None
        if len(shape) == self._tokens_first.dim() and shape[self._dim] == n:
            return self._dim
        raise ValueError(
            f"out_dim must be given for an output of shape {shape}: it has {n} entries, the "
            f"number of tokens, in another dimension than {self._dim}; None if it is pooled"
        )


def _check_dim(x: Any, example: Any, dim: int) -> int:
    if not isinstance(example, Tensor):
        raise TypeError(f"x must be a tensor or Tokens, got {type(x).__name__}")
    if example.is_complex():
        raise TypeError(f"x must hold real numbers or integers, got {example.dtype}")
    if not -example.dim() <= dim < example.dim():
        raise ValueError(f"dim must be a dimension of x, {describe(example)}, got {dim}")
    if isinstance(x, Tokens) and dim % example.dim() != example.dim() - 2:
        raise ValueError(f"dim must be -2 for Tokens, whose z is (..., N, D), got {dim}")
    if example.shape[dim] == 0:
        raise ValueError(f"x must hold at least one token, got {describe(example)}")
    if not example.is_floating_point() and int(example.min()) == int(example.max()):
        raise ValueError(
            "x must hold at least two different integers, the range that inputs are drawn "
            f"from; all are {int(example.min())}"
        )
    return dim


def _range(values: Tensor) -> Tensor:
    """Range of each column of values (draws, ..., columns), 1 where rounding is all there is."""
    flat = values.flatten(0, -2)
    spread = flat.amax(0) - flat.amin(0)
    largest = flat.abs().amax(0)
    return torch.where(spread > 1e-4 * largest, spread, 1e-4 * largest).where(largest > 0, 1.0)
