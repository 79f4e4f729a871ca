"""Models of images of Hugging Face as nets of layers: how they are built, and run to compare."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from tokennet.checks import lookup
from tokennet.interop.blocks import Block, copy_blocks, copy_readout
from tokennet.interop.convert import Converter, Converters
from tokennet.interop.copy import Copier, expect_config, expect_kind
from tokennet.interop.verify import SIZES, Inputs, Run
from tokennet.models import clip, dinov2, vit
from tokennet.nets import QuickGELU
from tokennet.tokenizers import Patches

VIT = Block(
    norms=("layernorm_before", "layernorm_after"),
    attention=tuple(f"attention.{name}_proj" for name in "qkvo"),
    function=("mlp.fc1", "mlp.fc2"),
)


DINOV2 = Block(
    norms=("norm1", "norm2"),
    attention=VIT.attention,
    function=VIT.function,
    scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
)
CLIP = Block(
    norms=("layer_norm1", "layer_norm2"),
    attention=tuple(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")),
    function=("mlp.fc1", "mlp.fc2"),
)
CLIP_ACTIVATIONS = {"quick_gelu": QuickGELU, "gelu": nn.GELU}
GATED = tuple(f"mlp.{name}_proj" for name in ("gate", "up", "down"))


def _vit(model: Any, copy: Copier) -> nn.Module:
    config, theirs = model.config, model.vit
    expect_config(config, hidden_act="gelu")
    expect_kind("classifier", model.classifier, nn.Linear)
    net = vit(
        *_sizes(theirs, model.classifier.out_features),
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        hidden=config.intermediate_size,
    )
    layers: Any = net.layers
    _copy_embeddings(copy, layers, theirs.embeddings)
    copy_blocks(copy, layers[4:], theirs.layers, VIT)
    copy.readout(net.readout, theirs.layernorm, model.classifier)
    return net


def _dinov2(model: Any, copy: Copier) -> nn.Module:
    """With registers or without; what has no head is read from its class token."""
    config, theirs = model.config, model.base_model
    head = getattr(model, "classifier", nn.Identity())
    expect_kind("classifier", head, nn.Linear, nn.Identity)
    gated = bool(getattr(config, "use_swiglu_ffn", False))
    if not gated:
        expect_config(config, hidden_act="gelu")
    registers = getattr(theirs.embeddings, "register_tokens", None)
    first = theirs.encoder.layer[0].mlp
    net = dinov2(
        *_sizes(theirs, getattr(head, "out_features", 1)),
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        hidden=(first.gate_proj if gated else first.fc1).out_features,
        registers=0 if registers is None else registers.shape[1],
        gated=gated,
        readout="class_token" if model is theirs else "class_and_mean",
    )
    layers: Any = net.layers
    _copy_embeddings(copy, layers, theirs.embeddings)
    if registers is not None:
        copy.parameter(layers[4].vectors, registers[0])
    if getattr(theirs.embeddings, "mask_token", None) is not None:
        copy.mark(theirs.embeddings.mask_token)  # read in pretraining only
    names = DINOV2._replace(function=GATED) if gated else DINOV2
    copy_blocks(copy, layers[4 if registers is None else 5 :], theirs.encoder.layer, names)
    copy_readout(copy, net.readout, theirs.layernorm, head)
    return net


def _clip(model: Any, copy: Copier) -> nn.Module:
    text, vision = model.config.text_config, model.config.vision_config
    _end_of_text(text)
    activation = vision.hidden_act
    expect_config(text, "model.config.text_config", hidden_act=activation)
    theirs, other = model.vision_model, model.text_model
    patch, side = theirs.embeddings.patch_embedding, vision.image_size // vision.patch_size
    net: Any = clip(
        patch.weight[0].numel(),
        text.vocab_size,
        (side, side),
        text.hidden_size,
        text.num_hidden_layers,
        text.num_attention_heads,
        hidden=text.intermediate_size,
        image_dim=vision.hidden_size,
        image_depth=vision.num_hidden_layers,
        image_heads=vision.num_attention_heads,
        image_hidden=vision.intermediate_size,
        out_features=model.config.projection_dim,
        max_length=text.max_position_embeddings,
        activation=lookup("model.config.vision_config.hidden_act", activation, CLIP_ACTIVATIONS),
    )
    image, words = (tower.layers for tower in (net.image, net.text))
    copy.linear(image[1].fn, patch)
    copy.parameter(image[2].vectors, theirs.embeddings.class_embedding[None])
    copy.weight(image[3].tables[0], theirs.embeddings.position_embedding.weight)
    copy.norm(image[4].fn, theirs.pre_layrnorm)
    copy_blocks(copy, image[5:], theirs.encoder.layers, CLIP)
    copy.readout(net.image.readout, theirs.post_layernorm, model.visual_projection)
    copy.weight(words[0].tables[0], other.embeddings.token_embedding.weight)
    copy.weight(words[1].tables[0], other.embeddings.position_embedding.weight)
    copy_blocks(copy, words[2:], other.encoder.layers, CLIP)
    copy.readout(net.text.readout, other.final_layer_norm, model.text_projection)
    copy.parameter(net.log_scale, model.logit_scale)
    return net


def _end_of_text(config: Any) -> int:
    """The id from which a text is read; with 2, an old mistake, they read the largest id."""
    end: int = config.vocab_size - 1 if config.eos_token_id == 2 else config.eos_token_id
    if not 0 <= end < config.vocab_size:
        raise ValueError(
            "model.config.text_config.eos_token_id must be an id below vocab_size = "
            f"{config.vocab_size}, from which texts are read, got {end}"
        )
    return end


def _sizes(theirs: Any, out_features: int) -> tuple[int, int, tuple[int, int]]:
    """First arguments of `vit`."""
    patch = theirs.embeddings.patch_embeddings.projection
    return patch.weight[0].numel(), out_features, _grid(theirs)


def _copy_embeddings(copy: Copier, layers: Any, theirs: Any) -> None:
    copy.linear(layers[1].fn, theirs.patch_embeddings.projection)
    copy.parameter(layers[2].vectors, theirs.cls_token[0])
    copy.parameter(layers[3].tables[0].weight, theirs.position_embeddings[0])  # (1 + N, D)


def _grid(theirs: Any) -> tuple[int, int]:
    """Rows and columns of the patches of their ViT."""
    parts = theirs.embeddings.patch_embeddings
    sides = zip(parts.image_size, parts.patch_size, strict=True)
    rows, columns = (size // patch for size, patch in sides)
    return rows, columns


def _runs_of_patches(theirs: Any, ours: Any, inputs: Inputs) -> Iterator[Run]:
    """On an image of the size that the model is made for."""
    parts = theirs.base_model.embeddings.patch_embeddings
    patches, grid = Patches(tuple(parts.patch_size)), _grid(theirs.base_model)
    height, width = (n * side for n, side in zip(grid, parts.patch_size, strict=True))
    images = inputs.normal(1, parts.num_channels, *parts.image_size)
    out = theirs(images)
    want = out.logits if "logits" in out else out.pooler_output
    yield Run("an image", want, ours(patches(images[..., :height, :width])))


def _runs_of_clip(theirs: Any, ours: Any, inputs: Inputs) -> Iterator[Run]:
    """Texts of two lengths, both up to their end token."""
    text, vision = theirs.config.text_config, theirs.config.vision_config
    sizes = [min(size, text.max_position_embeddings) for size in SIZES]
    side = vision.image_size // vision.patch_size * vision.patch_size
    images = inputs.normal(2, vision.num_channels, *[vision.image_size] * 2)
    ids, end = inputs.ids(text.vocab_size, 2, max(sizes)), _end_of_text(text)
    ids = torch.where(ids == end, (end + 1) % text.vocab_size, ids)
    for row, size in zip(ids, sizes, strict=True):
        row[size - 1 :] = end
    want = theirs(input_ids=ids, pixel_values=images).logits_per_image
    rows = [row[:size] for row, size in zip(ids, sizes, strict=True)]
    cut = Patches(vision.patch_size)(images[..., :side, :side])
    yield Run("two images and two texts", want, ours(cut, rows))


CONVERTERS: Converters = {
    "CLIPModel": Converter(_clip, _runs_of_clip),
    "ViTForImageClassification": Converter(_vit, _runs_of_patches),
    **dict.fromkeys(
        (
            "Dinov2Model",
            "Dinov2ForImageClassification",
            "Dinov2WithRegistersModel",
            "Dinov2WithRegistersForImageClassification",
        ),
        Converter(_dinov2, _runs_of_patches),
    ),
}
