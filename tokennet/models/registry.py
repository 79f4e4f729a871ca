"""`create_model` and `list_models`: named architectures with their published sizes."""

from __future__ import annotations

import ast
import fnmatch
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import torch
from torch import nn

from tokennet.checks import lookup
from tokennet.models import graphs, pairs, sequences, sets, text, vision
from tokennet.models import transformers as transformer
from tokennet.models.detection import SetPrediction
from tokennet.models.two_tower import TwoTower
from tokennet.nets import Decoder, EncoderDecoder, MaskedLanguageModel, TokenNet


@dataclass(frozen=True)
class NamedNet:
    """An architecture and its sizes, as they are registered in `NETS` under a name.

    >>> NETS["gpt2"].on_meta().layers[0].dim, NETS["gpt2"].lines < 30
    (768, True)
    """

    build: Callable[..., nn.Module]
    sizes: dict[str, Any] = field(default_factory=dict)

    def __call__(self, **options: Any) -> nn.Module:
        return self.build(**{**self.sizes, **options})

    def on_meta(self) -> nn.Module:
        """The net on the meta device, without memory: to count parameters, to read its symmetry."""
        with torch.device("meta"):
            return self()

    @property
    def lines(self) -> int:
        """Lines of code of the architecture, without docstring, comments and blank lines."""
        source = inspect.getsource(self.build)
        function = ast.parse(source).body[0]
        assert isinstance(function, ast.FunctionDef)
        body = function.body[1:] if ast.get_docstring(function) else function.body
        lines = source.splitlines()[body[0].lineno - 1 : body[-1].end_lineno]
        return sum(1 for line in lines if line.strip() and not line.strip().startswith("#"))


NETS: dict[str, NamedNet] = {
    "encoder": NamedNet(transformer.encoder),
    "performer": NamedNet(transformer.performer),
    "transformer_base": NamedNet(transformer.transformer),
    "transformer_big": NamedNet(
        transformer.transformer, {"dim": 1024, "num_heads": 16, "hidden": 4096}
    ),
    "gpt_nano": NamedNet(
        text.gpt, {"vocab": 256, "dim": 128, "depth": 4, "num_heads": 4, "max_length": 256}
    ),
    "gpt2": NamedNet(text.gpt),
    "gpt2_medium": NamedNet(text.gpt, {"dim": 1024, "depth": 24, "num_heads": 16}),
    "llama2_7b": NamedNet(text.llama),
    "llama3_8b": NamedNet(
        text.llama,
        {
            "vocab": 128_256,
            "hidden": 14_336,
            "num_kv_heads": 8,
            "base": 500_000.0,
            "max_length": 8192,
        },
    ),
    "mistral_7b": NamedNet(
        text.llama, {"hidden": 14_336, "num_kv_heads": 8, "window": 4096, "max_length": 32_768}
    ),
    "bert_tiny": NamedNet(text.bert, {"dim": 128, "depth": 2, "num_heads": 2}),
    "bert_base": NamedNet(text.bert),
    "bert_large": NamedNet(text.bert, {"dim": 1024, "depth": 24, "num_heads": 16}),
    "roberta_base": NamedNet(text.bert, {"vocab": 50_265, "types": 1}),
    "roberta_large": NamedNet(
        text.bert, {"vocab": 50_265, "types": 1, "dim": 1024, "depth": 24, "num_heads": 16}
    ),
    "distilbert": NamedNet(text.bert, {"types": 0, "depth": 6}),
    "modernbert_base": NamedNet(text.modernbert),
    "modernbert_large": NamedNet(
        text.modernbert, {"dim": 1024, "depth": 28, "num_heads": 16, "hidden": 2624}
    ),
    "t5_small": NamedNet(text.t5),
    "t5_base": NamedNet(text.t5, {"dim": 768, "depth": 12, "num_heads": 12, "hidden": 3072}),
    "t5_large": NamedNet(text.t5, {"dim": 1024, "depth": 24, "num_heads": 16, "hidden": 4096}),
    "flan_t5_base": NamedNet(
        text.t5,
        {
            "dim": 768,
            "depth": 12,
            "num_heads": 12,
            "hidden": 2048,
            "gated": True,
            "tied": False,
        },
    ),
    "vit_tiny": NamedNet(vision.vit),
    "vit_small": NamedNet(vision.vit, {"dim": 384, "num_heads": 6}),
    "vit_base": NamedNet(vision.vit, {"dim": 768, "num_heads": 12}),
    "vit_large": NamedNet(vision.vit, {"dim": 1024, "depth": 24, "num_heads": 16}),
    "deit3_small": NamedNet(vision.deit3),
    "deit3_medium": NamedNet(vision.deit3, {"dim": 512, "num_heads": 8}),
    "deit3_base": NamedNet(vision.deit3, {"dim": 768, "num_heads": 12}),
    "deit3_large": NamedNet(vision.deit3, {"dim": 1024, "depth": 24, "num_heads": 16}),
    "dinov2_small": NamedNet(vision.dinov2),
    "dinov2_base": NamedNet(vision.dinov2, {"dim": 768, "num_heads": 12}),
    "dinov2_large": NamedNet(vision.dinov2, {"dim": 1024, "depth": 24, "num_heads": 16}),
    "dinov2_giant": NamedNet(
        vision.dinov2,
        {"dim": 1536, "depth": 40, "num_heads": 24, "hidden": 4096, "gated": True},
    ),
    "mixer_small": NamedNet(vision.mlp_mixer),
    "mixer_base": NamedNet(vision.mlp_mixer, {"dim": 768, "depth": 12}),
    "resmlp_12": NamedNet(vision.resmlp),
    "resmlp_24": NamedNet(vision.resmlp, {"depth": 24}),
    "poolformer_12": NamedNet(vision.poolformer),
    "tcn": NamedNet(sequences.tcn),
    "gru": NamedNet(sequences.rnn),
    "lstm": NamedNet(sequences.rnn, {"cell": "lstm"}),
    "gat": NamedNet(graphs.gat),
    "gin": NamedNet(graphs.gin),
    "gps": NamedNet(graphs.gps),
    "deep_sets": NamedNet(sets.deep_sets),
    "set_transformer": NamedNet(sets.set_transformer),
    "perceiver": NamedNet(sets.perceiver),
    "question_net": NamedNet(pairs.question_net),
    "clip": NamedNet(pairs.clip),
    "clip_base_16": NamedNet(pairs.clip, {"in_features": 3 * 16 * 16, "num_tokens": 196}),
    "clip_large_14": NamedNet(
        pairs.clip,
        {
            "in_features": 3 * 14 * 14,
            "num_tokens": 256,
            "dim": 768,
            "num_heads": 12,
            "image_dim": 1024,
            "image_depth": 24,
            "image_heads": 16,
        },
    ),
    "detr": NamedNet(pairs.detr),
}
"""Named nets: `NETS[name](**options)` makes a net; options are arguments of its architecture."""


Encoders = Literal[
    "encoder", "performer", "vit_tiny", "vit_small", "vit_base", "vit_large", "deit3_small",
    "deit3_medium", "deit3_base", "deit3_large", "dinov2_small", "dinov2_base", "dinov2_large",
    "dinov2_giant", "mixer_small", "mixer_base", "resmlp_12", "resmlp_24", "poolformer_12", "tcn",
    "gru", "lstm", "gat", "gin", "gps", "deep_sets", "set_transformer", "perceiver",
]  # fmt: skip
Decoders = Literal[
    "gpt_nano", "gpt2", "gpt2_medium", "llama2_7b", "llama3_8b", "mistral_7b"
]  # fmt: skip
Berts = Literal[
    "bert_tiny", "bert_base", "bert_large", "roberta_base", "roberta_large", "distilbert",
    "modernbert_base", "modernbert_large",
]  # fmt: skip
Clips = Literal["clip", "clip_base_16", "clip_large_14"]
EncoderDecoders = Literal[
    "transformer_base", "transformer_big", "t5_small", "t5_base", "t5_large", "flan_t5_base",
    "question_net",
]  # fmt: skip


@overload
def create_model(name: Encoders, **options: Any) -> TokenNet: ...
@overload
def create_model(name: Decoders, **options: Any) -> Decoder: ...
@overload
def create_model(name: Berts, **options: Any) -> MaskedLanguageModel: ...
@overload
def create_model(name: EncoderDecoders, **options: Any) -> EncoderDecoder: ...
@overload
def create_model(name: Clips, **options: Any) -> TwoTower: ...
@overload
def create_model(name: Literal["detr"], **options: Any) -> SetPrediction: ...
@overload
def create_model(name: str, **options: Any) -> Any: ...
def create_model(name: str, **options: Any) -> Any:
    """Make a named net.

    Args:
        name: one of `list_models()`.
        options: arguments of the architecture that replace its registered sizes, such as
            `in_features`, `out_features`, `dim`, `depth`, `num_heads`.

    Raises:
        ValueError: there is no net of that name, or it has no such option.

    >>> net = create_model("vit_tiny", in_features=48, out_features=10, num_tokens=64, depth=2)
    >>> net(torch.zeros(2, 64, 48)).shape
    torch.Size([2, 10])
    """
    net = lookup("name", name, NETS)
    for option in options:
        lookup(f"option of {name}", option, inspect.signature(net.build).parameters)
    return net(**options)


def list_models(pattern: str = "*") -> list[str]:
    """Names of the nets that `create_model` makes and that match a pattern.

    >>> list_models("vit_*")
    ['vit_tiny', 'vit_small', 'vit_base', 'vit_large']
    """
    return [name for name in NETS if fnmatch.fnmatch(name, pattern)]
