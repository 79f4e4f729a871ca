"""Two nets, of which the second listens to the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokennet.graphs import Disjoint
from tokennet.nets.generation import evaluating, per_length
from tokennet.nets.net import TokenNet
from tokennet.nets.text import Decoder, Ids
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens


class EncoderDecoder(nn.Module):
    """`decoder(target, encoder(source))`.

    Vaswani et al., 2017 (arXiv 1706.03762) where both are text; a question over patches where
    the source is an image and the target a text.

    Args:
        encoder: gives tokens: it has no readout.
        decoder: has layers that listen to the source.

    Raises:
        ValueError: the encoder has a readout, or the decoder listens to no source.

    >>> from tokennet.models import transformer
    >>> net = transformer(source_vocab=10, dim=8, depth=1, num_heads=2)
    >>> net(torch.tensor([1, 2, 3]), torch.tensor([0, 4])).shape  # a score for each next id
    torch.Size([2, 10])
    >>> net.generate(torch.tensor([1, 2, 3]), start=0, length=4).shape
    torch.Size([5])
    """

    def __init__(self, encoder: TokenNet, decoder: TokenNet) -> None:
        super().__init__()
        if encoder.readout is not None:
            raise ValueError("encoder must give tokens: it has a readout")
        if not decoder.needs_source:
            raise ValueError("decoder must listen to a source: it has no CrossAttention")
        self.encoder, self.decoder = encoder, decoder

    @property
    def symmetry(self) -> Symmetry:
        """As a function of the target, for a given source."""
        return self.decoder.symmetry

    @property
    def source_symmetry(self) -> Symmetry:
        """As a function of the source, for a given target: what permutations change nothing."""
        return self.encoder.symmetry & self.decoder.source_symmetry

    def forward(self, source: Any, target: Any) -> Any:
        return self.decoder(*self._heard(source, target))

    def _heard(self, source: Any, target: Any) -> tuple[Tokens, Any]:
        """The target's tokens, and what they listen to.

        Where targets of any lengths listen to a batch of sources, each has a source.
        """
        tokens, memory = self.decoder.tokens(target), self.encoder(source)
        z = memory.z if isinstance(memory, Tokens) else memory
        if tokens.graph.is_ragged and len(z) == tokens.graph.num_graphs > 0:
            memory = _side_by_side(memory) if z.dim() == 3 else memory
        return tokens, memory

    def flops(self, source: Any, target: Any) -> int:
        """Floating-point operations of one forward pass, of both nets."""
        with evaluating(self):
            tokens, memory = self._heard(source, target)
        return self.encoder.flops(source) + self.decoder.flops(tokens, memory)

    def generate(self, source: Ids | Tokens, start: int | Tensor, length: int, **how: Any) -> Any:
        """Translate: continue `start` by at most `length` ids, listening to the source.

        Args:
            source: (N,) or (B, N) ids, tokens, or a list of sources of any lengths.
            start: the id that every target begins with, or ids (B, M).
            length: how many new ids at most.
            how: see `Decoder.generate`: temperature, top_k, top_p, beams, stop and others.

        Returns:
            Targets with their start, as `Decoder.generate` gives them.

        Raises:
            TypeError: the decoder cannot generate.
        """
        if not isinstance(self.decoder, Decoder):
            raise TypeError(f"decoder must be a Decoder, got {type(self.decoder).__name__}")
        if isinstance(source, Tensor | Tokens) or (len(source) and isinstance(source[0], int)):
            return self._translate(source, start, length, how)
        stop = how.get("stop", ())
        device = next(self.parameters()).device
        stops = torch.tensor([stop] if isinstance(stop, int) else list(stop), device=device)

        def translated(ids: Tensor, numbers: list[int]) -> Tensor:
            begin = start[numbers] if isinstance(start, Tensor) else start
            return self._translate(ids, begin, length, how)

        begins = start.shape[-1] if isinstance(start, Tensor) else 1
        return per_length([torch.as_tensor(row) for row in source], translated, stops, begins)

    def _translate(self, source: Any, start: int | Tensor, length: int, how: Any) -> Any:
        device = next(self.parameters()).device
        with evaluating(self.encoder):
            memory = self.encoder(
                source.to(device) if isinstance(source, Tensor | Tokens) else source
            )
        z = memory.z if isinstance(memory, Tokens) else memory
        if not isinstance(start, Tensor):
            start = torch.full((*z.shape[:-2], 1), start, device=device)
        return self.decoder.generate(start, length, source=memory, **how)  # type: ignore[operator]


def _side_by_side(memory: Any) -> Tokens:
    """A batch of sets of one size (B, N, D) as a ragged batch (B N, D)."""
    batch = memory if isinstance(memory, Tokens) else Tokens(memory)
    count, n, _ = batch.z.shape
    pos = batch.pos
    if pos is not None:
        pos = pos.expand(count, n, -1).flatten(0, 1)
    return Tokens(batch.z.flatten(0, 1), Disjoint([batch.graph] * count), pos)


def shift_right(ids: Sequence[int] | Tensor, start: int) -> Tensor:
    """Targets (..., N) as the decoder's input: `start` first, the last id left out.

    >>> shift_right(torch.tensor([5, 6, 7]), start=1).tolist()
    [1, 5, 6]
    """
    ids = torch.as_tensor(ids)
    first = torch.full_like(ids[..., :1], start)
    return torch.cat([first, ids[..., :-1]], dim=-1)
