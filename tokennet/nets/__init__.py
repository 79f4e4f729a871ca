"""Parts of nets: token-wise functions, residuals, readouts; `TokenNet`, text nets, generation."""

from tokennet.nets.block import PostNorm, QuickGELU, Residual, SwiGLU, TokenWise, mlp
from tokennet.nets.compose import OnGraph, Parallel, WithGraph, add_self_loops, complete
from tokennet.nets.config import Affine, BatchNorm, BlockConfig, LayerScale
from tokennet.nets.decoder import Decoder
from tokennet.nets.embedding import Embedding, Unembedding
from tokennet.nets.encoder_decoder import EncoderDecoder, shift_right
from tokennet.nets.experts import MixtureOfExperts, collect_router_losses
from tokennet.nets.generation import Sampling
from tokennet.nets.memory import MemoryTokens
from tokennet.nets.net import IOSpec, TokenNet, build_net
from tokennet.nets.prepend import DropTokens, PrependTokens
from tokennet.nets.readout import (
    READOUTS,
    AttentionReadout,
    ClassAndMeanReadout,
    ClassTokenReadout,
    MaxReadout,
    MeanReadout,
    Readout,
    SumReadout,
    TokenReadout,
)
from tokennet.nets.summary import Summary, count_parameters
from tokennet.nets.text import MaskedLanguageModel, TextNet, mask_tokens

__all__ = [
    "READOUTS",
    "Affine",
    "AttentionReadout",
    "BatchNorm",
    "BlockConfig",
    "ClassAndMeanReadout",
    "ClassTokenReadout",
    "Decoder",
    "DropTokens",
    "Embedding",
    "EncoderDecoder",
    "IOSpec",
    "LayerScale",
    "MaskedLanguageModel",
    "MaxReadout",
    "MeanReadout",
    "MemoryTokens",
    "MixtureOfExperts",
    "OnGraph",
    "Parallel",
    "PostNorm",
    "PrependTokens",
    "QuickGELU",
    "Readout",
    "Residual",
    "Sampling",
    "SumReadout",
    "Summary",
    "SwiGLU",
    "TextNet",
    "TokenNet",
    "TokenReadout",
    "TokenWise",
    "Unembedding",
    "WithGraph",
    "add_self_loops",
    "build_net",
    "collect_router_losses",
    "complete",
    "count_parameters",
    "mask_tokens",
    "mlp",
    "shift_right",
]
