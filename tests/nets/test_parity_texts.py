"""Models of text of Hugging Face by name: the same weights, values and gradients in float64."""

import pytest
import torch
import transformers

from tests.families import by_default
from tests.peers import Widened, parity, randomized
from tokennet.interop import from_huggingface

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
