"""What the fused kernels, in C++ and in Triton, are given and give back."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokennet.ops.edge_plans import EdgePlan
from tokennet.ops.terms import Terms

Outputs = tuple[Tensor, Tensor, Tensor]
"""Output (B, N, H, Cv), sums of features (B, N, H, D), and log-sum-exp (B, N, H); or gradients."""


class Problem(NamedTuple):
    """What a forward pass is given, and the backward pass again."""

    q: Tensor
    """(B, N, H, C)"""
    k: Tensor
    """(B, M, K, C), of K heads that divide H"""
    v: Tensor
    """(B, M, K, Cv)"""
    terms: Terms
    """With a batch: bias (1 or B, E, H) and edge_query (B, N, H, D)."""
    scale: float
    slope: float
    plan: EdgePlan

    def flat(self) -> tuple[Any, ...]:
        """The arguments of an operator, which knows no tuples; see `SCHEMA`."""
        q, k, v, terms, scale, slope, plan = self
        return (q, k, v, *terms, *plan, scale, slope)

    @classmethod
    def from_flat(cls, arguments: Any) -> Problem:
        q, k, v, *rest, scale, slope = arguments
        return cls(q, k, v, Terms(*rest[:_TERMS]), scale, slope, EdgePlan(*rest[_TERMS:]))

    def contiguous(self) -> Problem:
        """As kernels want it: dense in memory, the terms as precise as their sums."""
        q, k, v, terms, scale, slope, plan = self
        terms = Terms(*[x if x is None else x.contiguous() for x in terms.to(self.accumulator)])
        return Problem(q.contiguous(), k.contiguous(), v.contiguous(), terms, scale, slope, plan)

    @property
    def accumulator(self) -> torch.dtype:
        """The type of sums."""
        return torch.promote_types(self.q.dtype, torch.float32)

    @property
    def num_features(self) -> int:
        return 0 if self.terms.edge_attr is None else self.terms.edge_attr.shape[1]

    def empty(self, *shape: int) -> Tensor:
        """Room for sums."""
        return self.q.new_empty(shape, dtype=self.accumulator)

    def empty_outputs(self) -> Outputs:
        """Room for what is computed."""
        q, precise = self.q, self.accumulator
        summed = 0 if self.terms.weight is not None else self.num_features
        out = q.new_empty(*q.shape[:3], self.v.shape[3])
        edge_out = q.new_empty(*q.shape[:3], summed, dtype=precise)
        return out, edge_out, q.new_empty(q.shape[:3], dtype=precise)

    def empty_gradients(self, wanted: Wanted, programs: int, groups: int = 1) -> Gradients:
        """Room for gradients, to be added up by `Gradients.added_up`.

        Args:
            wanted: by edges.
            programs: for each entry of the batch, which sum gradients of weights of their own.
            groups: of heads, which sum gradients of features of their own.
        """
        batch, n, heads, channels = self.q.shape
        edges, d, terms = self.plan.num_edges, self.num_features, self.terms
        additive = terms.weight is not None
        parts, several = (batch * programs, heads) if additive else (1, 0)
        return Gradients(
            self.q.new_empty(self.q.shape),
            self.k.new_empty(self.k.shape),
            self.v.new_empty(self.v.shape),
            bias=self.empty(batch, edges * (terms.bias is not None and wanted.bias), heads),
            weight=self.empty(parts, several, channels),
            edge_attr=self.empty(batch * groups, edges * wanted.edge_attr, d),
            edge_query=self.empty(batch, n, heads, 0 if additive else d),
            edge_key=self.empty(parts if d else 1, d, several, channels),
        )


_TERMS = len(Terms._fields)
DIFFERENTIABLE = 3 + _TERMS
"""Arguments of an operator that may be differentiated by: q, k, v, and the terms."""
TENSORS = DIFFERENTIABLE + len(EdgePlan._fields)
SCHEMA = ", ".join(
    [
        "Tensor q, Tensor k, Tensor v",
        *(f"Tensor? {name}" for name in Terms._fields),
        *(f"Tensor {name}" for name in EdgePlan._fields),
        "float scale, float slope",
    ]
)
"""The arguments of an operator on a problem, in the language of `torch.library`."""


class Wanted(NamedTuple):
    """Which gradients of edges are wanted: they take memory, and time to be written."""

    bias: bool = True
    edge_attr: bool = True


WANTED = Wanted()


class Gradients(NamedTuple):
    """Of everything differentiable in a problem; empty for a term it lacks, or not wanted."""

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor
    weight: Tensor
    edge_attr: Tensor
    edge_query: Tensor
    edge_key: Tensor

    def added_up(self, problem: Problem) -> Gradients:
        """The same, where some are found in parts: one of each program, or entry of the batch."""
        bias = problem.terms.bias
        return self._replace(
            bias=_total(self.bias)[None] if bias is not None and len(bias) == 1 else self.bias,
            weight=_total(self.weight),
            edge_attr=_total(self.edge_attr),
            edge_key=_total(self.edge_key),
        )


def _total(parts: Tensor) -> Tensor:
    """The sum over the first dimension, without a pass over memory where that is of size 1."""
    return parts[0] if len(parts) == 1 else parts.sum(0)
