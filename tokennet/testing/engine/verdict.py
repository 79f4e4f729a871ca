"""From runs to a verdict, and from a break to its place in the code and smallest example."""

from __future__ import annotations

import functools
import math
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypedDict, Unpack

import torch
from torch import nn

from tokennet.testing.diagnose.localize import localize, lowered_at
from tokennet.testing.diagnose.script import script_of_two_runs
from tokennet.testing.diagnose.shrink import counterexample_of, smallest_counterexample
from tokennet.testing.diagnose.source import is_internal, location_at
from tokennet.testing.engine.content import is_of_example
from tokennet.testing.engine.distribution import in_distribution
from tokennet.testing.engine.draws import COUNT, Draw, Draws, as_draws
from tokennet.testing.engine.finding import Finding, find
from tokennet.testing.engine.intervention import Inputs, Intervention
from tokennet.testing.engine.reach import modules_of
from tokennet.testing.engine.rounding import Ties, explained_by_rounding
from tokennet.testing.engine.run import Runner, accepted_content, error_of
from tokennet.testing.engine.tolerance import UNDECIDED, first_line, name_of_dtype, runnable
from tokennet.testing.engine.wrapped import Wrapped
from tokennet.testing.report import Counterexample, Location, SymmetryReport, Verdict

UNBROKEN = (Verdict.PASS, Verdict.INCONCLUSIVE)
"""On the example: a law that is tried on other content."""
KEPT = 2**20
"""Outputs of at most this number of entries are kept for each draw, as laws make the same draws."""
OWN_TOKENS = "the model refuses normal numbers: other content is the example's own tokens"
CALLS = ("call_model", "call_with_autograd")
"""Functions of `engine.run` below which an error is the model's."""


class Extra(TypedDict, total=False):
    """What `run_law` needs to know of some laws.

    Attributes:
        swaps: transpositions are in the group, so that a permutation may be reduced to one;
            True by default.
        noise_breaks: the law is that two runs agree, so that a random model breaks it.
        drawn: the intervention for a draw; by default those of the law, in turn.
    """

    swaps: bool
    noise_breaks: bool
    drawn: Callable[[Draw], Intervention]


def run_law(
    law: str,
    model: Callable[..., Any],
    inputs: Inputs,
    interventions: Sequence[Intervention],
    *,
    dtype: str | torch.dtype = "auto",
    jitter: bool = True,
    seed: int = 0,
    draws: int | Draws = COUNT,
    **given: Unpack[Extra],
) -> SymmetryReport:
    """Run a law's interventions and say what they show.

    float64 decides where the model can run in it, else the precision of the input; see
    `tolerance` and `Verdict`.

    Args:
        draws: how often a law that holds is tried on other content.
        given: what is particular to the law.

    Raises:
        whatever the model raises on the inputs as they were given.
        TypeError, ValueError: `draws` is no number of draws.
    """
    started = time.perf_counter()
    search = as_draws(draws, seed)
    runner = Runner(model, inputs, interventions, jitter=seed if jitter else None)
    noise_breaks = given.get("noise_breaks", False)
    counterexample, location = None, None
    with accepted_content(model, inputs):
        precision, notes = runnable(runner, dtype)
        found, num_draws, chance = _decided(runner, precision, search, seed, notes, given)
        if found.verdict is Verdict.BROKEN:
            location = _localized(found, notes)
            counterexample = _counterexample(found, given.get("swaps", True), notes)
        if is_of_example():
            notes.append(OWN_TOKENS)
    if not found.measured.mixes:
        notes.append("each output depends on its own token alone: nothing mixes tokens")
    errors = found.errors
    return SymmetryReport(
        law=law,
        subject=name_of(model),
        verdict=found.verdict,
        reason=found.reason,
        error=errors.noise if noise_breaks else errors.error,
        tolerance=errors.tolerance,
        dtype=name_of_dtype(found.measured.dtype),
        rounding=errors.rounding,
        signal=found.measured.signal,
        noise=errors.noise,
        float32=errors.float32,
        runs=len(interventions),
        draws=num_draws,
        p_value=chance,
        seconds=time.perf_counter() - started,
        notes=tuple(dict.fromkeys(notes)),
        counterexample=counterexample,
        location=location,
    )


def _decided(
    runner: Runner,
    precision: torch.dtype,
    search: Draws,
    seed: int,
    notes: list[str],
    given: Extra,
) -> tuple[Finding, int, float]:
    """The verdict on the example, and then in distribution or on draws; their number, a p-value."""
    noise_breaks = given.get("noise_breaks", False)
    found = _lowered(find(runner, precision, notes, noise_breaks=noise_breaks), notes)
    num_draws, chance = 0, math.nan
    is_random = found.errors.noisy or found.measured.is_random
    if is_random and found.measured.finite and not noise_breaks:
        found, num_draws, chance = in_distribution(found, seed)
    elif found.measured.finite and not noise_breaks and found.verdict in UNBROKEN:
        found, num_draws = _on_draws(found, search, given.get("drawn"), notes)
    if found.verdict is Verdict.BROKEN and not found.errors.noisy:
        found = explained_by_rounding(found, notes)
    return found, num_draws, chance


def verdict_on_error(error: Exception) -> SymmetryReport:
    """BROKEN: the model runs on the example, and raises on what should be the same.

    Raises:
        the error itself, if it is not the model's.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if not any(frame.name in CALLS for frame in frames):
        raise error
    name = f"raises {type(error).__name__}"
    own = [frame for frame in reversed(frames) if not is_internal(frame.filename)]
    lines = [(frame.filename, frame.lineno or 0) for frame in own]
    return SymmetryReport(
        law="",
        subject="",
        verdict=Verdict.BROKEN,
        reason=f"{name}: {first_line(error)}",
        error=float("inf"),
        tolerance=0.0,
        dtype="float64",
        location=location_at(name, lines, error_out=1.0),
    )


def name_of(model: Any) -> str:
    """The name of a model for messages.

    >>> name_of(nn.Linear(2, 2)), name_of(functools.partial(torch.softmax, dim=-1))
    ('Linear', 'softmax')
    """
    if isinstance(model, nn.Module):
        return type(model).__name__
    if isinstance(model, functools.partial):
        return name_of(model.func)
    if isinstance(model, Wrapped):
        return name_of(model.function)
    return getattr(model, "__name__", type(model).__name__)


def _lowered(found: Finding, notes: list[str]) -> Finding:
    """Decided again in float32, where a small break in float64 may be due to lower precision."""
    small = found.measured.dtype == torch.float64 and found.errors.error < 1e-2
    if found.verdict is Verdict.BROKEN and small and not found.in_float32_only:
        line = lowered_at(found.runner)
        if line:
            notes.append(f"computes in less than float64 at {line}; decided in float32")
            return find(found.runner, torch.float32, notes)
    return found


def _on_draws(
    found: Finding,
    search: Draws,
    drawn: Callable[[Draw], Intervention] | None,
    notes: list[str],
) -> tuple[Finding, int]:
    """What a law that holds on the example shows on other content, and on how much."""
    runner, dtype, interventions = found.runner, found.measured.dtype, found.runner.interventions
    few = sum(y.numel() for y in found.measured.outputs) <= KEPT
    tried: list[Draw] = []
    refused: dict[Draw, str] = {}
    broken: dict[Draw, Finding] = {}

    def on(draw: Draw) -> Runner:
        changed = interventions[draw.seed % len(interventions)] if drawn is None else drawn(draw)
        return replace(runner, inputs=draw.content(runner.inputs), interventions=[changed])

    def fails(draw: Draw) -> bool:
        other = on(draw)
        try:
            with other.at(dtype) as x:  # two runs, and all others only where they look broken
                y = runner.remembered((draw, dtype), lambda: other.run(x)) if few else other.run(x)
                changed = other.run(other.interventions[0].apply(x))
                tried.append(draw)
                error = error_of(other.interventions[0], y, found.measured.outputs, changed)
            if error <= found.errors.tolerance:
                return False
            if _chooses_by_index(other, dtype):
                return False
            again = find(other, dtype, [])
        except Exception as raised:  # whatever a model of other people raises on other content
            refused[draw] = first_line(raised)
            return False
        if again.verdict is Verdict.BROKEN and not again.in_float32_only:
            broken[draw] = again
        return draw in broken

    first = search.first(fails)
    if refused:
        told = next(iter(refused.values()))
        notes.append(f"{len(refused)} draws of other content were refused: {told}")
    if first is None:
        return found, len(set(tried))
    notes.append(
        f"not broken on the example; breaks on content of {first.scale:g} times its size, seed "
        f"{first.seed}: draw {len(set(tried))}"
    )
    return broken[first], len(set(tried))


def _chooses_by_index(runner: Runner, dtype: torch.dtype) -> bool:
    """Whether numbers tie on this content, as scores do that a large input saturates."""
    with runner.at(dtype) as x, Ties(torch.finfo(dtype).eps) as ties:
        runner.run(x)
    return ties.found


def _localized(found: Finding, notes: list[str]) -> Location | None:
    """Where it breaks; the verdict stands where this fails."""
    runner, errors = found.runner, found.errors
    followed = [n for n in found.broken if runner.interventions[n].can_be_followed]
    number = next(iter(followed or found.broken))
    size = errors.noise if errors.noisy else found.error
    # Between rounding and the break, so that neither hides the other.
    between = max(found.tolerance, min(1e-3, (found.tolerance * min(size, 1.0)) ** 0.5))
    if found.in_float32_only:
        notes.append("the line and the script are those of float32")
    try:
        with runner.at(found.dtype) as x:
            return localize(runner, x, runner.interventions[number], between)
    except Exception as error:  # operations that cannot be watched
        notes.append(f"not localized: {first_line(error)}")
        return None


def _counterexample(found: Finding, swaps: bool, notes: list[str]) -> Counterexample | None:
    """The smallest example that shows the break; the verdict stands where this fails."""
    runner = found.runner
    if found.errors.noisy:
        text = script_of_two_runs(runner.model, runner.inputs)
        return Counterexample(None, found.errors.noise, text, runner.inputs)
    worst = runner.interventions[found.broken[0]]
    hidden = False
    if runner.jitter is not None and any(modules_of(runner.model)):
        given = replace(runner, jitter=None)
        with given.at(found.dtype) as x:
            hidden = given.error(x, worst) <= found.tolerance
    if hidden:
        notes.append(
            "holds for the parameters as given, and breaks once they are changed a little: "
            "values such as zeros hide the break"
        )
    threshold = found.tolerance * UNDECIDED[found.rounds_in]
    try:
        with runner.at(found.dtype) as x:
            return smallest_counterexample(
                runner, x, worst, threshold=threshold, swaps=swaps, jittered=hidden
            )
    except Exception as error:  # sizes and content that the model refuses
        notes.append(f"no smaller example: {first_line(error)}")
    with runner.at(found.dtype) as x:
        return counterexample_of(runner, x, worst, jittered=hidden, seeded=False)
