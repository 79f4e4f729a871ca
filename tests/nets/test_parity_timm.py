"""Models of timm, small: the same weights, values and gradients."""

from functools import partial

import pytest
import torch
from torch import nn

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
    return randomised(kind(**{**SIZES, **options}, depth=2, num_heads=2))


def mixer(**options):
    return randomised(timm.models.mlp_mixer.MlpMixer(**{**SIZES, **options}, num_blocks=2))


def resmlp(**changes):
    block = timm.models.mlp_mixer.ResBlock
    affine = timm.models.mlp_mixer.Affine
    kind, options = timm.models.mlp_mixer.MlpMixer, {"block_layer": block, "norm_layer": affine}
    return randomised(kind(**{**SIZES, **options, **changes}, num_blocks=2, mlp_ratio=4))


NETS = [("vit", vit), ("mlp_mixer", mixer), ("resmlp", resmlp)]


@pytest.mark.parametrize(("net", "make"), NETS)
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


BLOCKS = timm.models.vision_transformer
VARIANTS = [
    (vit, {"init_values": 0.1}, r"no parameter besides .*, got blocks\.0\.ls1\.gamma"),
    (vit, {"qk_norm": True}, r"got blocks\.0\.attn\.q_norm\.weight"),
    (vit, {"act_layer": nn.ReLU}, r"activation of the model must be GELU\(\), got ReLU"),
    (vit, {"pos_embed": "none"}, "pos_embed of the model must be Parameter, got None"),
    (vit, {"final_norm": False}, "norm of the model must be LayerNorm, got Identity"),
    (vit, {"num_classes": 0}, "head of the model must be Linear, got Identity"),
    (vit, {"norm_layer": nn.RMSNorm}, "norm of the model must be LayerNorm, got RMSNorm"),
    (vit, {"block_fn": BLOCKS.ResPostBlock}, "must be Block, got ResPostBlock"),
    (mixer, {"act_layer": nn.ReLU}, r"must be GELU\(\), got ReLU"),
    (mixer, {"act_layer": partial(nn.GELU, approximate="tanh")}, r"must be GELU\(\)"),
    (mixer, {"stem_norm": True}, r"got stem\.norm\.weight"),
    (mixer, {"num_classes": 0}, "head of the model must be Linear"),
    (mixer, {"global_pool": ""}, "global_pool must be 'avg'"),
    (resmlp, {"act_layer": nn.ReLU}, r"must be GELU\(\), got ReLU"),
    (resmlp, {"norm_layer": nn.LayerNorm}, "norm of the model must be Affine"),
]


@pytest.mark.parametrize(("make", "options", "reason"), VARIANTS)
def test_variants_are_refused(make, options, reason):
    with pytest.raises(ValueError, match=reason):
        from_timm(make(**options))


def test_a_parameter_that_the_net_lacks_is_named():
    theirs = vit()
    theirs.blocks[1].attn.gate = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=r"got blocks\.1\.attn\.gate"):
        from_timm(theirs)


def test_memory_formats_are_followed():
    theirs = vit().to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(from_timm(theirs)(patches(images)), theirs(images))
