"""Laws that some content must not be seen: padding, and other sets of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokennet.testing.engine.content import new_content, replaced
from tokennet.testing.engine.intervention import Inputs, Outputs, Perturbing, Unaffected
from tokennet.testing.engine.run import called
from tokennet.testing.engine.sandbox import borrowed
from tokennet.testing.engine.verdict import judge
from tokennet.testing.example.layout import Layout, of_sets, usual_layouts
from tokennet.testing.example.values import cast, describe, features, with_features
from tokennet.testing.laws.equivariance import as_inputs
from tokennet.testing.report import SymmetryReport

SCALES = (1.0, 1e3)
"""Sizes of the other content of padded places, in units of the input's own."""


def check_padding(
    f: Callable[..., Any],
    inputs: Any,
    real: Tensor,
    *,
    layouts: Sequence[Layout] | None = None,
    **options: Any,
) -> SymmetryReport:
    """Whether what stands in padded places, and how many there are, does not matter.

    The padding is given other content, made longer, and cut off where the model takes it.

    Args:
        f: from `inputs`, the first of which is (B, N, D), (N, D) or ids (B, N), to a row
            for each token or for each set; the mask is among the other inputs, or known to f.
        real: (B, N) or (N,) True where there is a token.
        layouts: of the outputs, where they are others than (B, N, ...) or (B, ...).

    Raises:
        ValueError: `real` does not fit the tokens, or there is no padding to vary.

    >>> real = torch.tensor([[True, True, True], [True, False, False]])
    >>> masked = lambda x, real: (x * real[..., None]).sum(1)
    >>> check_padding(masked, (torch.randn(2, 3, 4), real), real).verdict.name
    'PASS'
    """
    inputs = as_inputs(inputs)
    z = features(inputs[0])
    real = torch.as_tensor(real).bool()
    if real.dim() > 2 or real.shape != z.shape[: real.dim()]:
        raise ValueError(
            f"real must have shape (B, N) or (N,) of the tokens {describe(z)}, "
            f"got {tuple(real.shape)}"
        )
    rows = real if real.dim() == 2 else real[None]
    padded = [n for n, row in enumerate(rows) if bool(row.any()) and not bool(row.all())]
    if not padded:
        raise ValueError("real must leave some places of a set with tokens as padding")
    part = _Part(real, layouts)
    changes = [_other_padding(part, n, scale) for n in padded[:3] for scale in SCALES]
    for longer in (_more_padding(part, padded[0]), _no_padding(part, padded[0])):
        if _runs(f, longer, inputs):
            changes.append(longer)
    return judge("padding", f, inputs, changes, **options)


def assert_padding_ignored(
    f: Callable[..., Any], inputs: Any, real: Tensor, **options: Any
) -> SymmetryReport:
    """Assert that `check_padding` gives PASS; its options.

    >>> real = torch.tensor([[True, True, True], [True, False, False]])
    >>> masked = lambda x, real: (x * real[..., None]).sum(1)
    >>> assert_padding_ignored(masked, (torch.randn(2, 3, 4), real), real).law
    'padding'
    """
    return check_padding(f, inputs, real, **options).assert_pass()


def check_batch(
    f: Callable[..., Any],
    inputs: Any,
    *,
    layouts: Sequence[Layout] | None = None,
    **options: Any,
) -> SymmetryReport:
    """Whether sets along dimension 0 of the inputs do not see each other.

    Each is run beside others of other content, and alone. Inputs with another size in
    dimension 0 than the first, and numbers, belong to all sets.

    Args:
        layouts: of the outputs, where sets are not counted in dimension 0.

    Raises:
        ValueError: there are not at least 2 sets.

    >>> check_batch(lambda x: x - x.mean(0), torch.randn(3, 4, 2)).verdict.name
    'BROKEN'
    """
    inputs = as_inputs(inputs)
    z = features(inputs[0])
    if z.shape[0] < 2:
        raise ValueError(f"inputs must have at least 2 sets in dimension 0, got {describe(inputs)}")
    count = z.shape[0]
    changes = [
        change
        for row in range(min(count, 2))
        for change in (_other_sets(count, row, layouts), _alone(count, row, layouts))
    ]
    return judge("batch_composition", f, inputs, changes, **options)


def assert_batch_independent(f: Callable[..., Any], inputs: Any, **options: Any) -> SymmetryReport:
    """Assert that `check_batch` gives PASS; its options.

    >>> assert_batch_independent(lambda x: x - x.mean(1, keepdim=True), torch.randn(3, 4, 2)).law
    'batch_composition'
    """
    return check_batch(f, inputs, **options).assert_pass()


@dataclass(frozen=True)
class _Part:
    """Where tokens stand, and what outputs say of those of one set."""

    real: Tensor
    layouts: Sequence[Layout] | None

    @property
    def sets(self) -> int:
        return self.real.shape[0] if self.real.dim() == 2 else 1

    @property
    def length(self) -> int:
        return self.real.shape[-1]

    def tokens(self, row: int) -> Tensor:
        """The places of the tokens of a set."""
        return (self.real[row] if self.real.dim() == 2 else self.real).nonzero().flatten().cpu()

    def of(self, row: int, lead: torch.Size, tokens: Tensor) -> Callable[[Outputs], Outputs]:
        """What outputs of inputs with leading dimensions `lead` say of tokens of a set."""

        def select(outputs: Outputs) -> Outputs:
            layouts = self.layouts or usual_layouts(outputs, lead)
            picked = of_sets(outputs, layouts, row)
            return [layout.of_tokens(y, tokens) for y, layout in zip(picked, layouts, strict=True)]

        return select

    def unaffected(self, row: int, length: int, index: Tensor, sets: int) -> list[Unaffected]:
        """The tokens of a set in tensors on the way; in the other run at `index` of `length`."""
        found = [Unaffected(self.length, self.tokens(row), length, index)]
        if self.sets > 1:
            there = row if sets > 1 else 0
            found.append(Unaffected(self.sets, torch.tensor([row]), sets, torch.tensor([there])))
        return found


def _other_padding(part: _Part, row: int, scale: float) -> Perturbing:
    """Other content in the padding of every set, and what one of them makes of it."""

    def change(inputs: Inputs) -> Inputs:
        z = features(inputs[0])
        hidden = ~part.real.to(z.device)
        other = z.clone()
        other[hidden] = new_content(z, row, scale)[hidden]
        return (with_features(inputs[0], other), *inputs[1:])

    tokens = part.tokens(row)
    kept = part.unaffected(row, part.length, tokens, part.sets)
    return Perturbing(change, kept, part.of(row, part.real.shape, tokens))


def _more_padding(part: _Part, row: int) -> Perturbing:
    """Two further padded places in every set."""
    real, tokens = part.real, part.tokens(row)

    def change(inputs: Inputs) -> Inputs:
        return tuple(_lengthened(value, real) for value in inputs)

    lead = torch.Size([*real.shape[:-1], part.length + 2])
    return Perturbing(
        change,
        part.unaffected(row, part.length + 2, tokens, part.sets),
        part.of(row, lead, tokens),
        wanted=part.of(row, real.shape, tokens),
    )


def _no_padding(part: _Part, row: int) -> Perturbing:
    """One set alone, its padding cut off."""
    real, tokens = part.real, part.tokens(row)

    def change(inputs: Inputs) -> Inputs:
        return tuple(_cut(value, real, row, tokens) for value in inputs)

    lead = torch.Size([1, len(tokens)] if real.dim() == 2 else [len(tokens)])
    own = torch.arange(len(tokens))
    return Perturbing(
        change,
        part.unaffected(row, len(tokens), own, 1),
        part.of(0, lead, own),
        wanted=part.of(row, real.shape, tokens),
    )


def _is_along(value: Any, real: Tensor) -> bool:
    """Whether an input has an entry for each place."""
    return isinstance(value, Tensor) and value.shape[: real.dim()] == real.shape


def _lengthened(value: Any, real: Tensor) -> Any:
    if not _is_along(value, real):
        return value
    dim = real.dim() - 1
    end = value.narrow(dim, 0, 2)
    if value.shape == real.shape:  # the mask says that there is no token
        hidden = value[~real.to(value.device)].flatten()[:1]
        end = hidden.expand(end.shape)
    return torch.cat([value, end], dim)


def _cut(value: Any, real: Tensor, row: int, tokens: Tensor) -> Any:
    if not _is_along(value, real):
        return value
    if real.dim() == 2:
        value = value[row : row + 1]
    return value.index_select(real.dim() - 1, tokens.to(value.device))


def _runs(f: Callable[..., Any], change: Perturbing, inputs: Inputs) -> bool:
    """Whether the model takes the changed input; it is known to take the given one."""
    try:
        with borrowed(f, dtype=torch.float32), torch.no_grad():
            moved = change.move(cast(inputs, torch.float32))
            change.compared(called(f, moved))
    except Exception:  # whatever a model of other people raises at another size
        return False
    return True


def _other_sets(count: int, row: int, layouts: Sequence[Layout] | None) -> Perturbing:
    def change(inputs: Inputs) -> Inputs:
        new = new_content(features(inputs[0]), row, 3.0)
        return replaced(inputs, new, 0, [other for other in range(count) if other != row])

    return Perturbing(change, [Unaffected.at(count, torch.tensor([row]))], _of_set(layouts, row))


def _alone(count: int, row: int, layouts: Sequence[Layout] | None) -> Perturbing:
    def change(inputs: Inputs) -> Inputs:
        return tuple(
            v[row : row + 1] if isinstance(v, Tensor) and v.shape[:1] == (count,) else v
            for v in inputs
        )

    return Perturbing(
        change,
        [Unaffected(count, torch.tensor([row]), 1, torch.tensor([0]))],
        _of_set(layouts, 0),
        wanted=_of_set(layouts, row),
    )


def _of_set(layouts: Sequence[Layout] | None, row: int) -> Callable[[Outputs], Outputs]:
    def select(outputs: Outputs) -> Outputs:
        return of_sets(outputs, layouts or [Layout(sets=-y.dim()) for y in outputs], row)

    return select
