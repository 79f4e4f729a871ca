"""Verdicts on symmetry laws, and the evidence for them."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch

MARGIN = {torch.float64: 64, torch.float32: 64, torch.float16: 8, torch.bfloat16: 4}
"""Rounding errors of one epsilon that a symmetric model may collect."""
UNDECIDED = {torch.float64: 1e3, torch.float32: 32, torch.float16: 16, torch.bfloat16: 4}
"""How many times the tolerance an error may be before it is called a break."""


class Verdict(StrEnum):
    """What an experiment says about a law.

    - `PASS`: the law holds up to rounding.
    - `BROKEN`: the error is far beyond rounding.
    - `INCONCLUSIVE`: the error lies between, or the model is random or not finite.
    - `VACUOUS`: the law holds because the output does not depend on the tokens at all.
    """

    PASS = "PASS"
    BROKEN = "BROKEN"
    INCONCLUSIVE = "INCONCLUSIVE"
    VACUOUS = "VACUOUS"


def tolerance(dtype: torch.dtype, rounding: float, rounding_dtype: torch.dtype) -> float:
    r"""How large an error a symmetric model can show.

        m eps max(1, r / eps_r)

    with m = 64 in float64 and float32, 8 in float16 and 4 in bfloat16. r is the measured
    relative rounding of the model at a precision eps_r, so that r / eps_r is how much the
    model amplifies rounding, whatever the precision.

    >>> print(f"{tolerance(torch.float64, 1.2e-5, torch.float32):.1e}")  # amplifies 100 times
    1.4e-12
    """
    amplification = rounding / torch.finfo(rounding_dtype).eps
    return MARGIN[dtype] * torch.finfo(dtype).eps * max(1.0, amplification)


@dataclass(frozen=True)
class Location:
    """The first operation whose inputs obey the law and whose output does not."""

    operation: str
    module: str
    file: str
    line: int
    end_line: int
    source: str
    error_in: float = field(compare=False)
    error_out: float = field(compare=False)

    def __str__(self) -> str:
        module = f" in {self.module}" if self.module else ""
        if not self.line:  # TorchScript and the like have no lines
            return f"{self.operation}{module}, which has no lines of Python"
        return f"{self.file}:{self.line}{module}: `{self.source}` ({self.operation})"


@dataclass(frozen=True)
class Witness:
    """The smallest counterexample found.

    `perm`, where the law is about a permutation, moves tokens as `x[..., perm, :]` does;
    `inputs` is what it is applied to, and `script` a few lines that show the break.
    """

    perm: tuple[int, ...] | None
    error: float
    script: str
    inputs: Any = field(repr=False, compare=False, default=None)

    def __str__(self) -> str:
        if self.perm is None:
            return f"other content, with an error of {self.error:.2g}"
        moved = [i for i, p in enumerate(self.perm) if p != i]
        what = (
            f"swapping tokens {moved[0]} and {moved[1]}"
            if len(moved) == 2
            else f"moving {len(moved)} tokens"
        )
        return f"{what} of {len(self.perm)} gives an error of {self.error:.2g}"


@dataclass(frozen=True)
class SymmetryReport:
    """A verdict on one law of one model, with its evidence.

    Errors are relative to the largest output. `error` and `tolerance` are in `dtype`, the
    precision that decided; `float32` holds the error in float32 for each attention kernel,
    `rounding` |f32 - f64|, `signal` how much the change alters the output at all, `noise`
    the difference between two runs on one input.
    """

    law: str
    subject: str
    verdict: Verdict
    reason: str
    error: float
    tolerance: float
    dtype: str
    rounding: float
    signal: float
    noise: float
    float32: dict[str, float] = field(default_factory=dict)
    trials: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    witness: Witness | None = None
    location: Location | None = None

    def __str__(self) -> str:
        lines = [f"{self.subject}: {self.law} {self.verdict}: {self.reason}", self._evidence()]
        if self.location is not None:
            lines.append(f"breaks at {self.location}")
        if self.witness is not None:
            lines.append(f"smallest counterexample: {self.witness}")
        lines += [f"note: {note}" for note in self.notes]
        if self.witness is not None and self.witness.script:
            lines += ["to see it:", textwrap.indent(self.witness.script.rstrip(), "    ")]
        return "\n".join(lines)

    def _evidence(self) -> str:
        parts = [f"error {self.error:.2g} in {self.dtype} (tolerance {self.tolerance:.2g})"]
        parts += [f"{error:.2g} in float32 ({name})" for name, error in self.float32.items()]
        parts += [f"rounding {self.rounding:.2g}", f"signal {self.signal:.2g}"]
        parts += [f"noise {self.noise:.2g}", f"{self.trials} trials", f"{self.seconds:.2f} s"]
        return ", ".join(parts)

    def assert_pass(self) -> SymmetryReport:
        """Return the report if its verdict is PASS.

        Raises:
            AssertionError: with the printed report, for any other verdict.
        """
        if self.verdict is not Verdict.PASS:
            raise AssertionError(str(self))
        return self

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON; what is not finite is a word."""
        witness = None
        if self.witness:
            witness = {key: value for key, value in vars(self.witness).items() if key != "inputs"}
        values = {
            **vars(self),
            "verdict": str(self.verdict),
            "notes": list(self.notes),
            "location": dataclasses.asdict(self.location) if self.location else None,
            "witness": witness,
        }
        return _for_json(values)


def _for_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _for_json(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
