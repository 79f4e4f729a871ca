"""What `check` and the check functions return: a verdict on a law, and the evidence for it."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

TENSORS = ("inputs", "changed", "expected", "got")
"""What of a counterexample is not in `to_dict`."""


class Verdict(StrEnum):
    """What the runs of a model say about a law. Made by `check`, in a report.

    - `PASS`: the law holds up to rounding.
    - `BROKEN`: the error is far beyond rounding.
    - `INCONCLUSIVE`: the error lies between, rounding decides, the model keeps a state, or is
      not finite; or how the example is to be read decides.
    - `VACUOUS`: the law holds because the output does not depend on the tokens at all.
    """

    PASS = "PASS"
    BROKEN = "BROKEN"
    INCONCLUSIVE = "INCONCLUSIVE"
    VACUOUS = "VACUOUS"


@dataclass(frozen=True)
class Location:
    """The operation whose inputs obey the law and whose output does not. Made by `check`."""

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
class Counterexample:
    """The smallest counterexample found. Made by `check`.

    `perm`, where the law is about a permutation, moves tokens as `x[..., perm, :]` does, or
    edges, as `things` says; `inputs` is what it is applied to, and `script` a few lines that
    show the break. `words` say what another law does, as "rotating by 90 degrees about z". On the
    inputs `changed` the model should give `expected` and gives `got`; None where that was not
    measured.
    """

    perm: tuple[int, ...] | None
    error: float
    script: str
    inputs: Any = field(repr=False, compare=False, default=None)
    changed: Any = field(repr=False, compare=False, default=None)
    expected: Any = field(repr=False, compare=False, default=None)
    got: Any = field(repr=False, compare=False, default=None)
    words: str = ""
    things: str = "tokens"

    def __str__(self) -> str:
        if self.words:
            return f"{self.words} gives an error of {self.error:.2g}"
        if self.perm is None:
            return f"other content, with an error of {self.error:.2g}"
        moved = [i for i, p in enumerate(self.perm) if p != i]
        what = f"moving {len(moved)} {self.things}"
        if len(moved) == 2:
            what = f"swapping {self.things} {moved[0]} and {moved[1]}"
        return f"{what} of {len(self.perm)} gives an error of {self.error:.2g}"


@dataclass(frozen=True)
class SymmetryReport:
    """A verdict on one law of one model, with its evidence. Made by `check` and its kin.

    Errors are relative to how much tokens alter the output, channel by channel. `error` and
    `tolerance` are in `dtype`, the precision that decided; `float32` holds the error in float32
    for each attention kernel, `rounding` |f32 - f64|, `signal` how much the intervention alters
    the output at all, `noise` the difference between two runs on one input (NaN where they were
    not measured).
    `draws` is on how much other content the law was tried; of a model that draws random
    numbers it is the number of runs, and `p_value` that of the test of distributions, where
    one was needed. `question` is asked where a law is broken as the example was read, and holds
    as it may be meant: the roles that decide it.
    """

    law: str
    subject: str
    verdict: Verdict
    reason: str
    error: float
    tolerance: float
    dtype: str
    rounding: float = math.nan
    signal: float = math.nan
    noise: float = math.nan
    float32: dict[str, float] = field(default_factory=dict)
    runs: int = 0
    draws: int = 0
    p_value: float = math.nan
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    counterexample: Counterexample | None = None
    location: Location | None = None
    question: str = ""

    def asked(self, question: str) -> SymmetryReport:
        """INCONCLUSIVE, with a question about the reading as the reason.

        What the runs showed is of the reading that is in doubt.
        """
        shown: dict[str, Any] = {"notes": (), "counterexample": None, "location": None}
        verdict = Verdict.INCONCLUSIVE
        return replace(self, verdict=verdict, reason=question, question=question, **shown)

    def __str__(self) -> str:
        lines = [f"{self.subject}: {self.law} {self.verdict}: {self.reason}", self._evidence()]
        if self.location is not None:
            lines.append(f"breaks at {self.location}")
        if self.counterexample is not None:
            lines.append(f"smallest counterexample: {self.counterexample}")
        lines += [f"note: {note}" for note in self.notes]
        if self.counterexample is not None and self.counterexample.script:
            lines += ["to see it:", textwrap.indent(self.counterexample.script.rstrip(), "    ")]
        return "\n".join(lines)

    def _evidence(self) -> str:
        parts = [f"error {self.error:.2g} in {self.dtype} (tolerance {self.tolerance:.2g})"]
        parts += [f"{error:.2g} in float32 ({name})" for name, error in self.float32.items()]
        parts += [f"rounding {self.rounding:.2g}", f"signal {self.signal:.2g}"]
        parts += [f"noise {self.noise:.2g}", f"{self.runs} runs", f"{self.draws} draws"]
        parts += [f"{self.seconds:.2f} s"]
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
        values = {**vars(self), "verdict": str(self.verdict), "notes": list(self.notes)}
        for name in ("location", "counterexample"):
            part = values[name]
            values[name] = part and {k: v for k, v in vars(part).items() if k not in TENSORS}
        return _for_json(values)


def _for_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _for_json(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
