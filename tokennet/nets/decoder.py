"""`Decoder`: a causal net that predicts the next id and generates text."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tokennet.checks import check_size
from tokennet.graphs import Causal, TokenGraph
from tokennet.layer import IncrementalDecodingError
from tokennet.nets.embedding import rows_of
from tokennet.nets.evaluating import evaluating
from tokennet.nets.generation import (
    NextLogits,
    Sampling,
    beam_search,
    run_by_length,
    sample,
    stop_ids,
)
from tokennet.nets.text import Ids, TextNet
from tokennet.tokens import Tokens


class Decoder(TextNet):
    r"""A causal net with logits of the next id after each: log p(z_{i+1} | z_0 .. z_i) + const.

    Use it for language models, and as the decoder of `EncoderDecoder`. Arguments as for
    `TextNet`; the graph must be causal, such as `Causal`, the default, or
    `lambda n: Causal(n) & Window(n, 64)`, and the readout return logits for each token.

    >>> from tokennet.models import gpt
    >>> net = gpt(vocab=10, dim=8, depth=1, num_heads=2, max_length=12)
    >>> net.generate(torch.tensor([1, 2]), max_new_tokens=5).shape
    torch.Size([7])
    """

    default_graph = Causal

    def graph_on(self, num_tokens: int) -> TokenGraph:
        """The net's graph on this number of tokens.

        Raises:
            ValueError: a token attends to a later one.
        """
        graph = super().graph_on(num_tokens)
        if graph.attends_later:
            raise ValueError(
                "graph must be causal for a decoder: no token attends to a later one; "
                f"got {graph!r}"
            )
        return graph

    def generate(
        self,
        prompt: Ids,
        max_new_tokens: int,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        num_beams: int = 1,
        length_penalty: float = 1.0,
        eos_token_id: int | Sequence[int] | None = None,
        use_cache: bool = True,
        context: int | None = None,
        generator: torch.Generator | None = None,
        source: Tokens | Tensor | None = None,
    ) -> Any:
        r"""Continue a prompt by at most `max_new_tokens` ids.

        Args:
            prompt: ids (N,) or (B, N), a tensor or array, or a list of prompts of any lengths;
                prompts of the same length run together, so that none is padded.
            max_new_tokens: the largest number of new ids.
            temperature: 0 chooses the most probable id each time (greedy); otherwise ids are
                drawn, from logits that are divided by it.
            top_k: draw from the k most probable ids only.
            top_p: draw only from the most probable ids that together have probability p.
            num_beams: above 1, beam search with this number of hypotheses, in place of drawing.
            length_penalty: beams are compared by \sum log p / (new ids)^length_penalty.
            eos_token_id: the id, or ids, after which a sequence ends.
            use_cache: incremental decoding, which keeps keys, values and other states; the
                result is the same without.
            context: of longer sequences only this number of last ids is read, as if there were
                no others; None reads all.
            generator: of the draws.
            source: what cross-attention attends to, a row for each prompt.

        Returns:
            Prompt and continuation: for a tensor a tensor, in which a row that ended early
            repeats its last id; for a list, a list of tensors, each up to its end.

        Raises:
            ValueError: an empty prompt, a negative `max_new_tokens`, beams with a temperature, or
                more ids than `max_length`.
            IncrementalDecodingError: a layer needs all ids at once; use `use_cache=False`.
        """
        context = None if context is None else check_size("context", context, 1)
        max_new_tokens = check_size("max_new_tokens", max_new_tokens)
        num_beams = check_size("num_beams", num_beams, 1)
        rows = rows_of("prompt", prompt, self._device)
        for row in [rows] if isinstance(rows, Tensor) else rows:
            self._check_prompt(row, max_new_tokens, context)
        if num_beams > 1 and temperature > 0:
            raise ValueError(
                "num_beams must be 1, or more with temperature 0; "
                f"got {num_beams} with {temperature}"
            )
        if source is not None and not isinstance(rows, Tensor):
            raise ValueError("prompt must be a tensor where there is a source, got a list")
        choose = Sampling(temperature, top_k, top_p, generator)
        stops = stop_ids(eos_token_id, self._device)

        def continued(ids: Tensor, _: Any = None) -> Tensor:
            logits_of = NextLogits(self, _repeated(source, len(ids), num_beams), use_cache, context)
            if num_beams == 1:
                return sample(logits_of, ids, max_new_tokens, choose, stops)
            return beam_search(logits_of, ids, max_new_tokens, num_beams, stops, length_penalty)

        with evaluating(self):
            try:
                if not isinstance(rows, Tensor):
                    return run_by_length(rows, continued, stops)
                if not rows.numel():  # no prompts
                    return rows.new_zeros(*rows.shape[:-1], rows.shape[-1] + max_new_tokens)
                flat = continued(rows.reshape(-1, rows.shape[-1]))
            except IncrementalDecodingError as error:
                error.add_note("use_cache=False runs the net on all ids each time instead")
                raise
        return flat.reshape(*rows.shape[:-1], flat.shape[-1])

    def _check_prompt(self, ids: Tensor, max_new_tokens: int, context: int | None) -> None:
        if not ids.shape[-1]:
            raise ValueError("prompt must hold at least one id, got none")
        # The net does not run on the last id.
        num_read = min(ids.shape[-1] + max_new_tokens - 1, context or sys.maxsize)
        if self.max_length is not None and num_read > self.max_length:
            raise ValueError(
                f"prompt and max_new_tokens must together be at most {self.max_length + 1} ids, "
                f"got {ids.shape[-1]} and {max_new_tokens}"
            )


def _repeated(source: Tokens | Tensor | None, rows: int, times: int) -> Tokens | None:
    """The source with a leading dimension: each row `times` times; a single row for all."""
    if source is None:
        return None
    tokens = Tokens(source) if isinstance(source, Tensor) else source
    z = tokens.z if tokens.z.dim() > 2 else tokens.z.expand(rows, -1, -1)
    z = z.reshape(-1, *z.shape[-2:])
    if len(z) != rows:
        raise ValueError(f"source must have a row for each of {rows} prompts, got {len(z)}")
    pos = tokens.pos
    if pos is not None:
        pos = pos.expand(*tokens.z.shape[:-1], -1)  # (..., N, P)
        pos = pos.expand(rows, -1, -1) if pos.dim() == 2 else pos.flatten(0, -3)
        pos = pos.repeat_interleave(times, 0)
    return Tokens(z.repeat_interleave(times, 0), tokens.graph, pos)
