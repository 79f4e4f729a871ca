"""`from_huggingface`: models of transformers (version 5, not imported here) as nets of layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tokennet.interop.convert import Converter, Converters, convert
from tokennet.interop.copy import Copier, expect_kind, expect_same
from tokennet.interop.verify import SIZES, Inputs, Run, padding
from tokennet.models import bert, gpt, llama, resample_positions, vit
from tokennet.tokenizers import Patches
from tokennet.tokens import Tokens


def from_huggingface(
    model: Any,
    *,
    resample: tuple[int, int] | None = None,
    verify: bool = True,
    verify_dtype: torch.dtype = torch.float64,
) -> Any:
    """A model of Hugging Face as a net of layers, with a copy of its weights.

    Use it to run, check or draw a pretrained model with this library. `GPT2LMHeadModel` becomes
    a `Decoder`, and so do `LlamaForCausalLM`, `MistralForCausalLM` and `Qwen3ForCausalLM`;
    `BertForMaskedLM` becomes a `MaskedLanguageModel`, `ViTForImageClassification` a net over
    patches (..., N, C x P x P). The net has no dropout of attention weights.

    Copies of both are run on random inputs in eval mode, with padding and without, and compared
    token by token. `model` stays as it is.

    Args:
        model: pretrained or of a configuration of your own, without parts of other packages.
        resample: the grid of patches, (rows, columns), that the net is for; by default that of
            the model. The table of a vision transformer is resampled after the comparison, as
            `interpolate_pos_encoding=True` does, see `resample_positions`.
        verify: whether both are compared; `net.conversion` says whether they were.
        verify_dtype: as for `from_torch`; Llama and its relatives compute their norms in float32,
            and are compared in that.

    Raises:
        TypeError: another kind of model.
        ValueError: a configuration that the net does not support; a subclass or hooks inside; or
            the net gives other outputs.

    >>> import torch
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> sizes = {"vocab_size": 9, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
    >>> model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=None)).eval()
    >>> ids = torch.tensor([[1, 2, 3]])
    >>> bool((from_huggingface(model)(ids) - model(ids).logits).abs().max() < 1e-5)
    True
    """
    options = {"verify": verify, "verify_dtype": verify_dtype}
    net = convert("model", model, "transformers", CONVERTERS, **options)  # type: ignore[arg-type]
    return net if resample is None else resample_positions(net, resample, antialias=False)


def _expect(config: Any, of: str = "model.config", /, **values: Any) -> None:
    for name, value in values.items():
        found = config.get(name) if isinstance(config, dict) else getattr(config, name, value)
        found = value if found is None else found
        if found != value:
            raise ValueError(f"{of}.{name} must be {value!r}, got {found!r}")


def _gpt2(model: Any, copy: Copier) -> nn.Module:
    config, theirs = model.config, model.transformer
    width = 4 * config.n_embd
    _expect(config, activation_function="gelu_new", scale_attn_weights=True)
    _expect(config, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
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
    for mixing, function, block in zip(layers[3::2], layers[4::2], theirs.h, strict=True):
        copy.norm(mixing.norm, block.ln_1)
        # Their linear maps have weights (in, out).
        weights = [*block.attn.c_attn.weight.T.chunk(3), block.attn.c_proj.weight.T]
        biases = [*block.attn.c_attn.bias.chunk(3), block.attn.c_proj.bias]
        copy.attention(mixing.layer, weights, biases)
        copy.norm(function.norm, block.ln_2)
        copy.weight(function.layer.fn[0], block.mlp.c_fc.weight.T, block.mlp.c_fc.bias)
        copy.weight(function.layer.fn[-1], block.mlp.c_proj.weight.T, block.mlp.c_proj.bias)
        copy.pair(function, block)
    copy.norm(net.readout.norm, theirs.ln_f)  # type: ignore[union-attr]
    return net


def _llama(model: Any, copy: Copier) -> nn.Module:
    """Llama, Mistral and Qwen3, whose parts have the same names."""
    config, theirs = model.config, model.model
    _expect(config, hidden_act="silu", attention_bias=False, mlp_bias=False)
    _expect(config, head_dim=config.hidden_size // config.num_attention_heads)
    window = getattr(config, "sliding_window", None)
    expect_same("layer_types", getattr(config, "layer_types", None) or ["full_attention"])
    net = llama(
        config.vocab_size,
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.max_position_embeddings,
        hidden=config.intermediate_size,
        num_kv_heads=config.num_key_value_heads,
        window=window,
        **_rope(config.rope_parameters),
        qk_norm=hasattr(theirs.layers[0].self_attn, "q_norm"),
        tied=config.tie_word_embeddings,
    )
    for buffer in theirs.rotary_emb.buffers():  # which follow from the configuration
        copy.mark(buffer)
    layers: Any = net.layers
    readout: Any = net.readout
    copy.weight(layers[0].tables[0], theirs.embed_tokens.weight)
    for mixing, function, block in zip(layers[1::2], layers[2::2], theirs.layers, strict=True):
        copy.rms_norm(mixing.norm, block.input_layernorm)
        parts = block.self_attn
        copy.attention(mixing.layer, *_of([parts.q_proj, parts.k_proj, parts.v_proj, parts.o_proj]))
        if mixing.layer.q_norm is not None:
            copy.rms_norm(mixing.layer.q_norm, parts.q_norm)
            copy.rms_norm(mixing.layer.k_norm, parts.k_norm)
        copy.rms_norm(function.norm, block.post_attention_layernorm)
        for ours, other in (("gate", "gate_proj"), ("up", "up_proj"), ("down", "down_proj")):
            copy.linear(getattr(function.layer.fn, ours), getattr(block.mlp, other))
        copy.pair(function, block)
    copy.rms_norm(readout.norm, theirs.norm)
    copy.linear(readout.head, model.lm_head)
    return net


def _rope(given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `llama`."""
    known = {"rope_type", "rope_theta", "factor", "original_max_position_embeddings"}
    where = "model.config.rope_parameters"
    _expect(given, where, low_freq_factor=1.0, high_freq_factor=4.0)
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


def _bert(model: Any, copy: Copier) -> nn.Module:
    config, theirs = model.config, model.bert
    _expect(config, hidden_act="gelu", is_decoder=False, add_cross_attention=False)
    net = bert(
        config.vocab_size,
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.max_position_embeddings,
        types=config.type_vocab_size,
        hidden=config.intermediate_size,
        dropout=config.hidden_dropout_prob,
    )
    layers: Any = net.layers
    copy.weight(layers[0].tables[0], theirs.embeddings.word_embeddings.weight)
    copy.weight(layers[0].tables[1], theirs.embeddings.token_type_embeddings.weight)
    copy.weight(layers[1].tables[0], theirs.embeddings.position_embeddings.weight)
    copy.norm(layers[2].fn[0], theirs.embeddings.LayerNorm)
    blocks = theirs.encoder.layer
    for mixing, function, block in zip(layers[3:-1:2], layers[4:-1:2], blocks, strict=True):
        parts = block.attention.self
        linears = [parts.query, parts.key, parts.value, block.attention.output.dense]
        copy.attention(mixing.layer, *_of(linears))
        copy.norm(mixing.norm, block.attention.output.LayerNorm)
        copy.mlp(function.layer.fn, block.intermediate.dense, block.output.dense)
        copy.norm(function.norm, block.output.LayerNorm)
        copy.pair(function, block)
    transform = model.cls.predictions.transform
    copy.linear(layers[-1].fn[0], transform.dense)
    readout: Any = net.readout
    copy.norm(readout.norm, transform.LayerNorm)
    copy.parameter(readout.head.bias, model.cls.predictions.bias)
    return net


def _vit(model: Any, copy: Copier) -> nn.Module:
    config, theirs = model.config, model.vit
    _expect(config, hidden_act="gelu")
    expect_kind("classifier", model.classifier, nn.Linear)
    positions = theirs.embeddings.position_embeddings[0]  # (1 + N, D)
    patch = theirs.embeddings.patch_embeddings.projection
    net = vit(
        patch.weight[0].numel(),
        model.classifier.out_features,
        _grid(theirs),
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        hidden=config.intermediate_size,
    )
    layers: Any = net.layers
    copy.linear(layers[1].fn, patch)
    copy.parameter(layers[2].vectors, theirs.embeddings.cls_token[0])
    copy.parameter(layers[3].tables[0].weight, positions)
    for mixing, function, block in zip(layers[4::2], layers[5::2], theirs.layers, strict=True):
        parts = block.attention
        copy.norm(mixing.norm, block.layernorm_before)
        copy.attention(mixing.layer, *_of([parts.q_proj, parts.k_proj, parts.v_proj, parts.o_proj]))
        copy.norm(function.norm, block.layernorm_after)
        copy.mlp(function.layer.fn, block.mlp.fc1, block.mlp.fc2)
        copy.pair(function, block)
    copy.readout(net.readout, theirs.layernorm, model.classifier)
    return net


def _of(linears: list[Any]) -> tuple[list[Any], list[Any]]:
    return [linear.weight for linear in linears], [linear.bias for linear in linears]


def _grid(theirs: Any) -> tuple[int, int]:
    """Rows and columns of the patches of their ViT."""
    parts = theirs.embeddings.patch_embeddings
    sides = zip(parts.image_size, parts.patch_size, strict=True)
    rows, columns = (size // patch for size, patch in sides)
    return rows, columns


def _runs_of_text(theirs: Any, ours: Any, inputs: Inputs) -> Iterator[Run]:
    sizes = [min(size, theirs.config.max_position_embeddings) for size in SIZES]
    ids = inputs.ids(theirs.config.vocab_size, 2, max(sizes))
    for size in sizes:
        yield Run(f"{size} tokens", theirs(ids[:, :size]).logits, ours(ids[:, :size]))
    mask = padding(sizes, ids.device)
    want = theirs(ids, attention_mask=(~mask).long()).logits
    rows = [row[:size] for row, size in zip(ids, sizes, strict=True)]
    yield Run("padded texts", want[~mask], ours(rows))


def _runs_of_bert(theirs: Any, ours: Any, inputs: Inputs) -> Iterator[Run]:
    yield from _runs_of_text(theirs, ours, inputs)
    shape = 2, min(max(SIZES), theirs.config.max_position_embeddings)
    both = [inputs.ids(size, *shape) for size in ours.layers[0].sizes]  # words and types
    want: Tensor = theirs(both[0], token_type_ids=both[1]).logits
    yield Run("token types", want, ours(Tokens(torch.stack(both, dim=-1))))


def _runs_of_vit(theirs: Any, ours: Any, inputs: Inputs) -> Iterator[Run]:
    """On an image of the size that the model is made for."""
    parts = theirs.vit.embeddings.patch_embeddings
    patches = Patches(tuple(parts.patch_size))
    height, width = (n * side for n, side in zip(_grid(theirs.vit), parts.patch_size, strict=True))
    images = inputs.normal(1, parts.num_channels, *parts.image_size)
    yield Run("an image", theirs(images).logits, ours(patches(images[..., :height, :width])))


CONVERTERS: Converters = {
    "GPT2LMHeadModel": Converter(_gpt2, _runs_of_text),
    "LlamaForCausalLM": Converter(_llama, _runs_of_text, torch.float32),
    "MistralForCausalLM": Converter(_llama, _runs_of_text, torch.float32),
    "Qwen3ForCausalLM": Converter(_llama, _runs_of_text, torch.float32),
    "BertForMaskedLM": Converter(_bert, _runs_of_bert),
    "ViTForImageClassification": Converter(_vit, _runs_of_vit),
}
