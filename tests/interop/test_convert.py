"""A conversion is proven on random inputs, or refused; the model stays as it was."""

import copy
import pickle

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, ViTConfig, ViTForImageClassification

from tests.peers_timm import timm
from tokennet import Tokens
from tokennet.interop import from_huggingface, from_timm, from_torch
from tokennet.tokenizers import Patches

DIM, HEADS, HIDDEN = 8, 2, 16


class Twice(nn.TransformerEncoderLayer):
    def forward(self, src, *args, **kwargs):
        return super().forward(src, *args, **kwargs) * 2


class Frozen(nn.Linear):
    """Such as a frozen low-rank update that is kept in a buffer."""

    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features)
        self.register_buffer("update", torch.randn(out_features, in_features))

    def forward(self, z):
        return super().forward(z) + z @ self.update.T


class Wide(nn.TransformerEncoder):
    """A subclass of a class that is known."""


def encoder(kind=nn.TransformerEncoderLayer, depth=2, **options):
    layer = kind(DIM, HEADS, HIDDEN, **{"batch_first": True, **options})
    return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False).eval()


def decoder():
    layer = nn.TransformerDecoderLayer(DIM, HEADS, HIDDEN, batch_first=True)
    return nn.TransformerDecoder(layer, 2).eval()


def transformer(**options):
    return nn.Transformer(
        DIM, HEADS, 1, 1, HIDDEN, **{"batch_first": True, "norm_first": True, **options}
    ).eval()


def vit(**options):
    options = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "num_classes": 5, **options}
    return randomized(
        timm.models.vision_transformer.VisionTransformer(depth=2, num_heads=2, **options)
    )


def poolformer():
    kind = timm.models.metaformer.MetaFormer
    options = {"downsample_norm": None, "mlp_act": nn.GELU, "mlp_bias": True}
    options |= {"layer_scale_init_values": 0.5, "res_scale_init_values": None}
    options |= {"norm_layers": timm.layers.GroupNorm1, "use_mlp_head": False}
    return randomized(kind(depths=(2, 1), dims=(8, 12), num_classes=5, **options))


def gpt2(**options):
    sizes = {"n_positions": 9, "n_embd": 8, "n_layer": 2, "n_head": 2, **options}
    return randomized(
        GPT2LMHeadModel(GPT2Config(vocab_size=11, bos_token_id=0, eos_token_id=None, **sizes))
    )


def hf_vit(**options):
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 5}
    sizes |= {"intermediate_size": 12, "image_size": 8, "patch_size": 2, **options}
    return randomized(ViTForImageClassification(ViTConfig(**sizes)))


def randomized(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def change(path, value):
    """A function that sets an attribute of a part of a model."""
    owner, _, name = path.rpartition(".")
    return lambda model: setattr(model.get_submodule(owner), name, value)


def heads_of_timm(model):
    attention = model.blocks[1].attn
    attention.num_heads, attention.head_dim, attention.scale = 4, 4, 0.5


def scale_of_timm(model):
    attention = model.blocks[1].attn
    attention.scale, attention.fused_attn = 0.4, False


def buffer_of(path):
    return lambda model: model.get_submodule(path).register_buffer("shift", torch.ones(3))


def first_way(model):
    attention = model.layers[1].self_attn
    attention.batch_first = False


def hook(path, kind="register_forward_hook"):
    return lambda model: getattr(model.get_submodule(path), kind)(lambda *args: None)


def replaced_forward(model):
    layer = model.layers[1]
    inner = layer.forward
    layer.forward = lambda *args, **kwargs: 2 * inner(*args, **kwargs)


REFUSED = [
    (from_torch, lambda: encoder(Twice), None, r"module\.layers\.0 is a Twice of tests"),
    (from_torch, encoder, change("layers.1.linear1", Frozen(DIM, HIDDEN)), "linear1 is a Frozen"),
    (from_torch, encoder, buffer_of("layers.1.linear1"), r"no buffer .*, got layers\.1\.linear1"),
    (from_torch, encoder, hook("layers.1.norm1"), r"layers\.1\.norm1 must have no hooks"),
    (from_torch, encoder, hook("", "register_forward_pre_hook"), "got forward pre hooks"),
    (from_torch, encoder, hook("layers.0", "register_full_backward_hook"), "got backward hooks"),
    (from_torch, encoder, replaced_forward, r"layers\.1 must have the forward of its class"),
    (from_torch, encoder, first_way, "batch_first of the model must be the same everywhere"),
    (from_torch, encoder, change("layers.1.dropout2", nn.Dropout(0.5)), "dropout of the model"),
    (from_torch, encoder, change("layers.1.dropout2", nn.AlphaDropout()), "must be Dropout, got"),
    (from_torch, encoder, change("norm", nn.LayerNorm((7, DIM))), "value must have shape"),
    (from_torch, encoder, change("layers.1.self_attn.num_heads", 3), "num_heads must divide"),
    (from_torch, encoder, lambda model: model.layers[1].float().bfloat16(), "the same dtype, got"),
    (from_timm, vit, heads_of_timm, "num_heads of blocks of the model must be the same .* 4 at 1"),
    (from_timm, vit, scale_of_timm, r"first that differs is model\.blocks\.1"),
    (from_timm, vit, hook("blocks.1.mlp"), r"blocks\.1\.mlp must have no hooks"),
    (from_timm, vit, change("blocks.1.norm1", nn.Identity()), "norm of the model must be Layer"),
    (
        from_timm,
        vit,
        change("blocks.1.mlp.act", nn.Tanh()),
        "activation of the model must be",
    ),
    (from_timm, vit, change("blocks.1.drop_path1", nn.Tanh()), r"differs is model\.blocks\.1"),
    (
        from_timm,
        poolformer,
        change("stages.0.blocks.1.token_mixer.pool", nn.AvgPool2d(5, 1, 2)),
        "pool of the model must be of 3 x 3 patches",
    ),
    (
        from_timm,
        poolformer,
        change("stages.0.blocks.1.token_mixer.pool", nn.AvgPool2d(3, 1, 1)),
        r"for an image of 36 x 32 .* differs is model\.stages\.0\.blocks\.1",
    ),
    (from_huggingface, gpt2, change("transformer.h.1.attn.head_dim", 8), r"transformer\.h\.1"),
    (from_huggingface, gpt2, change("transformer.h.1.mlp.act", nn.ReLU()), r"transformer\.h\.1"),
    (from_huggingface, hf_vit, change("vit.layers.1.attention.scaling", 0.3), r"vit\.layers\.1"),
]


@pytest.mark.parametrize(("convert", "make", "spoil", "reason"), REFUSED)
def test_what_would_be_another_function_is_refused(convert, make, spoil, reason):
    model = make()
    if spoil is not None:
        convert(model, verify=False)  # until it is spoiled it is converted
        spoil(model)
    with pytest.raises(ValueError, match=reason):
        convert(model)


def test_heads_of_a_later_layer_are_read():
    model, z, source = decoder(), torch.randn(2, 5, DIM), torch.randn(2, 3, DIM)
    model.layers[1].multihead_attn.num_heads = model.layers[1].multihead_attn.head_dim = 4
    torch.testing.assert_close(from_torch(model)(z, source), model(z, source), rtol=1e-4, atol=1e-5)


def test_a_subclass_of_a_known_class_is_another_class():
    wide = encoder()
    wide.__class__ = Wide
    with pytest.raises(TypeError, match=r"must be one of .*; got Wide of tests\.interop"):
        from_torch(wide)
    model = gpt2()
    model.__class__ = type("GPT2LMHeadModel", (GPT2LMHeadModel,), {"__module__": "mine"})
    with pytest.raises(TypeError, match="got GPT2LMHeadModel of mine"):
        from_huggingface(model)


@pytest.mark.parametrize("make", [encoder, transformer, decoder], ids=lambda make: make.__name__)
def test_sequences_first_are_refused_or_asked_for(make):
    model = randomized(make())
    for part in model.modules():
        if hasattr(part, "batch_first"):
            part.batch_first = False
    with pytest.raises(ValueError, match="module must have batch_first=True"):
        from_torch(model)
    net, z = from_torch(model, batch_first=True), torch.randn(5, 7, DIM)
    inputs = (z,) if make is encoder else (z, torch.randn(4, 7, DIM))
    got = net(*(each.transpose(0, 1) for each in inputs)).transpose(0, 1)
    torch.testing.assert_close(got, model(*inputs), rtol=1e-4, atol=1e-5)


def test_attention_reads_sequences_first_only_if_asked():
    model, z = nn.MultiheadAttention(DIM, HEADS).eval(), torch.randn(5, 7, DIM)
    with pytest.raises(ValueError, match=r"from_torch\(module, batch_first=True\) converts it"):
        from_torch(model)
    got = from_torch(model, batch_first=True)(z.transpose(0, 1)).transpose(0, 1)
    torch.testing.assert_close(got, model(z, z, z)[0], rtol=1e-4, atol=1e-5)


@pytest.fixture
def fast_path():
    """The fast path of transformers of torch.nn is on, as it is by default."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(True)
    yield torch.backends.mha.get_fastpath_enabled
    torch.backends.mha.set_fastpath_enabled(before)


@pytest.mark.parametrize(
    ("convert", "make"),
    [(from_torch, encoder), (from_torch, transformer), (from_timm, vit), (from_huggingface, gpt2)],
    ids=["encoder", "transformer", "vit", "gpt2"],
)
def test_the_model_stays_as_it_was(convert, make, fast_path):
    model = make().train().bfloat16()
    first = next(model.children())
    first.eval()
    before = copy.deepcopy(model.state_dict())
    modes = [part.training for part in model.modules()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    net = convert(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert fast_path()
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert net.training
    assert {parameter.dtype for parameter in net.parameters()} == {torch.bfloat16}


def test_a_failed_conversion_restores_the_fast_path(fast_path):
    model = encoder()
    model.layers[1].norm1.normalized_shape = (3,)
    with pytest.raises(ValueError, match="cannot run on random inputs"):
        from_torch(model)
    assert fast_path()


def test_the_result_says_whether_it_was_verified():
    found = from_torch(encoder()).conversion
    assert (found.source, found.dtype, found.is_verified) == (
        "TransformerEncoder",
        torch.float64,
        True,
    )
    assert found.error < 1e-13
    found = from_torch(encoder(), verify_dtype=torch.float32).conversion
    assert 0 < found.error < 1e-5
    net = from_torch(encoder(), verify=False)
    assert (net.conversion.is_verified, net.conversion.dtype) == (False, None)
    assert pickle.loads(pickle.dumps(net)).conversion == net.conversion


def test_without_verification_an_odd_block_is_converted():
    """The comparison is what finds it: `test_what_would_be_another_function_is_refused`."""
    model = vit()
    scale_of_timm(model)
    assert not from_timm(model, verify=False).conversion.is_verified


def test_weights_that_are_not_numbers_prove_nothing():
    model = encoder()
    model.layers[1].linear2.bias.data[0] = torch.nan
    with pytest.raises(ValueError, match=r"a part of nan .* differs is module\.layers\.1"):
        from_torch(model)


def test_a_model_that_cannot_be_copied_is_converted_without_verification():
    model = encoder()
    model.lock = (number for number in range(3))
    with pytest.raises(ValueError, match="verify=False converts"):
        from_torch(model)
    assert not from_torch(model, verify=False).conversion.is_verified


def test_frozen_weights_stay_frozen():
    model = encoder()
    model.layers[0].requires_grad_(False)
    net = from_torch(model)
    assert [all(p.requires_grad for p in layer.parameters()) for layer in net.layers] == [
        False,
        False,
        True,
        True,
    ]


def test_a_frozen_encoder_is_verified_without_the_fast_path(fast_path):
    """The fast path reads weights and would run neither subclasses nor replaced parts."""
    model = encoder().requires_grad_(False)
    z = torch.randn(3, 5, DIM)
    torch.testing.assert_close(from_torch(model)(z), model(z), rtol=1e-4, atol=1e-5)


def test_an_activation_of_ones_own_is_used_as_it_is():
    class Wave(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("period", torch.tensor(2.0))

        def forward(self, z):
            return (z * self.period).sin()

    model, z = encoder(activation=Wave()), torch.randn(3, 5, DIM)
    torch.testing.assert_close(from_torch(model)(z), model(z), rtol=1e-4, atol=1e-5)


def test_images_of_other_sides_than_the_models():
    """Rows and columns of patches come from the model, not from their number."""
    model = vit(img_size=(8, 24))
    images = torch.randn(2, 3, 8, 24)
    got = from_timm(model)(Patches(4)(images))
    torch.testing.assert_close(got, model(images), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="must be on a grid of 2 x 6, .* got 3 x 4"):
        from_timm(model)(Patches(4)(torch.randn(2, 3, 12, 16)))


def test_resampled_as_timm_does():
    model = vit(img_size=16)
    net = from_timm(model, resample=(3, 7))
    model.set_input_size(img_size=(12, 28))
    images = torch.randn(2, 3, 12, 28)
    torch.testing.assert_close(net(Patches(4)(images)), model(images), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="net must be a vit"):
        from_timm(poolformer(), resample=(3, 7))


@pytest.mark.parametrize("sides", [(6, 4), (12, 10)], ids=str)
def test_resampled_as_hugging_face_does(sides):
    model, images = hf_vit(), torch.randn(2, 3, *sides)
    net = from_huggingface(model, resample=(sides[0] // 2, sides[1] // 2))
    want = model(images, interpolate_pos_encoding=True).logits
    torch.testing.assert_close(net(Patches(2)(images)), want, rtol=1e-4, atol=1e-4)


def test_a_short_context_is_verified_within_it():
    assert from_huggingface(gpt2(n_positions=3)).conversion.is_verified


def test_tokens_of_a_converted_transformer_stay_tokens():
    model, z = transformer(), torch.randn(2, 5, DIM)
    net = from_torch(model)
    assert torch.equal(net(z, z), net(Tokens(z), Tokens(z)).z)
