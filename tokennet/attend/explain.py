"""What the dispatcher saw."""

from __future__ import annotations

from dataclasses import dataclass

from tokennet.attend.cost import Work


@dataclass(frozen=True)
class Prospect:
    """One backend's view of a call."""

    backend: str
    reason: str | None
    """Why it cannot run the call, or None if it can."""
    work: Work | None
    """What a forward pass would do; None where the backend cannot run the call."""
    seconds: float | None
    """Predicted time, with the backward pass where a gradient will be asked for."""
    note: str | None = None
    """What else the backend does to the call."""

    def __str__(self) -> str:
        if self.work is None or self.seconds is None:
            return f"{self.backend:<10} {self.reason}"
        told = (
            f"{self.backend:<10} {1e3 * self.seconds:10,.3f} ms "
            f"{self.work.flops / 1e6:12,.2f} MFLOP {self.work.bytes / 1e6:12,.2f} MB"
        )
        return told if self.note is None else f"{told}, {self.note}"


@dataclass(frozen=True)
class Explanation:
    """The backend that `attend` takes, why, and how every backend was judged."""

    chosen: str
    why: str
    prospects: list[Prospect]

    def __str__(self) -> str:
        lines = [f"{self.chosen}: {self.why}"]
        for prospect in self.prospects:
            lines.append(f"{'->' if prospect.backend == self.chosen else '  '} {prospect}")
        return "\n".join(lines)
