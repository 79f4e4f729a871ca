"""Positions: what turns a set function into a sequence model."""

from tokennet.positional.absolute import LearnedEncoding, PositionalEncoding, SinusoidalEncoding
from tokennet.positional.relative import ALiBi, LearnedOffset, RelativePosition, T5Bias
from tokennet.positional.rotary import Rotary

__all__ = [
    "ALiBi",
    "LearnedEncoding",
    "LearnedOffset",
    "PositionalEncoding",
    "RelativePosition",
    "Rotary",
    "SinusoidalEncoding",
    "T5Bias",
]
