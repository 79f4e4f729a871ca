"""Positional encodings, added to the tokens, and positions that enter the scores of attention."""

from tokennet.positional.absolute import LearnedEncoding, PositionalEncoding, SinusoidalEncoding
from tokennet.positional.coordinate import IntegerEncoding, UnitIntervalEncoding
from tokennet.positional.eigenvectors import LaplacianEigenvectors, laplacian_eigenvectors
from tokennet.positional.graph_encoding import GraphEncoding
from tokennet.positional.random_walk import RandomWalkEncoding, return_probabilities
from tokennet.positional.relative import ALiBi, LearnedOffset, RelativePosition, T5Bias
from tokennet.positional.rotary import Rotary
from tokennet.positional.spectral import LaplacianEncoding

__all__ = [
    "ALiBi",
    "GraphEncoding",
    "IntegerEncoding",
    "LaplacianEigenvectors",
    "LaplacianEncoding",
    "LearnedEncoding",
    "LearnedOffset",
    "PositionalEncoding",
    "RandomWalkEncoding",
    "RelativePosition",
    "Rotary",
    "SinusoidalEncoding",
    "T5Bias",
    "UnitIntervalEncoding",
    "laplacian_eigenvectors",
    "return_probabilities",
]
