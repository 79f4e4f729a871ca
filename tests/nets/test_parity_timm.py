"""Models of timm, small: the same weights, values and gradients."""

import pytest
import torch

from tests.peers import parity, randomised
from tests.peers_timm import timm
from tokennet.interop import from_timm

TIGHT = 1e-11
SIZES = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "num_classes": 5}


def patches(images):
    """(B, C, H, W) to (B, N, C x 4 x 4), row by row."""
    cut = images.unfold(2, 4, 4).unfold(3, 4, 4)  # (B, C, H / 4, W / 4, 4, 4)
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def vit(**options):
    kind = timm.models.vision_transformer.VisionTransformer
    return randomised(kind(**SIZES, depth=2, num_heads=2, **options))


def mixer():
    return randomised(timm.models.mlp_mixer.MlpMixer(**SIZES, num_blocks=2))


@pytest.mark.parametrize(("net", "make"), [("vit", vit), ("mlp_mixer", mixer)])
def test_models_of_timm(net, make, hold):
    theirs = make()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    found = parity(from_timm, theirs, lambda net: net(patches(images)), lambda net: net(images))
    hold(net, f"timm {type(theirs).__name__}", found, TIGHT)


def test_what_is_not_known_is_refused():
    with pytest.raises(ValueError, match="read at its class token"):
        from_timm(vit(global_pool="avg", class_token=False))
    with pytest.raises(ValueError, match="nothing besides"):
        from_timm(vit(reg_tokens=2))
    with pytest.raises(TypeError, match="model must be one of VisionTransformer, MlpMixer"):
        from_timm(torch.nn.Linear(2, 2))
