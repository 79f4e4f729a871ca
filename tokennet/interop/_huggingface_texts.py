"""Models of text of Hugging Face as nets of layers: how they are built, and run to compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tokennet.checks import lookup
from tokennet.interop.blocks import Block, copy_blocks, copy_norm
from tokennet.interop.convert import Converter, Converters
from tokennet.interop.copy import Copier, expect_config, expect_same
from tokennet.interop.verify import SIZES, Inputs, Run, padding
from tokennet.models import bert, gpt, llama, modernbert, t5
from tokennet.tokens import Tokens

GPT2 = Block(
    norms=("ln_1", "ln_2"),
    attention=("attn.c_attn", "attn.c_proj"),
    function=("mlp.c_fc", "mlp.c_proj"),
)
LLAMA = Block(
    norms=("input_layernorm", "post_attention_layernorm"),
    attention=tuple(f"self_attn.{name}_proj" for name in "qkvo"),
    function=("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    qk_norms=("self_attn.q_norm", "self_attn.k_norm"),
)


MODERNBERT = Block(
    norms=("attn_norm", "mlp_norm"),
    attention=("attn.Wqkv", "attn.Wo"),
    function=("mlp.Wi", "mlp.Wo"),
)
T5_ENCODER = Block(
    norms=("layer.0.layer_norm", "layer.1.layer_norm"),
    attention=tuple(f"layer.0.SelfAttention.{name}" for name in "qkvo"),
    function=(),
)
T5_DECODER = T5_ENCODER._replace(
    norms=(*T5_ENCODER.norms, "layer.2.layer_norm"),
    cross=tuple(f"layer.1.EncDecAttention.{name}" for name in "qkvo"),
)
T5_FUNCTIONS = {"relu": ("wi", "wo"), "gated-gelu": ("wi_0", "wi_1", "wo")}


class Masked(NamedTuple):
    """Names of the parts of a BERT, from the model on."""

    embeddings: str
    blocks: str
    block: Block
    dense: str
    norm: str
    bias: str


BERT = Masked(
    "bert.embeddings",
    "bert.encoder.layer",
    Block(
        norms=("attention.output.LayerNorm", "output.LayerNorm"),
        attention=(
            "attention.self.query", "attention.self.key", "attention.self.value",
            "attention.output.dense",
        ),
        function=("intermediate.dense", "output.dense"),
    ),
    "cls.predictions.transform.dense",
    "cls.predictions.transform.LayerNorm",
    "cls.predictions.bias",
)  # fmt: skip
ROBERTA = Masked(
    "roberta.embeddings", "roberta.encoder.layer", BERT.block, "lm_head.dense",
    "lm_head.layer_norm", "lm_head.bias",
)  # fmt: skip
DISTILBERT = Masked(
    "distilbert.embeddings",
    "distilbert.transformer.layer",
    Block(
        norms=("sa_layer_norm", "output_layer_norm"),
        attention=tuple(f"attention.{name}_lin" for name in ("q", "k", "v", "out")),
        function=("ffn.lin1", "ffn.lin2"),
    ),
    "vocab_transform",
    "vocab_layer_norm",
    "vocab_projector.bias",
)


def _gpt2(model: Any, copy: Copier) -> nn.Module:
    config, theirs = model.config, model.transformer
    width = 4 * config.n_embd
    expect_config(config, activation_function="gelu_new", scale_attn_weights=True)
    expect_config(config, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    if config.n_inner not in (None, width):
        raise ValueError(f"model.config.n_inner must be {width}, got {config.n_inner}")
    net = gpt(
        config.vocab_size,
        config.n_embd,
        config.n_layer,
        config.n_head,
        config.n_positions,
        dropout=config.resid_pdrop,
    )
    layers: Any = net.layers
    copy.weight(layers[0].tables[0], theirs.wte.weight)
    copy.weight(layers[1].tables[0], theirs.wpe.weight)
    copy_blocks(copy, layers[3:], theirs.h, GPT2)
    copy.norm(net.readout.norm, theirs.ln_f)  # type: ignore[union-attr]
    return net


def _llama(model: Any, copy: Copier) -> nn.Module:
    """Llama, Mistral and Qwen3, whose parts have the same names."""
    config, theirs = model.config, model.model
    expect_config(config, hidden_act="silu", attention_bias=False, mlp_bias=False)
    expect_same("layer_types", getattr(config, "layer_types", None) or ["full_attention"])
    net = llama(
        config.vocab_size,
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.max_position_embeddings,
        hidden=config.intermediate_size,
        num_kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None),
        window=getattr(config, "sliding_window", None),
        **_rope(config.rope_parameters),
        qk_norm=hasattr(theirs.layers[0].self_attn, "q_norm"),
        tied=config.tie_word_embeddings,
    )
    for buffer in theirs.rotary_emb.buffers():  # which follow from the configuration
        copy.mark(buffer)
    layers: Any = net.layers
    readout: Any = net.readout
    copy.weight(layers[0].tables[0], theirs.embed_tokens.weight)
    copy_blocks(copy, layers[1:], theirs.layers, LLAMA)
    copy.rms_norm(readout.norm, theirs.norm)
    copy.linear(readout.head, model.lm_head)
    return net


def _rope(given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `llama`."""
    known = {"rope_type", "rope_theta", "factor", "original_max_position_embeddings"}
    where = "model.config.rope_parameters"
    expect_config(given, where, low_freq_factor=1.0, high_freq_factor=4.0)
    more = {name for name, value in given.items() if value is not None} - known
    more -= {"low_freq_factor", "high_freq_factor"}
    if given["rope_type"] not in ("default", "linear", "yarn", "llama3") or more:
        raise ValueError(
            f"{where} must have a rope_type of default, linear, yarn or llama3, and no options but "
            f"{', '.join(sorted(known))}; got {given}"
        )
    found = {"base": given["rope_theta"]}
    if given["rope_type"] != "default":
        found |= {"scaling": given["rope_type"], "factor": given["factor"]}
        found["original_length"] = given.get("original_max_position_embeddings")
    return found


def _masked(names: Masked, model: Any, copy: Copier) -> nn.Module:
    """BERT and its relatives."""
    config = model.config
    expect_config(config, hidden_act="gelu", activation="gelu", is_decoder=False)
    expect_config(config, add_cross_attention=False)
    theirs, blocks = model.get_submodule(names.embeddings), model.get_submodule(names.blocks)
    first = _first_position(theirs)
    types = getattr(theirs, "token_type_embeddings", None)
    net = bert(
        config.vocab_size,
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.max_position_embeddings - first,
        types=0 if types is None else config.type_vocab_size,
        hidden=blocks[0].get_submodule(names.block.function[0]).out_features,
        dropout=theirs.dropout.p,
    )
    layers: Any = net.layers
    copy.weight(layers[0].tables[0], theirs.word_embeddings.weight)
    if types is not None:
        copy.weight(layers[0].tables[1], types.weight)
    copy.weight(layers[1].tables[0], theirs.position_embeddings.weight[first:])
    copy.norm(layers[2].fn[0], theirs.LayerNorm)
    copy_blocks(copy, layers[3:-1], blocks, names.block)
    copy.linear(layers[-1].fn[0], model.get_submodule(names.dense))
    readout: Any = net.readout
    copy_norm(copy, readout.norm, model.get_submodule(names.norm))
    copy.parameter(readout.head.bias, model.get_parameter(names.bias))
    return net


def _modernbert(model: Any, copy: Copier) -> nn.Module:
    config, theirs = model.config, model.model
    biases = ("attention_bias", "mlp_bias", "norm_bias", "classifier_bias")
    expect_config(config, hidden_activation="gelu", classifier_activation="gelu")
    expect_config(config, decoder_bias=True, **dict.fromkeys(biases, False))
    kinds = config.layer_types
    every = [*kinds[1:], "full_attention"].index("full_attention") + 1
    pattern = ["sliding_attention" if n % every else "full_attention" for n in range(len(kinds))]
    expect_config(config, layer_types=pattern)
    bases = []
    for kind in ("full_attention", "sliding_attention"):
        given = config.rope_parameters[kind]
        expect_config(given, f"model.config.rope_parameters.{kind}", rope_type="default")
        bases.append(given["rope_theta"])
    net = modernbert(
        config.vocab_size,
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.max_position_embeddings,
        hidden=config.intermediate_size,
        radius=config.sliding_window,
        full_every=every,
        base=bases[0],
        window_base=bases[1],
    )
    for buffer in theirs.rotary_emb.buffers():  # which follow from the configuration
        copy.mark(buffer)
    layers: Any = net.layers
    readout: Any = net.readout
    copy.weight(layers[0].tables[0], theirs.embeddings.tok_embeddings.weight)
    copy.norm(layers[1].fn, theirs.embeddings.norm)
    copy_blocks(copy, layers[2:-2], theirs.layers, MODERNBERT)
    copy.norm(layers[-2].fn, theirs.final_norm)
    copy.linear(layers[-1].fn[0], model.head.dense)
    copy.norm(readout.norm, model.head.norm)
    copy.parameter(readout.head.bias, model.decoder.bias)
    return net


def _t5(model: Any, copy: Copier) -> nn.Module:
    config, kind = model.config, model.config.feed_forward_proj
    names = lookup("model.config.feed_forward_proj", kind, T5_FUNCTIONS)
    tied = model.lm_head.weight is model.shared.weight
    scaled = getattr(config, "scale_decoder_outputs", False)  # mT5 has no such entry
    if not tied:
        expect_config(config, scale_decoder_outputs=False)
    net: Any = t5(
        config.vocab_size,
        config.d_model,
        config.num_layers,
        config.num_heads,
        decoder_depth=config.num_decoder_layers,
        hidden=config.d_ff,
        head_dim=config.d_kv,
        num_buckets=config.relative_attention_num_buckets,
        max_distance=config.relative_attention_max_distance,
        gated=kind == "gated-gelu",
        tied=tied,
        dropout=config.dropout_rate,
    )
    encoder, decoder, readout = net.encoder.layers, net.decoder.layers, net.decoder.readout
    copy.weight(encoder[0].tables[0], model.shared.weight)
    sides = (encoder[2:-1], model.encoder, T5_ENCODER), (decoder[2:], model.decoder, T5_DECODER)
    for layers, theirs, block in sides:
        function = tuple(f"layer.{len(block.norms) - 1}.DenseReluDense.{name}" for name in names)
        copy_blocks(copy, layers, theirs.block, block._replace(function=function))
        bias = theirs.block[0].layer[0].SelfAttention.relative_attention_bias
        copy.parameter(layers[0].layer.position.table, bias.weight)
    copy.rms_norm(encoder[-1].fn[0], model.encoder.final_layer_norm)
    copy.rms_norm(readout.norm[0], model.decoder.final_layer_norm)
    if not tied:
        copy.linear(readout.head, model.lm_head)
    elif not scaled:
        readout.scale = 1.0
    return net


def _first_position(embeddings: Any) -> int:
    """The row of the table for the first token: RoBERTa's table begins with rows for padding."""
    padding_id = getattr(embeddings, "padding_idx", None)
    return 0 if padding_id is None else padding_id + 1


def _sizes(config: Any, longest: int | None) -> list[int]:
    """Numbers of tokens; beyond the window or distance of the model, if that is not far."""
    names = "sliding_window", "relative_attention_max_distance"
    far = max(getattr(config, name, None) or 0 for name in names)
    return [min(size + far * (far <= 512), longest or size + far) for size in SIZES]


def _runs_of_text(theirs: Any, ours: Any, inputs: Inputs) -> Iterator[Run]:
    sizes = _sizes(theirs.config, ours.max_length)
    ids = inputs.ids(theirs.config.vocab_size, 2, max(sizes))
    first = _first_position(getattr(theirs.base_model, "embeddings", None))
    if first:  # a token whose id is that of padding has no position
        ids = torch.where(ids == first - 1, first % theirs.config.vocab_size, ids)
    for size in sizes:
        yield Run(f"{size} tokens", theirs(ids[:, :size]).logits, ours(ids[:, :size]))
    mask = padding(sizes, ids.device)
    want = theirs(ids, attention_mask=(~mask).long()).logits
    yield Run("padded texts", want[~mask], ours(_rows(ids, sizes)))
    if len(ours.layers[0].sizes) > 1:
        types = inputs.ids(ours.layers[0].sizes[1], *ids.shape)
        want = theirs(ids, token_type_ids=types).logits
        yield Run("token types", want, ours(Tokens(torch.stack([ids, types], dim=-1))))


def _runs_of_two_texts(theirs: Any, ours: Any, inputs: Inputs) -> Iterator[Run]:
    sizes, vocab = _sizes(theirs.config, None), theirs.config.vocab_size
    source, target = inputs.ids(vocab, 2, max(sizes)), inputs.ids(vocab, 2, max(SIZES))
    want = theirs(input_ids=source, decoder_input_ids=target).logits
    yield Run("two texts", want, ours(source, target))
    given, asked = padding(sizes, source.device), padding(SIZES, source.device)
    want = theirs(
        input_ids=source,
        decoder_input_ids=target,
        attention_mask=(~given).long(),
        decoder_attention_mask=(~asked).long(),
    ).logits
    yield Run("padded texts", want[~asked], ours(_rows(source, sizes), _rows(target, SIZES)))


def _rows(ids: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    return [row[:size] for row, size in zip(ids, sizes, strict=True)]


CONVERTERS: Converters = {
    "GPT2LMHeadModel": Converter(_gpt2, _runs_of_text),
    "LlamaForCausalLM": Converter(_llama, _runs_of_text, torch.float32),
    "MistralForCausalLM": Converter(_llama, _runs_of_text, torch.float32),
    "Qwen3ForCausalLM": Converter(_llama, _runs_of_text, torch.float32),
    "ModernBertForMaskedLM": Converter(_modernbert, _runs_of_text, torch.float32),
    "T5ForConditionalGeneration": Converter(_t5, _runs_of_two_texts, torch.float32),
    "MT5ForConditionalGeneration": Converter(_t5, _runs_of_two_texts, torch.float32),
    "BertForMaskedLM": Converter(partial(_masked, BERT), _runs_of_text),
    "RobertaForMaskedLM": Converter(partial(_masked, ROBERTA), _runs_of_text),
    "XLMRobertaForMaskedLM": Converter(partial(_masked, ROBERTA), _runs_of_text),
    "CamembertForMaskedLM": Converter(partial(_masked, ROBERTA), _runs_of_text),
    "DistilBertForMaskedLM": Converter(partial(_masked, DISTILBERT), _runs_of_text),
}
