"""Models of timm, small: the same weights, values and gradients."""

from functools import partial

import pytest
import torch
from torch import nn

from tests.peers import parity, randomized
from tests.peers_timm import timm
from tokennet import Tokens
from tokennet.interop import from_timm
from tokennet.models import NETS as NAMED
from tokennet.nets import count_parameters
from tokennet.tokenizers import Patches

TIGHT = 1e-11
SIZES = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "num_classes": 5}


def patches(images):
    """(B, C, H, W) to (B, N, C x 4 x 4), row by row."""
    cut = images.unfold(2, 4, 4).unfold(3, 4, 4)  # (B, C, H / 4, W / 4, 4, 4)
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def vit(**options):
    kind = timm.models.vision_transformer.VisionTransformer
    return randomized(kind(**{**SIZES, **options}, depth=2, num_heads=2))


def mixer(**options):
    return randomized(timm.models.mlp_mixer.MlpMixer(**{**SIZES, **options}, num_blocks=2))


def resmlp(**changes):
    block = timm.models.mlp_mixer.ResBlock
    affine = timm.models.mlp_mixer.Affine
    kind, options = timm.models.mlp_mixer.MlpMixer, {"block_layer": block, "norm_layer": affine}
    return randomized(kind(**{**SIZES, **options, **changes}, num_blocks=2, mlp_ratio=4))


def poolformer(**changes):
    kind = timm.models.metaformer.MetaFormer
    return randomized(kind(**{**POOLFORMER, **changes}))


POOLFORMER = {
    "depths": (2, 1, 1),
    "dims": (8, 12, 16),
    "num_classes": 5,
    "downsample_norm": None,
    "mlp_act": nn.GELU,
    "mlp_bias": True,
    "norm_layers": timm.layers.GroupNorm1,
    "layer_scale_init_values": 0.5,
    "res_scale_init_values": None,
    "use_mlp_head": False,
}
"""Options of `poolformer_s12`, small."""


def overlapping(images):
    """Patches of 7 x 7 every 4 pixels, on their grid."""
    return Patches(7, stride=4)(nn.functional.pad(images, (2, 1, 2, 1)))


@pytest.mark.parametrize("sides", [(20, 28), (36, 32)], ids=str)
def test_poolformer(sides, hold):
    """Stages of odd heights and even ones."""
    images, theirs = torch.randn(2, 3, *sides, dtype=torch.float64), poolformer()
    found = parity(from_timm, theirs, lambda net: net(overlapping(images)), lambda net: net(images))
    hold("poolformer", "timm MetaFormer", found, TIGHT)


def test_poolformer_reads_images_of_several_sizes_at_once():
    images = [torch.randn(3, *sides, dtype=torch.float64) for sides in ((20, 28), (36, 32))]
    theirs = poolformer()
    got = from_timm(theirs)(Tokens.batch([overlapping(image) for image in images]))
    want = torch.cat([theirs(image[None]) for image in images])
    torch.testing.assert_close(got, want, rtol=TIGHT, atol=TIGHT)


def test_sizes_are_those_of_poolformer():
    with torch.device("meta"):
        theirs = timm.create_model("poolformer_s12")
    assert count_parameters(NAMED["poolformer_12"].on_meta()) == count_parameters(theirs)


NETS = [("vit", vit), ("mlp_mixer", mixer), ("resmlp", resmlp)]


@pytest.mark.parametrize(("net", "make"), NETS)
def test_models_of_timm(net, make, hold):
    theirs = make()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    found = parity(from_timm, theirs, lambda net: net(patches(images)), lambda net: net(images))
    hold(net, f"timm {type(theirs).__name__}", found, TIGHT)


def test_what_is_not_known_is_refused():
    with pytest.raises(ValueError, match="read from its class token"):
        from_timm(vit(global_pool="avg", class_token=False))
    with pytest.raises(ValueError, match=r"without further parts; got .*norm_pre"):
        from_timm(vit(pre_norm=True))
    with pytest.raises(ValueError, match="no_embed_class of the model must be True where it has"):
        from_timm(vit(reg_tokens=2))
    with pytest.raises(TypeError, match="model must be one of VisionTransformer, MlpMixer"):
        from_timm(torch.nn.Linear(2, 2))


BLOCKS = timm.models.vision_transformer
VARIANTS = [
    (vit, {"qk_norm": True}, r"got blocks\.0\.attn\.q_norm\.weight"),
    (vit, {"act_layer": nn.ReLU}, r"activation of the model must be GELU\(\), got ReLU"),
    (vit, {"pos_embed": "none"}, "pos_embed of the model must be Parameter, got None"),
    (vit, {"final_norm": False}, "norm of the model must be LayerNorm, got Identity"),
    (vit, {"mlp_layer": timm.layers.GluMlp, "act_layer": nn.SiLU}, r"differs is model\.blocks\.0"),
    (vit, {"mlp_layer": timm.layers.GluMlp}, r"activation of the model must be SiLU\(\), got GELU"),
    (vit, {"norm_layer": nn.RMSNorm}, "norm of the model must be LayerNorm, got RMSNorm"),
    (vit, {"block_fn": BLOCKS.ResPostBlock}, "must be Block, got ResPostBlock"),
    (mixer, {"act_layer": nn.ReLU}, r"must be GELU\(\), got ReLU"),
    (mixer, {"act_layer": partial(nn.GELU, approximate="tanh")}, r"must be GELU\(\)"),
    (mixer, {"stem_norm": True}, r"got stem\.norm\.weight"),
    (mixer, {"num_classes": 0}, "head of the model must be Linear"),
    (mixer, {"global_pool": ""}, "global_pool must be 'avg'"),
    (resmlp, {"act_layer": nn.ReLU}, r"must be GELU\(\), got ReLU"),
    (resmlp, {"norm_layer": nn.LayerNorm}, "norm of the model must be Affine"),
    (poolformer, {"token_mixers": timm.models.metaformer.SepConv}, "must pool and scale"),
    (poolformer, {"layer_scale_init_values": None}, "must pool and scale"),
    (poolformer, {"norm_layers": timm.layers.LayerNorm2d}, "norm of the model must be GroupNorm"),
    (poolformer, {"downsample_norm": timm.layers.LayerNorm2d}, "downsample_norm of the model"),
    (poolformer, {"mlp_act": nn.ReLU}, r"must be GELU\(\), got ReLU"),
    (poolformer, {"use_mlp_head": True}, "head of the model must be Linear"),
    (poolformer, {"res_scale_init_values": 1.0}, r"got stages\.0\.blocks\.0\.res_scale1\.scale"),
    (poolformer, {"dims": (8, 8, 16)}, r"dims of the model must differ .*, got \[8, 8, 16\]"),
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
