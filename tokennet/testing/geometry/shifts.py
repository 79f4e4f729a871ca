"""The laws of shifts of grids: series (..., C, T) and images (B, C, H, W).

Circular shifts are exact. Other shifts bring new content in at one border, so that outputs are
compared where neither border reaches: in the interior, found from what one sample influences.
An output that is coarser by a stride follows shifts by multiples of it alone; no others are asked.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tokennet.checks import check_type, lookup, lookup_all
from tokennet.testing.engine.content import new_content
from tokennet.testing.engine.intervention import Code, Inputs, Intervention, Outputs
from tokennet.testing.engine.reach import modules_of
from tokennet.testing.engine.run import Runner
from tokennet.testing.engine.tolerance import name_of_dtype, runnable
from tokennet.testing.engine.verdict import name_of, run_law, verdict_on_error
from tokennet.testing.example.reading import ReadingLine
from tokennet.testing.example.values import describe, is_pyg_data
from tokennet.testing.geometry.calls import Arranged
from tokennet.testing.geometry.reading import parts_of, with_outputs
from tokennet.testing.report import SymmetryReport, Verdict
from tokennet.tokens import Tokens

SHIFTS = ("circular_shifts", "shifts")
ONLY = "only shifts by multiples of "
FORMS = "a series (B, C, T) or images (B, C, H, W)"


@dataclass(frozen=True)
class Follows:
    """How an output follows a shift of the grid: along `dims`, or not at all.

    Args:
        strides: samples of the input for one of the output, along each dimension.
        margins: samples of the output at each border that are not compared.
    """

    dims: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    margins: tuple[int, ...] = ()

    def inside(self, y: Tensor, shift: tuple[int, ...], *, before: bool) -> Tensor:
        """The part of an output that is compared, of the run before or after the shift."""
        parts = zip(self.dims, self.strides, self.margins, shift, strict=True)
        for dim, stride, margin, by in parts:
            start = margin + max(by // stride, 0)
            length = y.shape[dim] - 2 * margin - abs(by // stride)
            y = y.narrow(dim, start - by // stride if before else start, max(length, 0))
        return y


@dataclass(frozen=True)
class ShiftIntervention(Intervention):
    """f(S x) = S f(x), S the shift of the first input along `dims`; circular or in the interior."""

    shift: tuple[int, ...]
    dims: tuple[int, ...]
    sizes_of_grid: tuple[int, ...]
    outs: tuple[Follows, ...]
    circular: bool

    @property
    def words(self) -> str:
        pairs = zip(self.shift, self.dims, strict=True)
        moved = [f"{by} along dimension {dim}" for by, dim in pairs if by]
        return f"shifting by {' and '.join(moved)}"

    def apply(self, inputs: Inputs) -> Inputs:
        x = inputs[0].roll(self.shift, self.dims)
        if self.circular:
            return (x, *inputs[1:])
        new = new_content(x, seed=7)
        for dim, by in zip(self.dims, self.shift, strict=True):
            entering = torch.arange(by) if by > 0 else x.shape[dim] + torch.arange(by, 0)
            entering = entering.to(x.device)
            x = x.index_copy(dim, entering, new.index_select(dim, entering))
        return (x, *inputs[1:])

    def expected(self, outputs: Outputs) -> Outputs:
        pairs = zip(self.outs, outputs, strict=True)
        if not self.circular:
            return [at.inside(y, self.shift, before=True) for at, y in pairs]
        return [
            y.roll([by // s for by, s in zip(self.shift, at.strides, strict=True)], at.dims)
            if at.dims
            else y
            for at, y in pairs
        ]

    def compared(self, outputs: Outputs) -> Outputs:
        if self.circular:
            return outputs
        pairs = zip(self.outs, outputs, strict=True)
        return [at.inside(y, self.shift, before=False) for at, y in pairs]

    def simpler(self) -> Iterator[Intervention]:
        strides = next((at.strides for at in self.outs if at.dims), (1,) * len(self.dims))
        for k, stride in enumerate(strides):
            shift = tuple(stride if i == k else 0 for i in range(len(self.dims)))
            yield dataclasses.replace(self, shift=shift)

    def code(self, names: list[str], inputs: Inputs, outputs: Outputs, worst: int) -> Code | None:
        if not self.circular:
            return None
        at = self.outs[worst]
        before = "y"
        if at.dims:
            by = [s // stride for s, stride in zip(self.shift, at.strides, strict=True)]
            before = f"y.roll({by}, {list(at.dims)})"
        moved = f"x.roll({list(self.shift)}, {list(self.dims)})"
        return Code([], [], [moved, *names[1:]], before, "moved")

    def alignments(self, before: Tensor, after: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Unchanged, or shifted along dimensions in the order of the grid's, in the interior."""
        if before.shape != after.shape:
            return
        yield before, after
        count = len(self.dims)
        for dims in itertools.combinations(range(-before.dim(), 0), count):
            strides = [self._stride(k, before.shape[dim]) for k, dim in enumerate(dims)]
            if 0 in strides:
                continue
            at = Follows(dims, tuple(strides), self._margins(strides))
            if self.circular:
                by = [s // stride for s, stride in zip(self.shift, strides, strict=True)]
                yield before.roll(by, dims), after
                continue
            inside = at.inside(before, self.shift, before=True)
            if inside.numel():
                yield inside, at.inside(after, self.shift, before=False)

    def _stride(self, k: int, size: int) -> int:
        """Samples of the grid for one entry of an intermediate dimension, 0 where there is none."""
        if size < 2:
            return 0
        stride = max(round(self.sizes_of_grid[k] / size), 1)
        fits = size * stride == self.sizes_of_grid[k] if self.circular else True
        return stride if fits and self.shift[k] % stride == 0 else 0

    def _margins(self, strides: list[int]) -> tuple[int, ...]:
        margins = []
        for k, stride in enumerate(strides):
            widest = max((at.margins[k] * at.strides[k] for at in self.outs if at.dims), default=0)
            margins.append(-(-widest // stride) + 1)
        return tuple(margins)


def check_shifts(
    law: str,
    model: Callable[..., Any],
    example: Any,
    roles: Mapping[str, str] | None,
    outputs: str | Sequence[str] | None,
    **options: Any,
) -> tuple[SymmetryReport, ReadingLine]:
    """Hold a model to circular shifts, or to shifts in the interior, of one input; how it is read.

    Args:
        roles: the grid's dimensions where the layers do not say them, `{"x": "grid:-2,-1"}`; the
            grid is then this input, else the first.
        outputs: names of the outputs that are compared.

    Raises:
        TypeError, ValueError: the input is no grid, `roles` names no dimensions of it, or
            `outputs` no outputs.

    >>> x = torch.randn(2, 3, 12)
    >>> report, line = check_shifts("circular_shifts", nn.Conv1d(3, 3, 1), x, None, None, seed=0)
    >>> print(report.verdict, line.role)
    PASS grid:-1
    """
    if isinstance(example, Tokens) or is_pyg_data(example):
        raise TypeError(f"example must be {FORMS}, got {describe(example)}")
    function, values, _, names = parts_of(model, example)
    number, dims = _grid(model, names, values, roles)
    order = (number, *(k for k in range(len(values)) if k != number))
    inputs = tuple(values[k] for k in order)
    if outputs is not None or number:
        arranged, _ = with_outputs(Arranged(function, order, ()), inputs)
        named = [outputs] if isinstance(outputs, str) else outputs or arranged.outputs
        chosen = lookup_all("outputs", named, dict.fromkeys(arranged.outputs))
        function = dataclasses.replace(arranged, outputs=chosen)
    try:
        report = _report(law, function, inputs, dims, options)
    except Exception as error:  # whatever a model of other people raises
        report = verdict_on_error(error)
    grid = f"a grid of {' x '.join(str(inputs[0].shape[d]) for d in dims)} along dimensions {dims}"
    told = [note for note in report.notes if "nothing mixes tokens" not in note]
    coarse = next((note for note in told if note.startswith(ONLY)), "")
    notes = (f"read as {grid}", *told)
    report = dataclasses.replace(report, law=law, subject=name_of(model), notes=notes)
    role = f"grid:{','.join(map(str, dims))}"
    return report, ReadingLine(names[number], describe(inputs[0]), role, grid, hint=coarse)


def _grid(
    model: Any, names: Sequence[str], values: Sequence[Any], roles: Mapping[str, str] | None
) -> tuple[int, tuple[int, ...]]:
    """The number of the input that is a grid, and its dimensions.

    These are (H, W) of images; T of (B, C, T) or (B, T, C) by the layers.
    """
    check_type("roles", roles, Mapping | None, "a dict of names and roles")
    name, role = next(iter((roles or {}).items()), (names[0], ""))
    lookup("roles", name, dict.fromkeys(names))
    number = names.index(name)
    x = values[number]
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2:
        raise TypeError(f"example must be {FORMS}, got {describe(x)} as {name}")
    if roles:
        kind, _, part = str(role).partition(":")
        lookup(f"roles[{name!r}]", kind, {"grid": None})
        dims = tuple(map(int, part.split(","))) if re.fullmatch(r"-\d+(, *-\d+)*", part) else ()
        if len(roles) > 1 or not dims or any(dim < -x.dim() for dim in dims):
            raise ValueError(
                "roles must give the grid's dimensions of one input, as 'grid:-2,-1', "
                f"got {dict(roles)} for shape {tuple(x.shape)}"
            )
        return number, tuple(sorted(set(dims)))
    if x.dim() > 3:
        return number, tuple(range(2 - x.dim(), 0))
    convolves = any(isinstance(module, nn.Conv1d) for module in modules_of(model))
    return number, (-1,) if convolves or x.dim() == 2 else (-2,)


def _report(
    law: str, model: Any, inputs: Inputs, dims: tuple[int, ...], options: dict[str, Any]
) -> SymmetryReport:
    circular = law == "circular_shifts"
    runner = Runner(model, inputs, jitter=options["seed"])
    dtype, _ = runnable(runner, options.get("dtype", "auto"))
    outs, shapes = _follow(runner, dims, dtype)
    grid = tuple(inputs[0].shape[dim] for dim in dims)
    if why := (_without_grid if circular else _without_interior)(outs, shapes, grid):
        return SymmetryReport(law, "", Verdict.INCONCLUSIVE, why, 0.0, 0.0, name_of_dtype(dtype))
    shifts = _shifts(outs, grid, circular)
    interventions = [ShiftIntervention(shift, dims, grid, outs, circular) for shift in shifts]
    report = run_law(law, model, inputs, interventions, swaps=False, **options)
    return dataclasses.replace(report, notes=(*report.notes, *_coarser(outs, dims)))


def _shifts(
    outs: tuple[Follows, ...], grid: tuple[int, ...], circular: bool
) -> list[tuple[int, ...]]:
    """Shifts that every output follows by whole samples."""
    strides = _strides(outs, len(grid))
    axes = [tuple(s if i == k else 0 for i, s in enumerate(strides)) for k in range(len(grid))]
    far = (2, -1) if circular else (-1,)
    return [*axes, *(tuple(by * s for s in strides) for by in far)]


def _strides(outs: tuple[Follows, ...], count: int) -> list[int]:
    return [max((at.strides[k] for at in outs if at.dims), default=1) for k in range(count)]


def _coarser(outs: tuple[Follows, ...], dims: tuple[int, ...]) -> list[str]:
    """A note where an output follows no other shifts than those by multiples of its stride."""
    strides = _strides(outs, len(dims))
    if max(strides) == 1:
        return []
    if len(set(strides)) == 1:
        return [f"{ONLY}{strides[0]} are asked: the output is coarser by {strides[0]}"]
    pairs = zip(strides, dims, strict=True)
    told = " and ".join(f"{stride} along dimension {dim}" for stride, dim in pairs if stride > 1)
    return [f"{ONLY}{told} are asked: the output is coarser there"]


def _follow(
    runner: Runner, dims: tuple[int, ...], dtype: torch.dtype
) -> tuple[tuple[Follows, ...], list[torch.Size]]:
    """How each output follows the grid, its shape, and how far one sample influences it."""
    x = runner.inputs[0]
    with runner.at(dtype) as exact:
        before = runner.run(exact)
        z = exact[0].clone()
        center = [slice(None)] * z.dim()
        for dim in dims:
            center[dim] = slice(z.shape[dim] // 2, z.shape[dim] // 2 + 1)
        z[tuple(center)] = new_content(z, seed=3)[tuple(center)]
        after = runner.run((z, *exact[1:]))
    found = []
    for y, other in zip(before, after, strict=True):
        if y.dim() != x.dim() or any(y.shape[dim] < 2 for dim in dims):
            found.append(Follows())
            continue
        strides = tuple(max(round(x.shape[dim] / y.shape[dim]), 1) for dim in dims)
        found.append(Follows(dims, strides, _margins(y, other, x, dims, strides)))
    return tuple(found), [y.shape for y in before]


def _margins(
    y: Tensor, other: Tensor, x: Tensor, dims: tuple[int, ...], strides: tuple[int, ...]
) -> tuple[int, ...]:
    margins = []
    for dim, stride in zip(dims, strides, strict=True):
        rest = [d for d in range(-y.dim(), 0) if d != dim]
        touched = (y != other).permute(dim, *rest).flatten(1).any(1).nonzero().flatten()
        middle = (x.shape[dim] // 2) / stride - (x.shape[dim] / stride - y.shape[dim]) / 2
        reach = max((abs(float(i) - middle) for i in touched), default=0.0)
        margins.append(int(reach) + 1)
    return tuple(margins)


def _without_grid(
    outs: tuple[Follows, ...], shapes: list[torch.Size], grid: tuple[int, ...]
) -> str:
    """Why an output cannot follow circular shifts, or an empty string."""
    for at, shape in zip(outs, shapes, strict=True):
        sizes = tuple(shape[dim] * s for dim, s in zip(at.dims, at.strides, strict=True))
        if at.dims and sizes != grid:
            return f"an output of shape {tuple(shape)} cannot follow circular shifts: see shifts"
    return ""


def _without_interior(
    outs: tuple[Follows, ...], shapes: list[torch.Size], grid: tuple[int, ...]
) -> str:
    """Why nothing can be compared in the interior, or an empty string."""
    for at, shape in zip(outs, shapes, strict=True):
        if not at.dims:
            return "an output has no grid, and what is pooled depends on borders: circular_shifts"
        if any(shape[d] - 2 * margin < 3 for d, margin in zip(at.dims, at.margins, strict=True)):
            return "there is no interior: borders reach every output; try a larger grid"
    return ""
