"""Laws of the batch along each of several leading dimensions, as those of tokens (B, T, N, D)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokennet.testing.engine.run import call_model
from tokennet.testing.engine.sandbox import sandboxed
from tokennet.testing.engine.wrapped import Wrapped
from tokennet.testing.example.case import Case
from tokennet.testing.example.guess import AS_SAID
from tokennet.testing.example.inputs import Example
from tokennet.testing.example.values import features, tensors_of
from tokennet.testing.laws.law import Options
from tokennet.testing.report import SymmetryReport, Verdict
from tokennet.tokens import Tokens


@dataclass(frozen=True)
class Swapped(Wrapped):
    """The model with dimension 0 of some inputs, and of all outputs, in the place of another.

    Args:
        dim: the other dimension.
        numbers: of the inputs.
    """

    dim: int
    numbers: tuple[int, ...]

    imports = "from tokennet.testing.scripts import Swapped"

    def __call__(self, *inputs: Any) -> list[Tensor]:
        given = [
            _transposed(value, self.dim) if number in self.numbers else value
            for number, value in enumerate(inputs)
        ]
        return [y.transpose(0, self.dim) for y in tensors_of(self.function(*given))]


def _transposed(value: Any, dim: int) -> Any:
    if not isinstance(value, Tokens):
        return value.transpose(0, dim)
    pos = value.pos
    if pos is not None and pos.dim() == value.z.dim():  # else the positions are of all sets
        pos = pos.transpose(0, dim)
    return value.replace(z=value.z.transpose(0, dim), pos=pos)


def on_leading(
    check: Callable[[Case, Options], SymmetryReport],
) -> Callable[[Case, Options], SymmetryReport]:
    """The law asked along dimension 0, and where it holds, along the other leading dimensions.

    A break there is a question unless the role of the tokens is said: a model of (B, T, N, D)
    may mix along T by design. Where an input or output of sets lacks these dimensions, the law
    says that it was not asked of them.
    """

    def checked(case: Case, options: Options) -> SymmetryReport:
        report = check(case, options)
        dims = _further_dims(case.example)
        if report.verdict is not Verdict.PASS or not dims:
            return report
        if not _all_have_these(case):
            note = f"asked along dimension 0 alone: not every input and output has {_named(dims)}"
            return dataclasses.replace(report, notes=(*report.notes, note))
        for dim in dims:
            other = check(_swapped(case, dim), options)
            if other.verdict is Verdict.BROKEN:
                return _told(case, dim, other)
            report = dataclasses.replace(report, runs=report.runs + other.runs)
        return report

    return checked


def _told(case: Case, dim: int, report: SymmetryReport) -> SymmetryReport:
    example = case.example
    name, value = example.names[0], example.inputs[0]
    where = f"sets along dimension {dim} of {name} reach each other"
    is_said = any(line.name == name and line.why == AS_SAID for line in case.reading)
    if is_said or isinstance(value, Tokens):  # whose leading dimensions are a batch
        return dataclasses.replace(report, reason=f"{where}: {report.reason}")
    return report.asked(
        f"{where}: pass roles={{{name!r}: 'tokens:{example.token_dim}'}} if that is a leak, or "
        f"{{{name!r}: 'tokens:{dim - value.dim()}'}} if they are tokens of one set"
    )


def _named(dims: Sequence[int]) -> str:
    return f"dimension{'s' if len(dims) > 1 else ''} {', '.join(map(str, dims))}"


def _further_dims(example: Example) -> list[int]:
    """The leading dimensions behind the first that hold several sets."""
    if not example.is_batched(0):
        return []
    lead = features(example.inputs[0]).shape[: example.token_dim]
    return [dim for dim in range(1, len(lead)) if lead[dim] > 1]


def _of_sets(example: Example) -> tuple[int, ...]:
    """The numbers of the inputs of which the first dimension counts sets."""
    return tuple(n for n in range(len(example.inputs)) if example.is_batched(n))


def _all_have_these(case: Case) -> bool:
    """Whether all inputs and outputs of sets have the leading dimensions of the tokens."""
    example = case.example
    lead = features(example.inputs[0]).shape[: example.token_dim]
    with sandboxed(case.function, dtype=None, jitter=0), torch.no_grad():
        outputs = call_model(case.function, case.inputs)
    inputs = (features(example.inputs[number]) for number in _of_sets(example))
    return all(value.shape[: len(lead)] == lead for value in (*inputs, *outputs))


def _swapped(case: Case, dim: int) -> Case:
    """The case with another leading dimension in the place of the first."""
    numbers = _of_sets(case.example)
    inputs = tuple(
        _transposed(value, dim) if number in numbers else value
        for number, value in enumerate(case.example.inputs)
    )
    example = dataclasses.replace(case.example, inputs=inputs)
    function = Swapped(case.function, dim, numbers)
    return dataclasses.replace(case, example=example, function=function)
