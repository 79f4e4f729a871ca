"""Of what kind each output of a model is: said in `outputs`, or else the kind that holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tokennet.checks import lookup_all
from tokennet.testing.engine.differences import difference
from tokennet.testing.engine.intervention import Inputs, Outputs
from tokennet.testing.engine.run import Runner
from tokennet.testing.engine.tolerance import runnable
from tokennet.testing.geometry.intervention import MotionIntervention
from tokennet.testing.geometry.motions import Motion
from tokennet.testing.geometry.reading import Reading
from tokennet.testing.geometry.representations import Representation

HOLDS = 1e-3
"""A kind with a smaller error than this is what the output is; a small break remains visible."""


ROUNDING = 2**19
"""Errors below this number of epsilons, 1e-10 in float64, are no difference between kinds."""


def chosen(reading: Reading, outputs: Any) -> tuple[Reading, dict[str, Representation]]:
    """The reading with the outputs that are asked for, and the kinds that are said for them.

    Args:
        outputs: a name, a list of names, or a dict from names to kinds; None for all.

    Raises:
        TypeError, ValueError: an output or a kind is unknown, or does not fit.
    """
    if outputs is None:
        return reading, {}
    names = [outputs] if isinstance(outputs, str) else outputs
    names = [*names] if isinstance(names, Mapping) else names
    names = lookup_all("outputs", names, dict.fromkeys(reading.function.outputs))
    said = {}
    if isinstance(outputs, Mapping):
        said = {
            name: Representation.parse(f"outputs[{name!r}]", role) for name, role in outputs.items()
        }
    compared = tuple(n for n in names if n not in said or said[n].name != "other")
    if not compared:
        raise ValueError("outputs must name at least one output that is compared, got none")
    function = dataclasses.replace(reading.function, outputs=compared)
    return dataclasses.replace(reading, function=function), said


def output_kinds(
    reading: Reading,
    said: Mapping[str, Representation],
    declared: Sequence[str],
    motions: Sequence[Motion],
    dtype: str | torch.dtype = "auto",
) -> tuple[Representation, ...]:
    """The kind of each output: said, declared as irreps, or the first that the motions allow.

    Motions of one law after the other leave fewer kinds; one that no kind obeys leaves all.

    Args:
        declared: irreps of the outputs.
        dtype: the precision that decides, as in `check`.

    Raises:
        ValueError: a kind that was said does not fit the output.
    """
    runner = Runner(reading.function, reading.inputs)
    with runner.at(runnable(runner, dtype)[0]) as x:
        before = runner.run(x)
        candidates = [
            _candidates(
                name, y, said.get(name), declared[k] if k < len(declared) else "", reading.n
            )
            for k, (name, y) in enumerate(zip(reading.function.outputs, before, strict=True))
        ]
        for motion in motions if any(len(kinds) > 1 for kinds in candidates) else ():
            after = _moved(runner, x, reading, motion)
            for k, (y, other) in enumerate(zip(before, after or [], strict=False)):
                candidates[k] = _that_hold(candidates[k], y, other, motion)
    return tuple(kinds[0] for kinds in candidates)


def _that_hold(
    kinds: list[Representation], y: Tensor, other: Tensor, motion: Motion
) -> list[Representation]:
    """The kinds that a motion allows; where it allows none, the nearest first."""
    errors = [difference([kind.apply(y, motion)], [other]) for kind in kinds]
    best = errors.index(min(errors))
    # Far from the origin a translation is small too: only kinds that hold about as well remain.
    rounding = ROUNDING * torch.finfo(other.dtype).eps
    limit = min(HOLDS, max(rounding, 1e3 * errors[best]))
    held = [kind for kind, error in zip(kinds, errors, strict=True) if error < limit]
    if held or not errors[best] < errors[0] / 10:
        return held or kinds
    return [kinds[best], *kinds[:best], *kinds[best + 1 :]]


def _moved(runner: Runner, x: Inputs, reading: Reading, motion: Motion) -> Outputs | None:
    try:
        return runner.run(MotionIntervention(motion, reading.kinds, ()).apply(x))
    except Exception:  # a model that raises here breaks the law, and the law reports it
        return None


def _candidates(
    name: str, y: Tensor, said: Representation | None, declared: str, n: int
) -> list[Representation]:
    if said is not None:
        if not said.fits(y, n):
            raise ValueError(
                f"outputs[{name!r}] is no {said} of {n} coordinates, got shape {tuple(y.shape)}"
            )
        return [said]
    if declared and Representation(declared).fits(y, n):
        return [Representation(declared)]
    names = ["vector", "points", "pseudovector"] if y.dim() and y.shape[-1] == n else []
    found = [Representation(kind) for kind in names]
    if y.dim() > 1 and y.shape[-2:] == (n, n):
        found.insert(0, Representation("matrix"))
    if y.dim() > 1 and y.shape[-2] == n and y.shape[-1] != n:
        found += [Representation(kind, -2) for kind in ("vector", "points", "pseudovector")]
    found += [Representation("scalar"), Representation("pseudoscalar")]
    if y.dim() and y.shape[-1] != n and y.shape[-1] % n == 0:
        found += [Representation(kind) for kind in ("vector", "points", "pseudovector")]
    return found
