"""Nets that read ids: of characters, of words, of anything that is counted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tokennet.checks import check_size
from tokennet.graphs import Causal, Full, TokenGraph
from tokennet.layer import TokenLayer
from tokennet.nets.embedding import one_column
from tokennet.nets.generation import Scores, beam_search, evaluating, per_length, sample
from tokennet.nets.net import TokenNet
from tokennet.nets.readout import Readout
from tokennet.nets.sampling import Sampling
from tokennet.tokens import Tokens

_GRAPHS_KEPT = 16

Ids = Tensor | Sequence[int] | Sequence[Sequence[int]] | Sequence[Tensor]


class TextNet(TokenNet):
    """A `TokenNet` that takes ids as well: a tensor (..., N), or sequences of any lengths.

    Args:
        layers: the first is an `Embedding`, or another that takes integers (..., N, 1).
        readout: as for `TokenNet`.
        graph: from the number of tokens to their graph, for ids that come without one.
        max_length: the most tokens that the layers know positions of; None for any.
        pos: from the number of tokens to their positions (N, P), for ids that come without.

    >>> from tokennet.nets import Embedding, TokenReadout
    >>> net = TextNet([Embedding(10, 8)], TokenReadout(8, 3))
    >>> net(torch.tensor([[1, 2, 3], [4, 5, 6]])).shape
    torch.Size([2, 3, 3])
    >>> net([[1, 2, 3], [4, 5]]).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        layers: Sequence[TokenLayer | TokenNet],
        readout: Readout | None = None,
        graph: Callable[[int], TokenGraph] = Full,
        max_length: int | None = None,
        pos: Callable[[int], Tensor] | None = None,
    ) -> None:
        super().__init__(layers, readout)
        if not callable(graph):
            raise TypeError(
                "graph must be a function from a number of tokens to their graph, such as "
                f"{type(self).__name__} has by default; got {graph!r}"
            )
        self.graph, self.max_length, self.pos = graph, max_length, pos
        self._graphs: dict[int, TokenGraph] = {}

    def graph_on(self, count: int) -> TokenGraph:
        """The net's graph on so many tokens; the last few are kept, with what was derived."""
        kept = self._graphs
        if count not in kept:
            if len(kept) >= _GRAPHS_KEPT:
                del kept[next(iter(kept))]
            kept[count] = self.graph(count)
        return kept[count]

    def tokens(self, given: Ids | Tokens) -> Tokens:
        """Ids as tokens on the net's graph; sequences in a list as a ragged batch."""
        if isinstance(given, Tokens):
            return given
        if isinstance(given, Tensor):
            count = given.shape[-1]
            pos = None if self.pos is None else self.pos(count).to(given.device)
            return Tokens(one_column(given), self.graph_on(count), pos)
        if given and isinstance(given[0], int):
            return self.tokens(torch.tensor(given, device=self._device))
        rows = [torch.as_tensor(row, device=self._device) for row in given]
        return Tokens.batch([self.tokens(row) for row in rows])

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device


class Decoder(TextNet):
    r"""A causal net that scores the next id after each: log p(z_{i+1} | z_0 .. z_i) + const.

    Arguments as for `TextNet`; the graph must be causal, such as `Causal` or
    `lambda n: Causal(n) & Window(n, 64)`, and the readout give scores for each token.

    >>> from tokennet.models import gpt
    >>> net = gpt(vocab=10, dim=8, depth=1, num_heads=2, max_length=12)
    >>> net.generate(torch.tensor([1, 2]), 5).shape
    torch.Size([7])
    """

    def __init__(
        self,
        layers: Sequence[TokenLayer | TokenNet],
        readout: Readout | None = None,
        graph: Callable[[int], TokenGraph] = Causal,
        max_length: int | None = None,
        pos: Callable[[int], Tensor] | None = None,
    ) -> None:
        super().__init__(layers, readout, graph, max_length, pos)

    def graph_on(self, count: int) -> TokenGraph:
        """The net's graph on so many tokens.

        Raises:
            ValueError: a token listens to a later one.
        """
        graph = super().graph_on(count)
        if not _hears_no_later(graph):
            raise ValueError(
                "graph must be causal for a decoder: no token listens to a later one; "
                f"got {graph!r}"
            )
        return graph

    def generate(
        self,
        prompt: Ids,
        length: int,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        beams: int = 1,
        length_penalty: float = 1.0,
        stop: int | Sequence[int] = (),
        cache: bool = True,
        context: int | None = None,
        generator: torch.Generator | None = None,
        source: Tokens | Tensor | None = None,
    ) -> Any:
        r"""Continue a prompt by at most `length` ids.

        Args:
            prompt: ids (N,) or (B, N), or a list of prompts of any lengths; those of a
                length run together, so that none is padded.
            length: how many new ids at most.
            temperature: 0 takes the likeliest id each time (greedy); otherwise ids are
                drawn, scores divided by it.
            top_k: draw from the k likeliest only.
            top_p: draw from the fewest likeliest that have probability p together.
            beams: above 1, beam search with so many hypotheses, instead of drawing.
            length_penalty: beams are compared by \sum log p / (new ids)^length_penalty.
            stop: ids after which a sequence ends.
            cache: keep what earlier steps computed; the result is the same without.
            context: of longer sequences only the last so many ids are read, as if they were
                all; None reads all.
            generator: of the draws.
            source: what cross-attention listens to, a row for each prompt.

        Returns:
            Prompt and continuation: for a tensor a tensor, in which a row that stopped
            early repeats its stop; for a list, a list of tensors, cut after the stop.

        Raises:
            ValueError: an empty prompt, a negative length, beams with a temperature, or more
                ids than `max_length`.
            TypeError: a layer cannot be run step by step; `cache=False` does without.
        """
        check_size("length", length)
        if context is not None:
            check_size("context", context, 1)
        rows = _rows(prompt, self._device)
        for row in [rows] if isinstance(rows, Tensor) else rows:
            self._check_prompt(row, length, context)
        if beams < 1 or (beams > 1 and temperature > 0):
            raise ValueError(
                f"beams must be 1, or more with temperature 0; got {beams} with {temperature}"
            )
        choose = Sampling(temperature, top_k, top_p, generator)
        stops = torch.tensor([stop] if isinstance(stop, int) else list(stop), device=self._device)

        def continued(ids: Tensor, source: Any) -> Tensor:
            scores = Scores(self, _repeated(source, len(ids), beams), cache, context)
            if beams == 1:
                return sample(scores, ids, length, choose, stops)
            return beam_search(scores, ids, length, beams, stops, length_penalty)

        with evaluating(self):
            if isinstance(rows, Tensor):
                flat = continued(rows.reshape(-1, rows.shape[-1]), source)
                return flat.reshape(*rows.shape[:-1], -1)
            if source is not None:
                raise ValueError("prompt must be a tensor where there is a source, got a list")
            return per_length(rows, lambda ids, numbers: continued(ids, None), stops)

    def _check_prompt(self, ids: Tensor, length: int, context: int | None) -> None:
        if not ids.shape[-1]:
            raise ValueError("prompt must hold at least one id, got none")
        # The last id is not run through the net any more.
        read = min(ids.shape[-1] + length - 1, context or sys.maxsize)
        if self.max_length is not None and read > self.max_length:
            raise ValueError(
                f"prompt and length must together be at most {self.max_length + 1} ids, "
                f"got {ids.shape[-1]} and {length}"
            )


def _hears_no_later(graph: TokenGraph) -> bool:
    if graph.band is not None:
        return graph.band[1] == 0
    return graph.cached(_lists_no_later)


def _lists_no_later(graph: TokenGraph) -> bool:
    source, target = graph.edge_index()
    return bool((source <= target).all())


def _rows(prompt: Ids, device: torch.device) -> Tensor | list[Tensor]:
    if isinstance(prompt, str):
        raise TypeError(
            "prompt must be ids, got a string; a tokenizer such as Characters makes ids of it"
        )
    if isinstance(prompt, Tensor):
        one_column(prompt)
        return prompt.to(device)
    if len(prompt) and isinstance(prompt[0], int):
        return torch.tensor(prompt, device=device)
    return [torch.as_tensor(row, dtype=torch.long, device=device) for row in prompt]


def _repeated(source: Tokens | Tensor | None, rows: int, times: int) -> Tokens | None:
    """The source with a leading dimension: each row `times` times, one row for all if single."""
    if source is None:
        return None
    given = Tokens(source) if isinstance(source, Tensor) else source
    z = given.z if given.z.dim() > 2 else given.z.expand(rows, -1, -1)
    z = z.reshape(-1, *z.shape[-2:])
    if len(z) != rows:
        raise ValueError(f"source must have a row for each of {rows} prompts, got {len(z)}")
    pos = given.pos
    if pos is not None:
        pos = pos.expand(*given.z.shape[:-1], -1)  # (..., N, P)
        pos = pos.expand(rows, -1, -1) if pos.dim() == 2 else pos.flatten(0, -3)
        pos = pos.repeat_interleave(times, 0)
    return Tokens(z.repeat_interleave(times, 0), given.graph, pos)


class MaskedLanguageModel(TextNet):
    """A net that scores the ids at hidden places, from both sides (BERT).

    Devlin et al., 2018 (arXiv 1810.04805). Arguments as for `TextNet`.

    >>> from tokennet.models import bert
    >>> net = bert(vocab=10, dim=8, depth=1, num_heads=2, max_length=12)
    >>> filled = net.fill(torch.tensor([1, 9, 3]), mask=9)
    >>> filled[[0, 2]].tolist()
    [1, 3]
    """

    @torch.no_grad()
    def fill(self, ids: Tensor, mask: int) -> Tensor:
        """Ids (..., N) with the likeliest id wherever `mask` stood."""
        with evaluating(self):
            return torch.where(ids == mask, self(ids).argmax(-1), ids)


def mask_tokens(
    ids: Tensor,
    mask: int,
    vocab: int,
    *,
    probability: float = 0.15,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Hide ids at random, as BERT is trained: inputs, and targets for `cross_entropy`.

    Of the places chosen, 80 % become `mask`, 10 % a random id, 10 % stay. Targets are -100,
    which `cross_entropy` leaves out, at all other places.

    Args:
        ids: (..., N) integers.
        mask: the id that says "hidden".
        vocab: ids are 0 .. vocab - 1.
        probability: of a place being chosen.

    >>> inputs, targets = mask_tokens(torch.arange(100), mask=100, vocab=100, probability=0.5)
    >>> bool(((targets == -100) | (targets == torch.arange(100))).all())
    True
    """
    draw = torch.rand(2, *ids.shape, generator=generator, device=ids.device)
    random = torch.randint(0, vocab, ids.shape, generator=generator, device=ids.device)
    chosen = draw[0] < probability
    inputs = torch.where(draw[1] < 0.8, mask, torch.where(draw[1] < 0.9, random, ids))
    return torch.where(chosen, inputs, ids), torch.where(chosen, ids, -100)
