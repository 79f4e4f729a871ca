"""Models of images of Hugging Face as nets of layers: how they are built, and run to compare."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from tokennet.interop.blocks import Block, copy_blocks
from tokennet.interop.convert import Converter, Converters
from tokennet.interop.copy import Copier, expect_config, expect_kind
from tokennet.interop.verify import Inputs, Run
from tokennet.models import vit
from tokennet.tokenizers import Patches

VIT = Block(
    norms=("layernorm_before", "layernorm_after"),
    attention=tuple(f"attention.{name}_proj" for name in "qkvo"),
    function=("mlp.fc1", "mlp.fc2"),
)


def _vit(model: Any, copy: Copier) -> nn.Module:
    config, theirs = model.config, model.vit
    expect_config(config, hidden_act="gelu")
    expect_kind("classifier", model.classifier, nn.Linear)
    positions = theirs.embeddings.position_embeddings[0]  # (1 + N, D)
    patch = theirs.embeddings.patch_embeddings.projection
    net = vit(
        patch.weight[0].numel(),
        model.classifier.out_features,
        _grid(theirs),
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        hidden=config.intermediate_size,
    )
    layers: Any = net.layers
    copy.linear(layers[1].fn, patch)
    copy.parameter(layers[2].vectors, theirs.embeddings.cls_token[0])
    copy.parameter(layers[3].tables[0].weight, positions)
    copy_blocks(copy, layers[4:], theirs.layers, VIT)
    copy.readout(net.readout, theirs.layernorm, model.classifier)
    return net


def _grid(theirs: Any) -> tuple[int, int]:
    """Rows and columns of the patches of their ViT."""
    parts = theirs.embeddings.patch_embeddings
    sides = zip(parts.image_size, parts.patch_size, strict=True)
    rows, columns = (size // patch for size, patch in sides)
    return rows, columns


def _runs_of_vit(theirs: Any, ours: Any, inputs: Inputs) -> Iterator[Run]:
    """On an image of the size that the model is made for."""
    parts = theirs.vit.embeddings.patch_embeddings
    patches = Patches(tuple(parts.patch_size))
    height, width = (n * side for n, side in zip(_grid(theirs.vit), parts.patch_size, strict=True))
    images = inputs.normal(1, parts.num_channels, *parts.image_size)
    yield Run("an image", theirs(images).logits, ours(patches(images[..., :height, :width])))


CONVERTERS: Converters = {
    "ViTForImageClassification": Converter(_vit, _runs_of_vit),
}
