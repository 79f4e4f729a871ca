"""Token graphs from and to boolean masks and FlexAttention `mask_mod`s."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokennet.checks import check_size, check_type, shown
from tokennet.graphs.algebra import TokenGraph
from tokennet.graphs.base import as_mask
from tokennet.graphs.edges import Edges

if TYPE_CHECKING:
    import numpy as np

MaskMod = Callable[[Any, Any, Any, Any], Tensor]


def from_mask(mask: Tensor | np.ndarray) -> Edges:
    """Return the graph of a boolean mask (N, M), True where target i attends to source j.

    This is the meaning of `attn_mask` in `scaled_dot_product_attention`. In
    `nn.MultiheadAttention` a boolean mask means the opposite: pass `~attn_mask`.

    Raises:
        TypeError: the mask is not boolean.
        ValueError: it does not have two dimensions.

    >>> from_mask(torch.ones(2, 2).tril().bool()).edge_index().tolist()
    [[0, 0, 1], [0, 1, 1]]
    """
    if not isinstance(mask, Tensor) and getattr(mask, "dtype", None) == "bool":  # of numpy
        mask = torch.as_tensor(mask)
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = str(mask.dtype) if isinstance(mask, Tensor) else shown(mask)
        raise TypeError(f"mask must be a boolean tensor, got {got}")
    if mask.dim() != 2:
        raise ValueError(f"mask must have shape (N, M), got {tuple(mask.shape)}")
    target, source = mask.nonzero(as_tuple=True)
    return Edges(torch.stack([source, target]), *mask.shape)


def from_mask_mod(mask_mod: MaskMod, n: int, m: int | None = None) -> TokenGraph:
    """Return the graph of a FlexAttention `mask_mod(batch, head, query, key)`.

    One graph serves all batches and heads, so `mask_mod` must not depend on batch or head: it
    is tried for some of them. Its arguments are tensors, so that it must use `&`, `|`, `~`
    rather than `and`, `or`, `not`.

    Raises:
        ValueError: `mask_mod` does not accept four index tensors, is not elementwise, or depends
            on batch or head.

    >>> from_mask_mod(lambda b, h, i, j: i >= j, 4)
    from_mask_mod(<lambda>, 4): 4 tokens, 10 edges, density 0.625
    """
    if not callable(mask_mod):
        raise TypeError(f"mask_mod must be a function, got {shown(mask_mod)}")
    graph = MaskModGraph(mask_mod, n, m)
    try:
        graph.call(torch.zeros(2, 1, dtype=torch.long), torch.zeros(1, 3, dtype=torch.long))
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            "mask_mod must take (batch, head, query, key) and be elementwise, with & and | for "
            f"`and` and `or`: {error}"
        ) from error
    for argument, way_out in _WAYS_OUT.items():
        if graph.depends_on(argument):
            raise ValueError(
                f"mask_mod must be the same for every {argument}, since one graph serves all; "
                f"got one that depends on it: {way_out}"
            )
    return graph


_WAYS_OUT = {
    "batch": "for padding or documents, batch the sets without it, Tokens.batch(sets)",
    "head": "make a graph for each value of head, and attend with each on its own heads",
}
_TRIED = (1, 2, 3, 4, 8, 16, 32)
_SAMPLE = 64


def _sample(size: int) -> Tensor:
    """All of 0 .. size - 1, or some from both ends and between."""
    if size <= _SAMPLE:
        return torch.arange(size)
    ends = torch.arange(_SAMPLE // 4)
    generator = torch.Generator().manual_seed(0)
    between = torch.randint(size, (_SAMPLE // 2,), generator=generator)
    return torch.cat([ends, between, size - 1 - ends])


class MaskModGraph(TokenGraph):
    """The graph of a FlexAttention `mask_mod`; see `from_mask_mod`."""

    def __init__(self, mask_mod: MaskMod, n: int, m: int | None = None) -> None:
        super().__init__(check_size("n", n), None if m is None else check_size("m", m))
        self.mask_mod = mask_mod

    def call(self, i: Tensor, j: Tensor) -> Tensor:
        zero = torch.zeros_like(i)
        return self.mask_mod(zero, zero, i, j)

    def depends_on(self, argument: str) -> bool:
        """Whether another "batch" or "head" than 0 gives another mask, on a sample of pairs.

        -1 is the last of a table, 0 where it has but one. Where nothing can be on a GPU, which an
        index out of range would stop, others are tried, up to the first that is out of range.
        """
        i, j = (_sample(size) for size in (self.num_targets, self.num_sources))
        i, zero = i[:, None], torch.zeros(1, 1, dtype=torch.long)
        first = torch.as_tensor(self.mask_mod(zero, zero, i, j))
        for value in (-1,) if torch.cuda.is_initialized() else _TRIED:
            other = torch.full_like(zero, value)
            batch, head = (other, zero) if argument == "batch" else (zero, other)
            try:
                mask = torch.as_tensor(self.mask_mod(batch, head, i, j))
            except IndexError:
                return False
            if not torch.equal(mask, first):
                return True
        return False

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        return as_mask(self.call(i, j), i, j)

    def _name(self) -> str:
        name = getattr(self.mask_mod, "__name__", "mask_mod")
        return f"from_mask_mod({name}, {self._size()})"


def to_mask_mod(graph: TokenGraph) -> MaskMod:
    """Return the FlexAttention `mask_mod` of a graph.

    >>> from tokennet import Causal
    >>> query, key = torch.tensor([0, 1]), torch.tensor([1, 0])
    >>> to_mask_mod(Causal(2))(torch.tensor(0), torch.tensor(0), query, key)
    tensor([False,  True])
    """
    check_type("graph", graph, TokenGraph, "a token graph")

    def mask_mod(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return graph.attends(query, key)

    return mask_mod
