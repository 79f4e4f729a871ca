"""The law that the content of padding, and how much of it there is, does not matter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tokennet.testing.engine.content import new_content
from tokennet.testing.engine.draws import Draw
from tokennet.testing.engine.intervention import ContentIntervention, Inputs, Outputs, Unaffected
from tokennet.testing.engine.run import Runner
from tokennet.testing.engine.tolerance import PRECISIONS, first_line
from tokennet.testing.engine.verdict import run_law
from tokennet.testing.engine.wrapped import GradientOf
from tokennet.testing.example.case import Case
from tokennet.testing.example.layout import Layout, of_sets, usual_layouts
from tokennet.testing.example.parts import beyond_zero, keep_tokens, rows, with_more_padding
from tokennet.testing.example.reading import ReadingLine
from tokennet.testing.example.values import describe, features, with_features
from tokennet.testing.laws.law import Law, Options, as_inputs, on_views, with_gradients
from tokennet.testing.report import SymmetryReport, Verdict

Change = Callable[[Inputs], Inputs]

LARGE = 1e3
SCALES = (1.0, LARGE)
"""Sizes of the other content of padding, in units of the input's own."""


def check_padding(
    f: Callable[..., Any],
    inputs: Any,
    real: Tensor,
    *,
    layouts: Sequence[Layout] | None = None,
    **options: Any,
) -> SymmetryReport:
    """Whether the output does not depend on padding: what it holds, and how much there is.

    For your own test of a model that has a mask. The padding is given other content, made
    longer, and cut off where the model accepts that.

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
    return _law(f, inputs, _PaddedSets(real, layouts, _longer(real), _alone(real)), options)


def _law(
    f: Callable[..., Any], inputs: Inputs, sets: _PaddedSets, options: Options
) -> SymmetryReport:
    padded = _padded_sets(sets.real)
    if not padded:
        raise ValueError("real must mark some tokens of a set that is not empty as padding")
    interventions = [sets.other_padding(row, scale) for row in padded[:3] for scale in SCALES]
    runner = Runner(f, inputs)
    notes = []
    sizes = {
        "two more padded tokens in each set": sets.more_padding(padded[0]),
        "a set without its padding": sets.no_padding(padded[0]),
    }
    for what, other_size in sizes.items():
        try:
            with runner.at(torch.float32) as x:
                other_size.compared(runner.run(other_size.apply(x)))
        except Exception as error:  # whatever a model of other people raises at another size
            notes.append(f"not asked of {what}, which was refused: {first_line(error)}")
            continue
        interventions.append(other_size)

    def drawn(draw: Draw) -> ContentIntervention:
        row = padded[draw.seed % len(padded)]
        return sets.other_padding(row, LARGE, seed=len(padded) + draw.seed)

    report = run_law("padding", f, inputs, interventions, drawn=drawn, **options)
    return dataclasses.replace(report, notes=(*report.notes, *notes))


def _padded_sets(real: Tensor) -> list[int]:
    """The sets with padding and with tokens; of (B, T, N), with what is a token in all of T."""
    rows = real if real.dim() > 1 else real[None]
    flat = [row.reshape(-1, row.shape[-1]) for row in rows]
    return [n for n, row in enumerate(flat) if bool(row.all(0).any()) and not bool(row.all())]


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


def _longer(real: Tensor) -> Change:
    """Two more padded tokens in every set."""
    dim = real.dim() - 1

    def lengthened(value: Any) -> Any:
        if not _has_entry_for_each(value, real):
            return value
        end = value.narrow(dim, 0, 2)
        if value.shape == real.shape:  # the mask says that there is no token
            end = value[~real.to(value.device)].flatten()[:1].expand(end.shape)
        return torch.cat([value, end], dim)

    return lambda inputs: tuple(map(lengthened, inputs))


def _alone(real: Tensor) -> Callable[[int, Tensor, Inputs], Inputs]:
    """Some tokens of one set, alone."""

    def alone(row: int, tokens: Tensor, inputs: Inputs) -> Inputs:
        def cut(value: Any) -> Any:
            if not _has_entry_for_each(value, real):
                return value
            value = value[row : row + 1] if real.dim() == 2 else value
            return value.index_select(real.dim() - 1, tokens.to(value.device))

        return tuple(map(cut, inputs))

    return alone


def _has_entry_for_each(value: Any, real: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape[: real.dim()] == real.shape


@dataclass(frozen=True)
class _PaddedSets:
    """The interventions on padding, each with the tokens of one set, which must not change."""

    real: Tensor
    layouts: Sequence[Layout] | None
    longer: Change
    alone: Callable[[int, Tensor, Inputs], Inputs]

    def other_padding(self, row: int, scale: float, seed: int | None = None) -> ContentIntervention:
        """Other content in the padding of every set."""
        seed = row if seed is None else seed

        def change(inputs: Inputs) -> Inputs:
            z = features(inputs[0])
            hidden = ~self.real.to(z.device)
            other = z.clone()
            other[hidden] = new_content(z, seed, scale)[hidden]
            return (with_features(inputs[0], other), *inputs[1:])

        return self._intervention(change, row, self.real.shape)

    def more_padding(self, row: int) -> ContentIntervention:
        """Two more padded tokens in every set."""
        real = self.real
        lead = torch.Size([*real.shape[:-1], real.shape[-1] + 2])
        return self._intervention(self.longer, row, lead)

    def no_padding(self, row: int) -> ContentIntervention:
        """One set alone, its padding cut off."""
        tokens = self._some_tokens(row)
        shape = self.real.shape
        lead = torch.Size([1, *shape[1:-1], len(tokens)] if len(shape) > 1 else [len(tokens)])
        return self._intervention(partial(self.alone, row, tokens), row, lead, alone=True)

    def _tokens(self, row: int) -> Tensor:
        """The indices of the tokens of a set; of a set (T, N), what is a token in all of T."""
        return self._of_set(row).all(0).nonzero().flatten().cpu()

    def _some_tokens(self, row: int) -> Tensor:
        """The same, and what is a token in some of T."""
        return self._of_set(row).any(0).nonzero().flatten().cpu()

    def _of_set(self, row: int) -> Tensor:
        own = self.real[row] if self.real.dim() > 1 else self.real
        return own.reshape(-1, own.shape[-1])

    def _intervention(
        self, change: Callable[[Inputs], Inputs], row: int, lead: torch.Size, alone: bool = False
    ) -> ContentIntervention:
        """A change after which inputs of leading dimensions `lead` hold the set alone, or all."""
        shape, tokens = self.real.shape, self._tokens(row)
        own = torch.isin(self._some_tokens(row), tokens).nonzero().flatten()
        new_row, new_tokens = (0, own) if alone else (row, tokens)
        kept = [Unaffected(shape[-1], tokens, lead[-1], new_tokens)]
        if len(shape) > 1 and shape[0] > 1:
            kept.append(Unaffected(shape[0], torch.tensor([row]), lead[0], torch.tensor([new_row])))
        return ContentIntervention(
            change,
            kept,
            partial(self._of_tokens, new_row, lead, new_tokens),
            wanted=partial(self._of_tokens, row, shape, tokens),
        )

    def _of_tokens(self, row: int, lead: torch.Size, tokens: Tensor, outputs: Outputs) -> Outputs:
        """What outputs of inputs with leading dimensions `lead` say of tokens of a set."""
        layouts = self.layouts or usual_layouts(outputs, lead)
        picked = of_sets(outputs, layouts, row)
        return [layout.of_tokens(y, tokens) for y, layout in zip(picked, layouts, strict=True)]


def _check(case: Case, options: Options, gradient: GradientOf | None) -> SymmetryReport:
    case, example = case.of_sets, case.example
    real = example.real
    assert real is not None

    def longer(inputs: Inputs) -> Inputs:
        return with_more_padding(dataclasses.replace(example, inputs=inputs))

    def alone(row: int, tokens: Tensor, inputs: Inputs) -> Inputs:
        own = dataclasses.replace(example, inputs=inputs)
        if example.num_sets > 1:
            own = dataclasses.replace(own, inputs=rows(own, slice(row, row + 1)))
        return keep_tokens(own, tokens)

    if gradient is not None:
        gradient = GradientOf(case.function)
        report = _law(gradient, case.inputs, _PaddedSets(real, None, longer, alone), options)
        return _with_hidden(report, gradient, case.inputs, real)
    sets = _PaddedSets(real, case.layouts, longer, alone)
    report = _law(case.function, case.inputs, sets, options)
    shifted = beyond_zero(example) if options["draws"] else None
    if report.verdict is not Verdict.PASS or shifted is None:
        return report
    other = _law(case.function, shifted, sets, {**options, "draws": 0})
    return other if other.verdict is Verdict.BROKEN else report


def _with_hidden(
    report: SymmetryReport, gradient: GradientOf, inputs: Inputs, real: Tensor
) -> SymmetryReport:
    """The report, with a note where padding has a gradient."""
    with Runner(gradient, inputs).at(PRECISIONS[report.dtype]) as x:
        found = gradient(*x)
    hidden = found[~real.to(found.device)].abs().max() / found.abs().max()
    if hidden > 1e-9:
        note = f"the gradient of padding is not 0, but {float(hidden):.2g} of the largest"
        report = dataclasses.replace(report, notes=(*report.notes, note))
    return report


def why_not_asked(case: Case) -> str:
    """Why the law of padding cannot be asked of an example with a mask, or ''."""
    real = case.example.real
    if real is None:
        return ""
    if bool(real.all()):
        return "nothing is padding"
    if not _padded_sets(real):
        return "no set has tokens beside its padding"
    return "" if case.of_sets.layouts else "no output has an entry for each set"


def reading_of(case: Case) -> tuple[ReadingLine, ...]:
    """How inputs and outputs were read; masks say why no law of padding is asked of them."""
    told = {}
    for view in case.views:
        number, why = view.example.mask, why_not_asked(view)
        if number is not None and why:
            told[view.example.names[number]] = f"; the law padding is not asked: {why}"
    return tuple(
        dataclasses.replace(line, text=line.text + told[line.name])
        if line.name in told and not line.is_output
        else line
        for line in case.reading
    )


PADDING = on_views(
    Law(
        "the content of padding does not matter",
        lambda case, causal: case.example.real is not None and not why_not_asked(case),
        with_gradients(_check),
        """\
Says: the content of padding, and how much of it there is, does not matter.
Measured: padding gets other content, small and large, is made longer and is cut off; outputs of
real tokens are compared.
Causes: a mask in the scores but not in the mean; a finite mask such as -100 or -1e4; queries
masked in the place of keys; an inverted mask; convolution, norm or position ids that count
padding.
Mend: use -inf, or the dtype's smallest number, in the keys' mask; divide sums by the number of
real tokens; compute positions from the mask.
""",
    )
)
