"""Small models of Hugging Face with random weights, by the kind of their attention."""

from __future__ import annotations

import torch
from torch import nn

HEADS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {
    **HEADS, "intermediate_size": 48, "vocab_size": 50, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUPED = {**TEXT, "num_key_value_heads": 2, "head_dim": 8}
EXPERTS = {
    **GROUPED, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}  # fmt: skip
IMAGE = {**HEADS, "intermediate_size": 48, "image_size": 16, "patch_size": 4, "num_channels": 3}
SEQ2SEQ = {
    **TEXT, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
}  # fmt: skip
T5 = {**TEXT, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}

PLAIN_DECODERS = (
    "llama",
    "qwen2",
    "qwen3",
    "gemma",
    "phi",
    "phi3",
    "stablelm",
    "starcoder2",
    "olmo",
    "olmo2",
    "cohere",
    "granite",
    "glm",
    "glm4",
    "helium",
    "smollm3",
    "ministral",
    "exaone4",
    "seed_oss",
    "arcee",
    "nemotron",
    "persimmon",
    "gpt_neox",
    "biogpt",
)
OF_EXPERTS = (
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "olmoe",
    "granitemoe",
    "phimoe",
)
OF_IMAGES = (
    "vit",
    "deit",
    "dinov2",
    "beit",
    "clip_vision_model",
    "siglip_vision_model",
    "ijepa",
    "vit_msn",
    "dpt",
)

ENCODERS = {
    "bert": TEXT,
    "roberta": TEXT,
    "distilbert": {**TEXT, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    "electra": {**TEXT, "embedding_size": 16},
    "albert": {**TEXT, "embedding_size": 16},
    "camembert": TEXT,
    "xlm-roberta": TEXT,
    "ernie": TEXT,
    "mobilebert": {
        **TEXT, "embedding_size": 16, "intra_bottleneck_size": 32, "true_hidden_size": 32,
    },
    "data2vec-text": TEXT,
    "bert-generation": TEXT,
    "splinter": TEXT,
    "modernbert": {**TEXT, "local_attention": 6, "global_attn_every_n_layers": 2},
}  # fmt: skip
DECODERS = {
    **dict.fromkeys(PLAIN_DECODERS, GROUPED),
    "gpt2": {**TEXT, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "mistral": {**GROUPED, "sliding_window": 4},
    "cohere2": {**GROUPED, "sliding_window": 4},
    "gemma2": {
        **GROUPED, "sliding_window": 4, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 3.0,
    },
    "gemma3_text": {**GROUPED, "sliding_window": 4, "query_pre_attn_scalar": 8},
    **dict.fromkeys(OF_EXPERTS, EXPERTS),
    "gpt_oss": {**EXPERTS, "sliding_window": 4},
}  # fmt: skip
VISION = dict.fromkeys(
    [
        "vit",
        "deit",
        "dinov2",
        "beit",
        "clip_vision_model",
        "siglip_vision_model",
        "ijepa",
        "vit_msn",
        "dpt",
    ],
    IMAGE,
)
TWO_SETS = {
    **dict.fromkeys(["bart", "mbart", "pegasus", "marian", "m2m_100", "blenderbot"], SEQ2SEQ),
    **dict.fromkeys(["t5", "umt5", "mt5"], T5),
}
ALL = {**ENCODERS, **DECODERS, **VISION, **TWO_SETS}
FEW = ("bert", "modernbert", "gpt2", "gemma2", "gpt_oss", "qwen3", "vit", "t5")
REFUSED = {
    "bloom": {**TEXT, "n_layer": 2, "n_head": 4},
    "mpt": {**TEXT, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
    "mpnet": TEXT,
    "deberta-v2": TEXT,
    "roformer": TEXT,
}
"""They compute attention themselves."""


def build(name: str, head: str = "AutoModel") -> nn.Module:
    """A model with attention of its own, "eager", and weights that make its scores differ."""
    import transformers

    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    sizes = {**ALL, **REFUSED}[name]
    config = transformers.AutoConfig.for_model(name, **sizes)
    for option, value in vars(config).items():
        if "dropout" in option and isinstance(value, float):
            setattr(config, option, 0.0)
    kind = getattr(transformers, head)
    model = kind.from_config(config, attn_implementation="eager").float().eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.1)
    return model


def inputs_of(name: str, padded: bool = False) -> dict[str, torch.Tensor]:
    """Of a batch of two."""
    generator = torch.Generator().manual_seed(1)
    if name in VISION:
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=generator)}
    given = {"input_ids": torch.randint(3, 50, (2, 9), generator=generator)}
    if name in TWO_SETS:
        given["decoder_input_ids"] = torch.randint(3, 50, (2, 5), generator=generator)
    if padded:
        given["attention_mask"] = torch.ones(2, 9, dtype=torch.long)
        given["attention_mask"][1, 6:] = 0
    return given
