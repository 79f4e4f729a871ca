"""Nets as models of Hugging Face: the way there and back, and what has no way."""

import pytest
import torch
import transformers
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from tests.families import by_default
from tests.peers import randomized
from tokennet import Attention
from tokennet.interop import from_huggingface, to_huggingface
from tokennet.models import bert, gpt, vit

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def gpt2(**options):
    sizes = {"vocab_size": 23, "n_positions": 20, "n_embd": 16, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**{**sizes, **options}, bos_token_id=0, eos_token_id=None))


def theirs_bert(**options):
    config = {"vocab_size": 23, "intermediate_size": 24, "max_position_embeddings": 12, **SIZES}
    return BertForMaskedLM(BertConfig(**{**config, **options}))


def theirs_masked(kind, **options):
    config = {"vocab_size": 23, "intermediate_size": 24, "max_position_embeddings": 14, **SIZES}
    config = getattr(transformers, f"{kind}Config")(**{**config, **options})
    return getattr(transformers, f"{kind}ForMaskedLM")(config)


def theirs_distilbert(**options):
    return theirs_masked("DistilBert", dim=16, n_layers=2, n_heads=2, hidden_dim=24, **options)


def theirs_vit():
    config = ViTConfig(**SIZES, intermediate_size=24, image_size=8, patch_size=4, num_labels=5)
    return ViTForImageClassification(config)


def theirs_llama(kind="Llama", **options):
    sizes = {**SIZES, "vocab_size": 23, "intermediate_size": 24, "max_position_embeddings": 20}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}
    config = getattr(transformers, f"{kind}Config")(**{**sizes, **options})
    return getattr(transformers, f"{kind}ForCausalLM")(config)


def scaled(kind):
    given = {"rope_type": kind, "rope_theta": 100.0, "factor": 4.0}
    return {**given, "original_max_position_embeddings": 8}


MODELS = {
    "gpt2": gpt2,
    "bert": theirs_bert,
    "roberta": lambda: theirs_masked("Roberta"),
    "xlm_roberta": lambda: theirs_masked("XLMRoberta", type_vocab_size=1),
    "camembert": lambda: theirs_masked("Camembert"),
    "distilbert": theirs_distilbert,
    "vit": theirs_vit,
    "llama": theirs_llama,
    "mistral": lambda: theirs_llama("Mistral", sliding_window=3),
    "qwen3": lambda: theirs_llama("Qwen3", tie_word_embeddings=True),
    "wide": lambda: theirs_llama("Qwen3", head_dim=6),
    "yarn": lambda: theirs_llama(rope_parameters=scaled("yarn")),
    "llama3": lambda: theirs_llama(
        rope_parameters={**scaled("llama3"), "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    ),
}


@pytest.mark.parametrize("name", by_default(MODELS, set(MODELS) - {"xlm_roberta", "camembert"}))
def test_there_and_back_is_the_same_model(name):
    theirs = randomized(MODELS[name]())
    net = from_huggingface(theirs)
    blank = MODELS[name]()
    before = {key: value.clone() for key, value in blank.state_dict().items()}
    back = to_huggingface(net, blank)
    for key, value in theirs.state_dict().items():
        if key.startswith("roberta.") and key.endswith("position_embeddings.weight"):
            value[:2] = back.state_dict()[key][:2]  # of padding, which a net has not
        torch.testing.assert_close(back.state_dict()[key], value, rtol=0, atol=0)
    assert all(torch.equal(blank.state_dict()[key], value) for key, value in before.items())
    assert next(back.parameters()).dtype == torch.float64
    assert not back.training


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "wide", "yarn", "llama3"])
def test_decoders_of_today_give_the_same_gradients_and_tokens(name):
    theirs = MODELS[name]().eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3 if parameter.dim() > 1 else 1.0)
    net, ids = from_huggingface(theirs), torch.randint(3, 23, (2, 9))
    want, found = theirs(ids).logits, net(ids)
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)
    weight = torch.linspace(-1, 1, want.numel()).view_as(want)
    slopes = [
        torch.autograd.grad((out * weight).sum(), own)[0]
        for out, own in (
            (found, net.layers[1].layer.key.weight),
            (want, theirs.model.layers[0].self_attn.k_proj.weight),
        )
    ]
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-4 * float(slopes[1].abs().max()))
    given = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    tokens = theirs.generate(ids[:1], max_new_tokens=6, **given)
    assert net.generate(ids[0], max_new_tokens=6).tolist()[-6:] == tokens[0, 9:].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_act": "gelu"}, "model.config.hidden_act must be 'silu', got 'gelu'"),
        ({"attention_bias": True}, "model.config.attention_bias must be False, got True"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "model.config.rope_parameters must have a rope_type of default, linear, yarn or llama3",
        ),
    ],
)
def test_configurations_of_llama_that_the_net_does_not_know(options, message):
    with pytest.raises(ValueError, match=message):
        from_huggingface(theirs_llama(**options))


def test_nets_that_were_trained_here(tmp_path):
    """Saved, and read by the other library."""
    net = gpt(vocab=23, dim=16, depth=2, num_heads=2, max_length=20)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    to_huggingface(net, gpt2()).save_pretrained(tmp_path)
    read, ids = GPT2LMHeadModel.from_pretrained(tmp_path).eval(), torch.randint(23, (2, 7))
    torch.testing.assert_close(read(ids).logits, net.eval()(ids), rtol=1e-5, atol=1e-5)
    assert to_huggingface(net.train(), gpt2(), verify=False).training


def test_what_has_no_way_is_refused():
    net = gpt(vocab=23, dim=16, depth=2, num_heads=2, max_length=20)
    with pytest.raises(ValueError, match=r"layers\S+ must be \(24, 16\), got \(23, 16\)"):
        to_huggingface(net, gpt2(vocab_size=24))
    with pytest.raises(ValueError, match="must be missing, got"):
        to_huggingface(net, gpt2(n_layer=1))
    with pytest.raises(TypeError, match="model must be one of GPT2LMHeadModel, .*; got ViTModel"):
        to_huggingface(net, ViTModel(theirs_vit().config))
    with pytest.raises(TypeError, match="net must be a net of layers, got int"):
        to_huggingface(3, gpt2())
    other = gpt(
        vocab=23, dim=16, depth=2, num_heads=2, max_length=20,
        mixer=lambda dim, num_heads: Attention(dim, num_heads, softcap=0.5),
    )  # fmt: skip
    for parameter in other.parameters():
        nn.init.normal_(parameter, std=0.5)
    with pytest.raises(ValueError, match="the net gives other outputs"):
        to_huggingface(other, gpt2())
    masked = bert(vocab=23, dim=16, depth=2, num_heads=2, max_length=12, hidden=24)
    eps = masked.layers[3].norm.eps
    with pytest.raises(ValueError, match=f"whose norms have eps = {eps}, as .* got 0.125"):
        to_huggingface(masked, theirs_bert(layer_norm_eps=0.125))


def test_a_vision_transformer_of_this_library():
    net = vit(48, 5, (2, 2), dim=16, depth=2, num_heads=2, hidden=24)
    eps = net.layers[4].norm.eps
    model = theirs_vit()
    model.config.layer_norm_eps = eps
    assert type(to_huggingface(net, ViTForImageClassification(model.config))) is type(model)
