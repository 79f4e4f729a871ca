"""Models of text of Hugging Face by name: the same weights, values and gradients in float64."""

import pytest
import torch
import transformers

from tests.families import by_default
from tests.peers import Widened, parity, randomized
from tokennet.interop import from_huggingface, to_huggingface

TIGHT = 1e-11
VOCAB = 23
SIZES = {
    "vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 24, "max_position_embeddings": 20, "pad_token_id": 1,
}  # fmt: skip
DISTILBERT = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}
MASKED = {"Roberta": {}, "DistilBert": DISTILBERT, "XLMRoberta": {}, "Camembert": {}}


def model(kind, head, **options):
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **options})
    with Widened():
        return randomized(getattr(transformers, kind + head)(config))


def ids(*shape):
    """Not those of padding, which learn nothing."""
    return torch.randint(2, VOCAB, shape)


def hold_ids(hold, net, theirs, batch):
    def logits(model):
        with Widened():
            return model(batch).logits

    found = parity(from_huggingface, theirs, lambda net: net(batch), logits)
    hold(net, f"transformers {type(theirs).__name__}", found, TIGHT)


@pytest.mark.parametrize("kind", by_default(MASKED, ["Roberta", "DistilBert"]))
def test_relatives_of_bert(kind, hold):
    hold_ids(hold, "bert", model(kind, "ForMaskedLM", **MASKED[kind]), ids(2, 9))


@pytest.mark.parametrize(
    ("kind", "options"),
    [("Llama", {"head_dim": 6}), ("Mistral", {"sliding_window": 3}), ("Qwen3", {"head_dim": 6})],
)
def test_llama_and_its_relatives(kind, options, hold):
    theirs = model(kind, "ForCausalLM", num_key_value_heads=2, **options)
    hold_ids(hold, "llama", theirs, ids(2, 9))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("DistilBert", {"activation": "relu"}, "model.config.activation must be 'gelu', got"),
        ("Roberta", {"is_decoder": True}, "model.config.is_decoder must be False, got True"),
        ("Roberta", {"tie_word_embeddings": False}, r"got lm_head\.decoder\.weight"),
    ],
)
def test_relatives_of_bert_that_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        from_huggingface(model(kind, "ForMaskedLM", **{**MASKED[kind], **options}))


def modernbert(**options):
    options = {"local_attention": 4, "global_attn_every_n_layers": 2, "pad_token_id": 1, **options}
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 2)
    return model("ModernBert", "ForMaskedLM", num_hidden_layers=4, **special, **options)


def test_modernbert(hold):
    hold_ids(hold, "modernbert", modernbert(), ids(2, 13))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm_bias": True}, "model.config.norm_bias must be False, got True"),
        ({"hidden_activation": "relu"}, "model.config.hidden_activation must be 'gelu', got"),
        (
            {"layer_types": ["sliding_attention"] * 2 + ["full_attention"] * 2},
            r"model.config.layer_types must be \['full_attention', 'sliding_attention', ",
        ),
    ],
)
def test_modernberts_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        from_huggingface(modernbert(**options))


def of_t5(kind="T5", **options):
    """Heads that do not add up to the channels, and buckets that are soon shared."""
    sizes = {
        "d_model": 16, "d_kv": 3, "d_ff": 24, "num_layers": 2, "num_decoder_layers": 3,
        "num_heads": 4, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12,
    }  # fmt: skip
    sizes |= {"pad_token_id": 0, "decoder_start_token_id": 0, "eos_token_id": 1}
    return model(kind, "ForConditionalGeneration", **{**sizes, **options})


V1_1 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
OF_T5 = {
    "t5": of_t5,
    "tied": lambda: of_t5(**V1_1),
    "flan": lambda: untied(of_t5(**V1_1)),
    "mt5": lambda: of_t5("MT5", **V1_1),
}


def untied(theirs):
    theirs.lm_head.weight = torch.nn.Parameter(torch.randn(VOCAB, 16, dtype=torch.float64))
    return theirs


@pytest.mark.parametrize("name", by_default(OF_T5, ["t5", "flan"]))
def test_t5(name, hold):
    """In values and gradients, and token for token with a KV cache."""
    theirs, source, target = OF_T5[name](), ids(2, 17), ids(2, 9)

    def logits(model):
        with Widened():
            return model(input_ids=source, decoder_input_ids=target).logits

    found = parity(from_huggingface, theirs, lambda net: net(source, target), logits)
    hold("t5", f"transformers {type(theirs).__name__}", found, TIGHT)
    want = torch.zeros(2, 1, dtype=torch.long)
    for _ in range(6):
        with Widened():
            scores = theirs(input_ids=source, decoder_input_ids=want).logits
        want = torch.cat([want, scores[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(from_huggingface(theirs).generate(source, 0, 6), want)
    back = to_huggingface(from_huggingface(theirs), OF_T5[name]())
    for key, value in theirs.state_dict().items():
        assert torch.equal(back.state_dict()[key], value), key


def test_t5_that_is_refused():
    with pytest.raises(ValueError, match=r"feed_forward_proj must be one of relu, gated-gelu; got"):
        from_huggingface(of_t5(feed_forward_proj="gated-silu"))
    with pytest.raises(ValueError, match="scale_decoder_outputs must be False, got True"):
        from_huggingface(untied(of_t5()))
