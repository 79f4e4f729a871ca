"""Positions: what turns a set function into a sequence model."""

from tokennet.positional.absolute import LearnedEncoding, PositionalEncoding, SinusoidalEncoding

__all__ = ["LearnedEncoding", "PositionalEncoding", "SinusoidalEncoding"]
