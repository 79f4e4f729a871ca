"""Layers put together."""

from tokennet.nets.architectures.graphs import gat, gin, gps
from tokennet.nets.architectures.pairs import clip, detr, question_net
from tokennet.nets.architectures.sequences import rnn, tcn
from tokennet.nets.architectures.sets import deep_sets, perceiver, set_transformer
from tokennet.nets.architectures.text import bert, gpt
from tokennet.nets.architectures.transformer import (
    decoder_stack,
    encoder,
    encoder_stack,
    performer,
    transformer,
)
from tokennet.nets.architectures.vision import mlp_mixer, poolformer, resmlp, vit
from tokennet.nets.block import PostNorm, Residual, TokenWise, mlp
from tokennet.nets.compose import OnGraph, Parallel, WithGraph, add_self_loops, complete
from tokennet.nets.detection import (
    Objects,
    Prediction,
    SetPrediction,
    generalised_iou,
    match,
    set_prediction_loss,
)
from tokennet.nets.embedding import Embedding, Unembedding
from tokennet.nets.encoder_decoder import EncoderDecoder, shift_right
from tokennet.nets.experts import MixtureOfExperts, collect_router_losses
from tokennet.nets.factory import NETS, NamedNet, create_net, list_nets
from tokennet.nets.language import Decoder, MaskedLanguageModel, TextNet, mask_tokens
from tokennet.nets.memory import MemoryTokens
from tokennet.nets.net import Interface, TokenNet, build_net
from tokennet.nets.prepend import DropTokens, PrependTokens
from tokennet.nets.readout import (
    READOUTS,
    AttentionReadout,
    MaxReadout,
    MeanReadout,
    OneToken,
    PerToken,
    Readout,
    SumReadout,
)
from tokennet.nets.sampling import Sampling
from tokennet.nets.style import Affine, BatchNorm, LayerScale, Style
from tokennet.nets.summary import Summary, count_parameters
from tokennet.nets.two_tower import TwoTower, contrastive_loss

__all__ = [
    "NETS",
    "READOUTS",
    "Affine",
    "AttentionReadout",
    "BatchNorm",
    "Decoder",
    "DropTokens",
    "Embedding",
    "EncoderDecoder",
    "Interface",
    "LayerScale",
    "MaskedLanguageModel",
    "MaxReadout",
    "MeanReadout",
    "MemoryTokens",
    "MixtureOfExperts",
    "NamedNet",
    "Objects",
    "OnGraph",
    "OneToken",
    "Parallel",
    "PerToken",
    "PostNorm",
    "Prediction",
    "PrependTokens",
    "Readout",
    "Residual",
    "Sampling",
    "SetPrediction",
    "Style",
    "SumReadout",
    "Summary",
    "TextNet",
    "TokenNet",
    "TokenWise",
    "TwoTower",
    "Unembedding",
    "WithGraph",
    "add_self_loops",
    "bert",
    "build_net",
    "clip",
    "collect_router_losses",
    "complete",
    "contrastive_loss",
    "count_parameters",
    "create_net",
    "decoder_stack",
    "deep_sets",
    "detr",
    "encoder",
    "encoder_stack",
    "gat",
    "generalised_iou",
    "gin",
    "gps",
    "gpt",
    "list_nets",
    "mask_tokens",
    "match",
    "mlp",
    "mlp_mixer",
    "perceiver",
    "performer",
    "poolformer",
    "question_net",
    "resmlp",
    "rnn",
    "set_prediction_loss",
    "set_transformer",
    "shift_right",
    "tcn",
    "transformer",
    "vit",
]
