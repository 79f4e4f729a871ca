"""The verdict on a model that draws random numbers: whether the law holds in distribution."""

from __future__ import annotations

from dataclasses import replace

import torch

from tokennet.testing.engine.chance import Noise, WithNoise, p_value, with_noise
from tokennet.testing.engine.finding import Finding, find
from tokennet.testing.engine.run import Runner
from tokennet.testing.report import Verdict

LEVEL = 1e-3
"""How often a model that obeys a law in distribution is called broken, at most."""
SCREEN, DECIDE = 40, 160
"""Runs on each side: first, and again with other seeds where the first p-value is small."""
SUSPICIOUS = 0.05
SEEDS = 2
TESTED = 3
"""Interventions that are tested at most."""


def in_distribution(found: Finding, seed: int) -> tuple[Finding, int, float]:
    """The verdict on a random model, the number of runs that it needed, and the p-value.

    First the exact way: for the same random numbers in both runs, or those of each token
    moved with it, the law must hold up to rounding. Interventions for which it does not are
    put to a test of the distributions of f(apply(x)) and of what the law expects.
    """
    runner, dtype = found.runner, found.measured.dtype
    count = len(runner.interventions)
    exact, held, state = _exactly(runner, dtype, seed)
    base = replace(exact or found, verdict=Verdict.PASS)
    base = replace(base, errors=replace(base.errors, noise=found.errors.noise, noisy=False))
    runs = 2 * SEEDS * SEEDS * count
    if state:
        return found, 0, float("nan")
    if exact is not None and exact.verdict is Verdict.VACUOUS:
        reason = "random: the output does not depend on the tokens"
        return replace(base, verdict=Verdict.VACUOUS, reason=reason), runs, float("nan")
    if len(held) == count:
        reason = "random: holds exactly where the random numbers move with the tokens"
        return replace(base, reason=reason), runs, float("nan")
    rest = [number for number in range(count) if number not in held][:TESTED]
    chances, num_runs = [], 0
    for number in rest:
        chance = p_value(runner, dtype, number, SCREEN, 10_000 + seed)
        num_runs += 2 * SCREEN
        if chance <= SUSPICIOUS:
            chance = p_value(runner, dtype, number, DECIDE, 20_000 + seed)
            num_runs += 2 * DECIDE
        chances.append(min(1.0, chance * len(rest)))
        if chances[-1] <= LEVEL:
            break
    least = min(chances)
    if least > LEVEL:
        reason = f"random: holds in distribution, p = {least:.2g} in {num_runs} runs"
        return replace(base, reason=reason), num_runs, least
    reason = f"random, and not the same in distribution: p = {least:.2g} in {num_runs} runs"
    return replace(base, verdict=Verdict.BROKEN, reason=reason), num_runs, least


def _exactly(
    runner: Runner, dtype: torch.dtype, seed: int
) -> tuple[Finding | None, set[int], bool]:
    """Which interventions hold exactly for random numbers that are held or moved.

    Returns:
        the evidence where the numbers are moved, the interventions, and whether the model
        differs even for the same random numbers, as one that keeps a state does.
    """
    count, first = len(runner.interventions), None
    held: set[int] = set()
    for moved in (True, False):
        holds = set(range(count))
        for noise in (Noise(seed), Noise(seed + 1)):
            other = replace(
                runner,
                model=WithNoise(runner.model),
                inputs=(*runner.inputs, noise),
                interventions=[with_noise(each, moved=moved) for each in runner.interventions],
            )
            try:
                found = find(other, dtype, [])
            except Exception:  # an operation that does not run under a dispatch mode
                return first, held, False
            if found.errors.noisy:
                return first, held, True
            first = first or found
            holds &= {n for n, excess in enumerate(found.errors.excess) if excess <= 1}
        held |= holds
        if len(held) == count:
            break
    return first, held, False
