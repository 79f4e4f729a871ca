"""DeiT III and DINOv2 of timm and Hugging Face: the same weights, values and gradients."""

from functools import partial

import pytest
import torch
import transformers
from torch import nn

from tests.families import by_default
from tests.peers import parity, randomized
from tests.peers_timm import timm
from tokennet.interop import from_huggingface, from_timm, to_huggingface
from tokennet.models import deit3, dinov2, vit
from tokennet.tokenizers import Patches

TIGHT = 1e-11
SIZES = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "num_classes": 5}
NET = {"in_features": 48, "out_features": 5, "num_tokens": 4, "dim": 16, "depth": 2, "num_heads": 2}


def of_timm(**options):
    kind = timm.models.vision_transformer.VisionTransformer
    options = {**SIZES, "init_values": 0.1, **options}
    return randomized(kind(**options, depth=2, num_heads=2))


def of_hugging_face(kind, **options):
    config = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8,
        "patch_size": 4, "num_labels": 5, "mlp_ratio": 2, **options,
    }  # fmt: skip
    of_kind = kind.replace("ForImageClassification", "").replace("Model", "")
    made = getattr(transformers, f"{of_kind}Config")(**config)
    return randomized(getattr(transformers, kind)(made))


def output(out):
    return out.logits if "logits" in out else out.pooler_output


GATED = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 3}
OF_TIMM = {
    "deit3": (deit3, {"no_embed_class": True}, {}),
    "dinov2": (dinov2, {}, {"readout": "class_token"}),
    "registers": (
        None,
        {"reg_tokens": 2, "no_embed_class": True, "num_classes": 0},
        {},
    ),
    "gated": (dinov2, GATED, {"gated": True, "hidden": 24, "readout": "class_token"}),
}


@pytest.mark.parametrize("name", OF_TIMM)
def test_models_of_timm(name, hold):
    """The net is what is made by name, with their weights."""
    build, options, ours = OF_TIMM[name]
    theirs, images = of_timm(**options), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    cut = Patches(4)(images)
    found = parity(from_timm, theirs, lambda net: net(cut), lambda net: net(images))
    hold("deit3" if name == "deit3" else "dinov2", "timm VisionTransformer", found, TIGHT)
    if build is not None:
        net, made = from_timm(theirs), build(**NET, **ours).double()
        made.load_state_dict(net.state_dict())
        assert [p.eps for p in made.modules() if isinstance(p, nn.LayerNorm)] == [1e-6] * 5
        torch.testing.assert_close(made(cut), net(cut), rtol=TIGHT, atol=TIGHT)


KINDS = {
    "Dinov2ForImageClassification": {},
    "Dinov2Model": {},
    "Dinov2WithRegistersForImageClassification": {"num_register_tokens": 2},
    "Dinov2WithRegistersModel": {"num_register_tokens": 2},
    "gated": {"use_swiglu_ffn": True, "num_labels": 0},
}


@pytest.mark.parametrize(
    "name", by_default(KINDS, [name for name in KINDS if "RegistersM" not in name])
)
def test_dinov2_of_hugging_face(name, hold):
    kind = "Dinov2ForImageClassification" if name == "gated" else name
    make = partial(of_hugging_face, kind, **KINDS[name])
    theirs, images = make(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    patches = Patches(4)(images)
    found = parity(
        from_huggingface, theirs, lambda net: net(patches), lambda net: output(net(images))
    )
    hold("dinov2", f"transformers {kind}", found, TIGHT)
    back = to_huggingface(from_huggingface(theirs), make())
    torch.testing.assert_close(output(back(images)), output(theirs(images)), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["Dinov2Model", "Dinov2WithRegistersModel"])
def test_dinov2_of_images_of_another_size(kind):
    """Resampled as their own model does by itself, with and without smoothing."""
    images, theirs = torch.randn(2, 3, 12, 20, dtype=torch.float64), of_hugging_face(kind)
    net = from_huggingface(theirs, resample=(3, 5))
    got, want = net(Patches(4)(images)), theirs(images).pooler_output
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


def test_registers_and_class_token_leave_the_symmetry_of_the_patches():
    """What is prepended is not the index of a patch."""
    for readout in ("class_token", "class_and_mean"):
        net = vit(num_tokens=None, registers=3, readout=readout, dim=8, num_heads=2, depth=1)
        assert net.symmetry.reads == {"pos"}


def test_configurations_of_dinov2_that_are_refused():
    theirs = of_hugging_face("Dinov2ForImageClassification", hidden_act="relu")
    with pytest.raises(ValueError, match="model.config.hidden_act must be 'gelu', got 'relu'"):
        from_huggingface(theirs)
