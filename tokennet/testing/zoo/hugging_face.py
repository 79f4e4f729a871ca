"""Models of Hugging Face with small random weights, `hf-tiny:BertModel`.

The configuration is the class's own with small sizes, by the names of its attributes. Nothing is
downloaded.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tokennet.testing.zoo.expression import name_and_arguments
from tokennet.testing.zoo.source import (
    SETS,
    TOKENS,
    VOCABULARY,
    Source,
    ZooModel,
    generator,
    package,
    padded_mask,
    unknown,
)

IMAGES, LENGTHS = (16, 64), (TOKENS, 8, 16)
"""Sizes of images and numbers of ids that are tried, in this order."""
PATCH, FRAMES = 4, 32
_WIDTH, _INNER, _HEADS, _LAYERS = 16, 32, 2, 2

SIZES: dict[str, Any] = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "embedding_size", "d_embed",
         "word_embed_proj_dim", "emb_dim", "encoder_hidden_size"), _WIDTH),
    **dict.fromkeys(
        ("intermediate_size", "d_ff", "n_inner", "ffn_dim", "hidden_dim", "d_inner",
         "encoder_ffn_dim", "decoder_ffn_dim", "moe_intermediate_size", "mlp_dim"), _INNER),
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers",
         "decoder_layers", "num_decoder_layers", "num_encoder_layers"), _LAYERS),
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads",
         "decoder_attention_heads", "num_key_value_heads"), _HEADS),
    **dict.fromkeys(("head_dim", "d_kv", "attention_head_size", "projection_dim"), 8),
    **dict.fromkeys(
        ("max_position_embeddings", "n_positions", "n_ctx", "max_source_positions",
         "max_target_positions"), 64),
    "vocab_size": VOCABULARY, "patch_size": PATCH, "num_queries": 5,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    "num_landmarks": 4, "segment_means_seq_len": 8, "rotary_dim": 4, "num_experts": 4,
    "num_local_experts": 4, "num_experts_per_tok": 2, "num_mel_bins": 8, "axial_pos_embds": False,
    "use_pretrained_backbone": False, "use_timm_backbone": False,
    "attention_window": 4,
}  # fmt: skip
"""What an attribute of a configuration is set to, where it has it."""
SPECIAL: dict[str, dict[str, Any]] = {
    "GPTNeoConfig": {"attention_types": [[["global", "local"], 1]]},
    "Mamba2Config": {"num_heads": 4, "n_groups": 1},
    "SwinConfig": {"num_heads": [2, 2, 2, 2], "window_size": 2},
    "Swinv2Config": {"num_heads": [2, 2, 2, 2], "window_size": 2},
    "JambaConfig": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "RecurrentGemmaConfig": {"num_hidden_layers": 3},
}
"""What only one configuration has."""
EMBEDDINGS = ["text_embeds", "image_embeds"]
"""Outputs of models of text and images: one for each set of a batch."""
LISTS = {"depths": 1, "hidden_sizes": _WIDTH, "sr_ratios": 1}
"""The same for each item of a list."""


def _make(name: str) -> ZooModel:
    name, own = name_and_arguments(name) if name.isidentifier() or "(" in name else (name, {})
    if not name.isidentifier():
        raise ValueError(
            f"model hf-tiny:{name} names weights, which would be downloaded: "
            "name a class of transformers, such as hf-tiny:BertModel"
        )
    transformers = package("transformers")
    kind = getattr(transformers, name, None)
    if kind is None:
        raise unknown("transformers", name, dir(transformers))
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        _refuse_what_is_missing(kind)
        raise ValueError(f"model hf-tiny:{name} must be a class of models")
    if getattr(kind, "config_class", None) is None:
        raise ValueError(f"model hf-tiny:{name} has no configuration of its own: name its model")
    with _offline():
        model, example, notes = _running(kind, own)
    options: dict[str, Any] = {"causal": True} if _is_causal(model) else {}
    if {"input_ids", "pixel_values"} <= set(example):
        options["outputs"] = EMBEDDINGS
        notes = (*notes, f"only {', '.join(EMBEDDINGS)} are checked: the logits compare all pairs")
    return ZooModel(model, example, options, notes)


@contextmanager
def _offline() -> Iterator[None]:
    """Configurations need no file of a hub, and should not look for one."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        del os.environ["HF_HUB_OFFLINE"]
        os.environ.update({} if before is None else {"HF_HUB_OFFLINE": before})


def _running(
    kind: Any, own: dict[str, Any]
) -> tuple[nn.Module, dict[str, Tensor], tuple[str, ...]]:
    """The model and an example, of the first sizes with which it runs, and what to say of it.

    Raises:
        ImportError, ValueError: there are none.
    """
    problem: Exception | None = None
    for image in IMAGES:
        try:
            config = _small(kind.config_class, own, image)
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = kind(config).eval()
        except ImportError as error:
            told = " ".join(str(error).split())
            raise ImportError(f"model hf-tiny:{kind.__name__} needs a package: {told}") from error
        except Exception as error:  # sizes that the model refuses
            problem = problem or error
            continue
        for left_out in ("", "attention_mask"):
            for length in LENGTHS:
                example = _example(model, length)
                example.pop(left_out, None)
                try:
                    with torch.no_grad():
                        model(**example)
                except Exception as error:  # whatever a model raises on this size
                    problem = error
                    continue
                told = f"{left_out} is left out: the model does not run with one"
                return model, example, (told,) if left_out else ()
    told = f"{type(problem).__name__}: {problem}"
    raise ValueError(f"model hf-tiny:{kind.__name__} does not run in a small size: {told}")


def _refuse_what_is_missing(kind: Any) -> None:
    """transformers has a stand-in for a class whose package is missing, which says so."""
    if getattr(kind, "_backends", None):
        missing = ", ".join(kind._backends)
        raise ImportError(f"{kind.__name__} needs {missing}; pip install {missing} brings it")


def _small(kind: type, own: dict[str, Any], image: int) -> Any:
    """A configuration with small sizes where it has them; what the caller gives goes first."""
    default = kind()
    parts = {name: _small(part, {}, image).to_dict() for name, part in _parts(kind, default)}
    other_names = getattr(kind, "attribute_map", {})
    values: dict[str, Any] = {}
    for name, size in {**SIZES, "image_size": image}.items():
        is_own = hasattr(default, name) and name not in (*other_names, *parts)
        if is_own and not isinstance(getattr(kind, name, None), property):
            values[name] = _of_the_same_form(getattr(default, name), size)
    for name, item in LISTS.items():
        if isinstance(getattr(default, name, None), list | tuple) and name not in own:
            values[name] = [item] * len(getattr(default, name))
    return kind(**{**values, **SPECIAL.get(kind.__name__, {}), **parts, **own})


def _of_the_same_form(value: Any, size: Any) -> Any:
    """A size, for each item where the value has several."""
    return [size] * len(value) if isinstance(value, list | tuple) else size


def _parts(kind: type, default: Any) -> list[tuple[str, type]]:
    """The configurations within a configuration, such as those of text and of images."""
    found = {name: type(getattr(default, name, None)) for name in getattr(kind, "sub_configs", {})}
    resnet = package("transformers").ResNetConfig  # in place of a backbone of timm
    return [
        (name, resnet if part.__name__ == "TimmBackboneConfig" else part)
        for name, part in found.items()
        if part.__name__.endswith("Config")
    ]


def _is_causal(model: nn.Module) -> bool:
    """Whether the model claims that no token depends on a later one."""
    if getattr(model.config, "is_encoder_decoder", False):
        return False
    flags = [module.is_causal for module in model.modules() if hasattr(module, "is_causal")]
    return bool(flags) and all(flag is True for flag in flags)


def _example(model: nn.Module, length: int) -> dict[str, Tensor]:
    """Inputs by the names of the arguments of `forward`: a padded batch of ids, images, sound."""
    parameters = inspect.signature(model.forward).parameters
    ids = torch.randint(3, VOCABULARY, (SETS, length), generator=generator())
    values: dict[str, Tensor] = {}
    if "input_ids" in parameters:
        values["input_ids"] = ids
        if "attention_mask" in parameters:
            values["attention_mask"] = padded_mask(length)
            values["input_ids"] = ids.where(padded_mask(length).bool(), 0)
    if "decoder_input_ids" in parameters and getattr(model.config, "is_encoder_decoder", False):
        values["decoder_input_ids"] = ids[:, : length - 2].flip(1)
    if "pixel_values" in parameters:
        channels = _found(model.config, "num_channels", 3)
        size = _found(model.config, "image_size", 32)
        size = size if isinstance(size, int) else size[0]
        values["pixel_values"] = torch.randn(SETS, channels, size, size, generator=generator())
    if "input_features" in parameters and "input_ids" not in values:
        bins = _found(model.config, "num_mel_bins", 8)
        frames = 2 * _found(model.config, "max_source_positions", FRAMES // 2)
        values["input_features"] = torch.randn(SETS, bins, frames, generator=generator())
    if not values:
        main = getattr(model, "main_input_name", "")
        raise ValueError(
            f"model hf-tiny:{type(model).__name__} has the input {main!r}, which no example is "
            "made of: name a model and an --example of your own"
        )
    return values


def _found(config: Any, name: str, default: Any) -> Any:
    """An attribute of a configuration or of a configuration within it."""
    for owner in (config, *(getattr(config, part, None) for part in ("vision_config",))):
        if getattr(owner, name, None) is not None:
            return getattr(owner, name)
    return default


SOURCE = Source("any class of transformers, small, with random weights", "hf-tiny:BertModel", _make)
