"""From scores of ids to an id: greedy, or drawn with a temperature from the likeliest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How the next id is chosen.

    Raises:
        ValueError: a number out of its range.

    >>> Sampling(top_k=1, temperature=1.0)(torch.tensor([[0.0, 3.0, 1.0]]))
    tensor([1])
    """

    temperature: float = 0.0
    """Divides the scores; 0 takes the likeliest id."""
    top_k: int | None = None
    """Only from the k likeliest."""
    top_p: float | None = None
    """Only from the fewest likeliest that together have probability p (nucleus sampling,
    Holtzman et al., 2019, arXiv 1904.09751)."""
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must be at least 0, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")

    def __call__(self, scores: Tensor) -> Tensor:
        """(B, V) scores to (B,) ids."""
        if self.temperature == 0:
            return scores.argmax(-1)
        probabilities = self.probabilities(scores)
        return torch.multinomial(probabilities, 1, generator=self.generator).squeeze(-1)

    def probabilities(self, scores: Tensor) -> Tensor:
        """(B, V) scores to the probabilities that are drawn from, (B, V)."""
        scores = scores / self.temperature
        if self.top_k is not None and self.top_k < scores.shape[-1]:
            best = scores.topk(self.top_k, dim=-1).indices  # k of them, ties or not
            unlikely = torch.ones_like(scores, dtype=torch.bool).scatter_(-1, best, False)
            scores = scores.masked_fill(unlikely, -torch.inf)
        if self.top_p is not None:
            ordered, order = scores.softmax(-1).sort(dim=-1, descending=True)
            before = ordered.cumsum(-1) - ordered  # probability of all that are likelier
            surplus = torch.zeros_like(before, dtype=torch.bool)
            surplus.scatter_(-1, order, before >= self.top_p)
            scores = scores.masked_fill(surplus, -torch.inf)
        return scores.softmax(-1)
