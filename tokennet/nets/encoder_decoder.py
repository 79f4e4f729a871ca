"""`EncoderDecoder`: two nets, of which the second attends to the output of the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokennet.checks import checked
from tokennet.graphs import Disjoint
from tokennet.nets.decoder import Decoder
from tokennet.nets.embedding import check_ids, rows_of
from tokennet.nets.evaluating import evaluating
from tokennet.nets.generation import run_by_length, stop_ids
from tokennet.nets.net import TokenNet
from tokennet.nets.text import Ids
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens


class EncoderDecoder(nn.Module):
    """`decoder(target, encoder(source))`: the decoder attends to what the encoder returns.

    Use it for translation, where both are text (Vaswani et al., 2017, arXiv 1706.03762), and for
    questions about an image, where the source is patches and the target a text.

    Args:
        encoder: returns tokens: it has no readout.
        decoder: has layers that attend to the source.

    Raises:
        ValueError: the encoder has a readout, or the decoder attends to no source.

    >>> from tokennet.models import transformer
    >>> net = transformer(source_vocab=10, dim=8, depth=1, num_heads=2)
    >>> net(torch.tensor([1, 2, 3]), torch.tensor([0, 4])).shape  # logits of each next id
    torch.Size([2, 10])
    >>> net.generate(torch.tensor([1, 2, 3]), start=0, max_new_tokens=4).shape
    torch.Size([5])
    """

    @checked()
    def __init__(self, encoder: TokenNet, decoder: TokenNet) -> None:
        super().__init__()
        if encoder.readout is not None:
            raise ValueError("encoder must return tokens: it has a readout")
        if not decoder.needs_source:
            raise ValueError("decoder must attend to a source: it has no CrossAttention")
        self.encoder, self.decoder = encoder, decoder

    @property
    def symmetry(self) -> Symmetry:
        """As a function of the target, for a given source."""
        return self.decoder.symmetry

    @property
    def source_symmetry(self) -> Symmetry:
        """As a function of the source, for a given target: permutations that change nothing."""
        return self.encoder.symmetry & self.decoder.source_symmetry

    def forward(self, source: Any, target: Any) -> Any:
        out = self.decoder(*self._encode(source, target))
        return out.z if isinstance(target, Tensor) and isinstance(out, Tokens) else out

    def _encode(self, source: Any, target: Any) -> tuple[Tokens, Any]:
        """The target's tokens, and the encoded source, called memory, that they attend to.

        Where targets of any lengths attend to a batch of sources, each has its own source.
        """
        tokens, memory = self.decoder.tokens(target), self.encoder(source)
        z = memory.z if isinstance(memory, Tokens) else memory
        if tokens.graph.is_ragged and len(z) == tokens.graph.num_graphs > 0:
            memory = _as_ragged(memory) if z.dim() == 3 else memory
        return tokens, memory

    def flops(self, source: Any, target: Any) -> int:
        """Floating-point operations of one forward pass, of both nets."""
        with evaluating(self):
            tokens, memory = self._encode(source, target)
        return self.encoder.flops(source) + self.decoder.flops(tokens, memory)

    def generate(
        self, source: Ids | Tokens, start: int | Tensor, max_new_tokens: int, **options: Any
    ) -> Any:
        """Translate: continue `start` by at most `max_new_tokens` ids, attending to the source.

        Args:
            source: (N,) or (B, N) ids, tokens, or a list of sources of any lengths.
            start: the id that every target begins with, or ids (B, M).
            max_new_tokens: the largest number of new ids.
            options: of `Decoder.generate`: temperature, num_beams, eos_token_id and others.

        Returns:
            Targets with their start, as `Decoder.generate` returns them.

        Raises:
            TypeError: the decoder cannot generate.
        """
        if not isinstance(self.decoder, Decoder):
            raise TypeError(f"decoder must be a Decoder, got {type(self.decoder).__name__}")
        device = next(self.parameters()).device
        if not isinstance(start, Tensor) and hasattr(start, "__len__"):
            start = check_ids("start", torch.as_tensor(start))
        if not isinstance(source, Tokens | Tensor):
            source = rows_of("source", source, device)
        if isinstance(source, Tensor | Tokens):
            return self._translate(source, start, max_new_tokens, options)

        def translated(ids: Tensor, numbers: list[int]) -> Tensor:
            begin = start[numbers] if isinstance(start, Tensor) else start
            return self._translate(ids, begin, max_new_tokens, options)

        stops = stop_ids(options.get("eos_token_id"), device)
        begin = start.shape[-1] if isinstance(start, Tensor) else 1
        return run_by_length(source, translated, stops, begin)

    def _translate(
        self, source: Any, start: int | Tensor, max_new_tokens: int, options: dict[str, Any]
    ) -> Any:
        device = next(self.parameters()).device
        source = source.to(device) if isinstance(source, Tensor | Tokens) else source
        with evaluating(self.encoder):
            memory = self.encoder(source)
        z = memory.z if isinstance(memory, Tokens) else memory
        if not isinstance(start, Tensor):
            start = torch.full((*z.shape[:-2], 1), start, device=device)
        return self.decoder.generate(start, max_new_tokens, source=memory, **options)  # type: ignore[operator]


def _as_ragged(memory: Any) -> Tokens:
    """A batch of sets of the same size (B, N, D) as a ragged batch (B N, D)."""
    batch = memory if isinstance(memory, Tokens) else Tokens(memory)
    count, n, _ = batch.z.shape
    pos = batch.pos
    if pos is not None:
        pos = pos.expand(count, n, -1).flatten(0, 1)
    return Tokens(batch.z.flatten(0, 1), Disjoint([batch.graph] * count), pos)


def shift_right(ids: Sequence[int] | Tensor, start: int) -> Tensor:
    """Targets (..., N) as the decoder's input: `start` first, without the last id.

    >>> shift_right(torch.tensor([5, 6, 7]), start=1).tolist()
    [1, 5, 6]
    """
    ids = torch.as_tensor(ids)
    first = torch.full_like(ids[..., :1], start)
    return torch.cat([first, ids[..., :-1]], dim=-1)
