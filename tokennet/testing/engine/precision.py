"""The precision in which a law is decided."""

from __future__ import annotations

import torch

from tokennet.testing.engine.run import Experiment
from tokennet.testing.engine.sandbox import LOW_PRECISION
from tokennet.testing.example.values import features


def name_of_dtype(dtype: torch.dtype) -> str:
    """`float64` for torch.float64."""
    return str(dtype).removeprefix("torch.")


PRECISIONS = {
    name_of_dtype(dtype): dtype
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
}


def precision_of(dtype: str | torch.dtype) -> torch.dtype | None:
    """The precision that is to decide, None for "auto".

    Raises:
        ValueError: it is none that is known.
    """
    if dtype == "auto":
        return None
    found = PRECISIONS.get(dtype) if isinstance(dtype, str) else dtype
    if found not in PRECISIONS.values():
        raise ValueError(f"dtype must be 'auto' or among {sorted(PRECISIONS)}, got {dtype!r}")
    return found


def runnable(experiment: Experiment, dtype: torch.dtype | None) -> tuple[torch.dtype, list[str]]:
    """The precision to decide in, float64 where the model runs in it; and what to say of it.

    Raises:
        whatever the model raises in the precision of its input too.
    """
    if dtype is not None:
        return dtype, []
    try:
        with experiment.at(torch.float64) as x:
            lower = [y.dtype for y in experiment.run(x) if y.dtype in LOW_PRECISION]
        if not lower:
            return torch.float64, []
        text = f"the output is {name_of_dtype(lower[0])} for an input in float64"
    except Exception as error:  # whatever a model of other people raises in float64
        text = first_line(error)
    given = features(experiment.inputs[0]).dtype
    lower_dtype = given if given in LOW_PRECISION else torch.float32
    with experiment.at(lower_dtype) as x:
        experiment.run(x)
    return lower_dtype, [f"cannot run in float64 ({text}); decided in {name_of_dtype(lower_dtype)}"]


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
