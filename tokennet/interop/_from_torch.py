"""`from_torch`: transformers of `torch.nn` as nets of layers, with their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from tokennet.interop.convert import Converter, Converters, convert
from tokennet.interop.copy import Copier, expect_kind, expect_same
from tokennet.interop.verify import SIZES, Inputs, Run, padding
from tokennet.layer import TokenLayer
from tokennet.mixers import Attention, CrossAttention
from tokennet.nets import BlockConfig, EncoderDecoder, TokenNet, TokenWise
from tokennet.tokens import Tokens


def from_torch(
    module: nn.Module,
    *,
    batch_first: bool | None = None,
    verify: bool = True,
    verify_dtype: torch.dtype = torch.float64,
) -> Any:
    """A module of `torch.nn` as layers of tokens, with a copy of its weights.

    Use it to put a trained module on a graph: `nn.MultiheadAttention` becomes an `Attention`;
    `nn.TransformerEncoder` and `nn.TransformerDecoder` a `TokenNet`; `nn.Transformer` an
    `EncoderDecoder`. Masks become graphs: a causal mask is `Causal(n)`, a padded batch is a
    ragged batch. The net has no dropout of attention weights.

    Copies of both are run on random inputs in eval mode, with padding and without, and compared
    token by token. `module` stays as it is.

    Args:
        module: exactly of one of these classes, and so are its parts; an `activation` may be any.
        batch_first: the net reads (B, N, D). A module that reads (N, B, D), as those with torch's
            default `batch_first=False` do, is refused unless `batch_first=True` says that the
            inputs of the net will be transposed.
        verify: whether both are compared; `net.conversion` says whether they were.
        verify_dtype: the copies' dtype. In float32 a large module needs half the memory, and
            differences below 3e-4 pass.

    Raises:
        TypeError: another kind of module.
        ValueError: keys or values of other channels, learned extra keys, other norms, sequences
            first, a subclass or hooks inside, a parameter or buffer that the layers do not have;
            or the net gives other outputs.

    >>> import torch
    >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> net = from_torch(nn.TransformerEncoder(layer, 2))
    >>> net(torch.zeros(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    >>> net.conversion.is_verified
    True
    """
    options = {"verify": verify, "verify_dtype": verify_dtype}
    net = convert("module", module, "torch", CONVERTERS, **options)  # type: ignore[arg-type]
    if batch_first is not True and not _is_batch_first(module):
        raise ValueError(
            "module must have batch_first=True: the net reads (B, N, D), the module (N, B, D); "
            "from_torch(module, batch_first=True) converts it for transposed inputs"
        )
    return net


def _is_batch_first(module: nn.Module) -> bool:
    """Whether all attention inside reads (B, N, D)."""
    found = [part.batch_first for part in module.modules() if type(part) is nn.MultiheadAttention]
    expect_same("batch_first", found)
    return bool(found[0])


def self_attention(
    module: Any, copy: Copier, kind: type[Attention] = Attention, dropout: float = 0.0
) -> Attention:
    """An `nn.MultiheadAttention` as a layer, with a dropout of weights if it is given."""
    if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
        raise ValueError(
            "module must have keys and values of embed_dim channels, without bias_k or "
            f"add_zero_attn; got {module}"
        )
    expect_kind("out_proj", module.out_proj, NonDynamicallyQuantizableLinear, nn.Linear)
    has_bias = module.in_proj_bias is not None
    ours = kind(module.embed_dim, module.num_heads, bias=has_bias, dropout=dropout)
    biases = [None] * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    weights = [*module.in_proj_weight.chunk(3), module.out_proj.weight]
    copy.attention(ours, weights, [*biases, module.out_proj.bias])
    return ours


def _stack(module: Any, copy: Copier) -> TokenNet:
    layers: list[TokenLayer] = []
    is_decoder = type(module) is nn.TransformerDecoder
    expected = nn.TransformerDecoderLayer if is_decoder else nn.TransformerEncoderLayer
    for layer in module.layers:
        expect_kind("layer", layer, expected)
        mixers: list[Attention] = [_part(layer.self_attn, copy, Attention)]
        norms = [layer.norm1, layer.norm2]
        dropouts = [layer.dropout1, layer.dropout2, layer.dropout]
        if is_decoder:
            mixers.append(_part(layer.multihead_attn, copy, CrossAttention))
            norms.append(layer.norm3)
            dropouts.append(layer.dropout3)
        for dropout in dropouts:
            expect_kind("dropout", dropout, nn.Dropout)
        expect_same("dropout", [dropout.p for dropout in dropouts])
        config = BlockConfig(
            post_norm=not layer.norm_first,
            activation=_activation(layer.activation, copy),
            dropout=layer.dropout1.p,
        )
        block: list[Any] = config.block(mixers, mixers[0].dim, layer.linear1.out_features)
        for ours, norm in zip(block, norms, strict=True):
            copy.norm(ours.norm, norm)
        copy.mlp(block[-1].layer.fn, layer.linear1, layer.linear2)
        copy.pair(block[-1], layer)
        layers += block
    if module.norm is not None:
        norm = nn.LayerNorm(mixers[0].dim)
        copy.norm(norm, module.norm)
        layers.append(TokenWise(norm))
        copy.pair(layers[-1], module.norm)
    return TokenNet(layers)


def _part(attention: Any, copy: Copier, kind: type[Attention]) -> Attention:
    expect_kind("attention", attention, nn.MultiheadAttention)
    return self_attention(attention, copy, kind)


def _activation(activation: Any, copy: Copier) -> Callable[[], nn.Module]:
    if isinstance(activation, nn.Module):
        for tensor in (*activation.parameters(), *activation.buffers()):
            copy.mark(tensor)
        return lambda: deepcopy(activation)
    known = {functional.relu: nn.ReLU, functional.gelu: nn.GELU}
    if activation not in known:
        raise ValueError(f"activation must be relu, gelu or a module, got {activation!r}")
    return known[activation]


def _transformer(module: Any, copy: Copier) -> EncoderDecoder:
    expect_kind("encoder", module.encoder, nn.TransformerEncoder)
    expect_kind("decoder", module.decoder, nn.TransformerDecoder)
    return EncoderDecoder(_stack(module.encoder, copy), _stack(module.decoder, copy))


def _runs_of_attention(theirs: Any, ours: Any, inputs: Inputs) -> Iterator[Run]:
    def attend(q: Tensor, kv: Tensor, mask: Tensor | None = None) -> Tensor:
        q, kv = _layout(theirs, q), _layout(theirs, kv)
        return _layout(theirs, theirs(q, kv, kv, key_padding_mask=mask, need_weights=False)[0])

    z = inputs.normal(2, max(SIZES), theirs.embed_dim)
    mask = padding(SIZES, z.device)
    for size in SIZES:
        yield Run(f"{size} tokens", attend(z[:, :size], z[:, :size]), ours(z[:, :size]))
    yield Run("another set", attend(z[:, :3], z), ours(z[:, :3], z))
    yield Run("padded sets", attend(z, z, mask)[~mask], ours(_ragged(z)).z)


def _runs_of_encoder(theirs: Any, ours: Any, inputs: Inputs) -> Iterator[Run]:
    z = inputs.normal(2, max(SIZES), theirs.layers[0].self_attn.embed_dim)
    mask = padding(SIZES, z.device)

    def encode(z: Tensor, mask: Tensor | None = None) -> Tensor:
        return _layout(theirs, theirs(_layout(theirs, z), src_key_padding_mask=mask))

    for size in SIZES:
        yield Run(f"{size} tokens", encode(z[:, :size]), ours(z[:, :size]))
    yield Run("padded sets", encode(z, mask)[~mask], ours(_ragged(z)).z)


def _runs_of_two_sets(theirs: Any, ours: Any, inputs: Inputs) -> Iterator[Run]:
    """For `nn.TransformerDecoder(target, source)` and `nn.Transformer(source, target)`."""
    is_whole = type(theirs) is nn.Transformer
    layer = (theirs.decoder if is_whole else theirs).layers[0]
    z = inputs.normal(2, max(SIZES), layer.self_attn.embed_dim)
    source = inputs.normal(*z.shape).flip(1)
    mask = padding(SIZES, z.device)

    def both(run: Any, target: Any, source: Any, **masks: Tensor) -> Any:
        return run(source, target, **masks) if is_whole else run(target, source, **masks)

    def decode(target: Tensor, source: Tensor, **masks: Tensor) -> Tensor:
        target, source = _layout(theirs, target), _layout(theirs, source)
        return _layout(theirs, both(theirs, target, source, **masks))

    for size, other in (SIZES, SIZES[::-1]):
        target, memory = z[:, :size], source[:, :other]
        yield Run(f"{size} and {other} tokens", decode(target, memory), both(ours, target, memory))
    masks = {"tgt_key_padding_mask": mask, "memory_key_padding_mask": mask}
    if is_whole:
        masks["src_key_padding_mask"] = mask
    want = decode(z, source, **masks)[~mask]
    yield Run("padded sets", want, both(ours, _ragged(z), _ragged(source)).z)


def _layout(module: Any, z: Tensor) -> Tensor:
    """(B, N, D) to what the module reads, and back."""
    return z if _is_batch_first(module) else z.transpose(0, 1)


def _ragged(z: Tensor) -> Tokens:
    return Tokens.batch([row[:size] for row, size in zip(z, SIZES, strict=True)])


CONVERTERS: Converters = {
    "MultiheadAttention": Converter(self_attention, _runs_of_attention),
    "TransformerEncoder": Converter(_stack, _runs_of_encoder),
    "TransformerDecoder": Converter(_stack, _runs_of_two_sets),
    "Transformer": Converter(_transformer, _runs_of_two_sets),
}
