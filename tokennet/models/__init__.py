"""Named architectures with their heads and losses; `create_model` makes one by name."""

from tokennet.models.detection import (
    Objects,
    Prediction,
    SetPrediction,
    generalized_iou,
    match,
    set_prediction_loss,
)
from tokennet.models.graphs import gat, gin, gps
from tokennet.models.pairs import clip, detr, question_net
from tokennet.models.patch_grid import resample_positions
from tokennet.models.registry import NETS, NamedNet, create_model, list_models
from tokennet.models.sequences import rnn, tcn
from tokennet.models.sets import deep_sets, perceiver, set_transformer
from tokennet.models.text import bert, gpt, llama, modernbert, t5
from tokennet.models.transformers import (
    decoder_stack,
    encoder,
    encoder_stack,
    performer,
    transformer,
)
from tokennet.models.two_tower import TwoTower, contrastive_loss
from tokennet.models.vision import deit3, dinov2, mlp_mixer, poolformer, resmlp, vit

__all__ = [
    "NETS",
    "NamedNet",
    "Objects",
    "Prediction",
    "SetPrediction",
    "TwoTower",
    "bert",
    "clip",
    "contrastive_loss",
    "create_model",
    "decoder_stack",
    "deep_sets",
    "deit3",
    "detr",
    "dinov2",
    "encoder",
    "encoder_stack",
    "gat",
    "generalized_iou",
    "gin",
    "gps",
    "gpt",
    "list_models",
    "llama",
    "match",
    "mlp_mixer",
    "modernbert",
    "perceiver",
    "performer",
    "poolformer",
    "question_net",
    "resample_positions",
    "resmlp",
    "rnn",
    "set_prediction_loss",
    "set_transformer",
    "t5",
    "tcn",
    "transformer",
    "vit",
]
