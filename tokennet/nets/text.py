"""`TextNet`, a net on ids of text, and `MaskedLanguageModel`; decoders are in `decoder`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tokennet.checks import checked
from tokennet.graphs import Full, TokenGraph
from tokennet.layer import TokenLayer
from tokennet.nets.embedding import one_column, rows_of
from tokennet.nets.evaluating import evaluating
from tokennet.nets.net import TokenNet
from tokennet.nets.readout import Readout
from tokennet.tokens import Tokens

_GRAPHS_KEPT = 16

Ids = Tensor | Sequence[int] | Sequence[Sequence[int]] | Sequence[Tensor]


class TextNet(TokenNet):
    """A `TokenNet` that accepts ids as well: (..., N), or a list of sequences of any lengths.

    Use it to classify or label texts; `Decoder` and `MaskedLanguageModel` generate them.

    Args:
        layers: the first is an `Embedding`, or another that accepts integers (..., N, 1).
        readout: as for `TokenNet`.
        graph: from the number of tokens to their graph, for ids that come without one; that of
            `default_graph`, `Full`, by default.
        max_length: the largest number of tokens that the layers have positions of; None for any.
        pos: from the number of tokens to their positions (N, P), for ids that come without.

    >>> from tokennet.nets import Embedding, TokenReadout
    >>> net = TextNet([Embedding(10, 8)], TokenReadout(8, 3))
    >>> net(torch.tensor([[1, 2, 3], [4, 5, 6]])).shape
    torch.Size([2, 3, 3])
    >>> net([[1, 2, 3], [4, 5]]).shape
    torch.Size([5, 3])
    """

    default_graph: Callable[[int], TokenGraph] = Full

    @checked()
    def __init__(
        self,
        layers: Sequence[TokenLayer | TokenNet],
        readout: Readout | None = None,
        graph: Callable[[int], TokenGraph] | None = None,
        max_length: int | None = None,
        pos: Callable[[int], Tensor] | None = None,
    ) -> None:
        super().__init__(layers, readout)
        self.graph = self.default_graph if graph is None else graph
        self.max_length, self.pos = max_length, pos
        self._graphs: dict[int, TokenGraph] = {}
        self._graphs_are_of: Any = self.graph
        self._check_graph_is_function()

    def graph_on(self, num_tokens: int) -> TokenGraph:
        """The net's graph on this number of tokens; the last few of `self.graph` are kept."""
        if self._graphs_are_of is not self.graph:
            self._check_graph_is_function()
            self._graphs, self._graphs_are_of = {}, self.graph
        graphs = self._graphs
        graph = graphs.get(num_tokens)
        if graph is None:
            if len(graphs) >= _GRAPHS_KEPT:
                graphs.pop(next(iter(graphs)), None)
            graph = graphs[num_tokens] = self.graph(num_tokens)
        return graph

    def _check_graph_is_function(self) -> None:
        if not callable(self.graph):
            raise TypeError(
                "graph must be a function from a number of tokens to their graph, such as "
                f"{type(self).__name__} has by default; got {self.graph!r}"
            )

    def tokens(self, given: Ids | Tokens) -> Tokens:
        """Ids as tokens on the net's graph; sequences in a list as a ragged batch."""
        if isinstance(given, Tokens):
            return given
        if isinstance(given, Tensor):
            z = one_column(given)
            num_tokens = z.shape[-2]
            pos = None if self.pos is None else self.pos(num_tokens).to(z.device)
            return Tokens(z, self.graph_on(num_tokens), pos)
        rows = rows_of("ids", given, self._device)
        if isinstance(rows, Tensor):
            return self.tokens(rows)
        if not rows:
            raise ValueError("ids must hold at least one sequence, got none")
        return Tokens.batch([self.tokens(row) for row in rows])

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device


class MaskedLanguageModel(TextNet):
    """A net that predicts masked ids from the ids before and after them (BERT).

    Use it to pretrain by `mask_tokens` and to fill gaps. Devlin et al., 2018 (arXiv 1810.04805).
    Arguments as for `TextNet`.

    >>> from tokennet.models import bert
    >>> net = bert(vocab=10, dim=8, depth=1, num_heads=2, max_length=12)
    >>> filled = net.fill(torch.tensor([1, 9, 3]), mask=9)
    >>> filled[[0, 2]].tolist()
    [1, 3]
    """

    def fill(self, ids: Ids, mask: int) -> Any:
        """Ids (..., N) with the most probable id in place of each `mask`; of a list, a list."""
        rows = rows_of("ids", ids, self._device)
        if not isinstance(rows, Tensor):
            return [self.fill(row, mask) for row in rows]
        with evaluating(self):
            return torch.where(rows == mask, self(rows).argmax(-1), rows)


def mask_tokens(
    ids: Tensor,
    mask: int,
    vocab: int,
    *,
    probability: float = 0.15,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Mask ids at random, as BERT is trained: inputs, and targets for `cross_entropy`.

    Of the chosen ids, 80 % become `mask`, 10 % a random id, 10 % stay. Targets are -100, which
    `cross_entropy` ignores, where an id was not chosen.

    Args:
        ids: (..., N) integers.
        mask: the id of the mask.
        vocab: ids are 0 .. vocab - 1.
        probability: of an id being chosen.

    >>> inputs, targets = mask_tokens(torch.arange(100), mask=100, vocab=100, probability=0.5)
    >>> bool(((targets == -100) | (targets == torch.arange(100))).all())
    True
    """
    draw = torch.rand(2, *ids.shape, generator=generator, device=ids.device)
    random = torch.randint(0, vocab, ids.shape, generator=generator, device=ids.device)
    chosen = draw[0] < probability
    inputs = torch.where(draw[1] < 0.8, mask, torch.where(draw[1] < 0.9, random, ids))
    return torch.where(chosen, inputs, ids), torch.where(chosen, ids, -100)
