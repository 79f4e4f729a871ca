"""What the dispatcher saw."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prospect:
    """One backend's view of a call."""

    backend: str
    reason: str | None
    """Why it cannot run the call, or None if it can."""
    predicted_bytes: int
    """Bytes it would move between memory or cache and the cores, forward."""


@dataclass(frozen=True)
class Explanation:
    """The backend that `attend` takes, and how every backend was judged."""

    chosen: str
    prospects: list[Prospect]

    def __str__(self) -> str:
        lines = []
        for prospect in self.prospects:
            mark = "->" if prospect.backend == self.chosen else "  "
            verdict = prospect.reason or f"{prospect.predicted_bytes / 1e6:,.2f} MB"
            lines.append(f"{mark} {prospect.backend:<10} {verdict}")
        return "\n".join(lines)
