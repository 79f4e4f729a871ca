"""Nets of tasks with a source: an encoder of any mixer, and a decoder that listens to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from tokennet.compare.net import NetSpec, Width
from tokennet.compare.task import TrainConfig, net_of_blocks
from tokennet.interpret import record_attention
from tokennet.layer import TokenLayer
from tokennet.mixers import CrossAttention
from tokennet.models import decoder_stack
from tokennet.nets import READOUTS, BlockConfig, EncoderDecoder, IOSpec, TokenNet


def encoder_decoder(
    net: NetSpec,
    interface: IOSpec,
    recipe: TrainConfig,
    width: Width,
    before: Sequence[TokenLayer],
    kind: type[TokenNet] = TokenNet,
) -> EncoderDecoder:
    """An encoder of the net's mixer, and a decoder of attention.

    Args:
        interface: what goes into the encoder, and comes out of the decoder.
        before: the decoder's layers before its blocks.
        kind: of the decoder, such as `Decoder`.
    """
    encoder = TokenNet(list(net_of_blocks(net, interface, recipe, width).layers))  # type: ignore[arg-type]
    style = BlockConfig(dropout=recipe.dropout)
    blocks = decoder_stack(
        width.dim, recipe.depth, recipe.num_heads, width.hidden, style, final_norm=False
    )
    readout = READOUTS[interface.readout](width.dim, interface.out_features)
    return EncoderDecoder(encoder, kind([*before, blocks], readout))


def cross_attention(run: Callable[[], object], net: nn.Module) -> Tensor:
    """Weights of the last layer of `net` that attends to a source, as `run()` makes it do.

    (..., N, M), the mean over heads: how much each of N tokens listens to each of M sources.
    """
    layers = {name for name, part in net.named_modules() if isinstance(part, CrossAttention)}
    with record_attention(net) as found:
        run()
    graph, weights = [each for name, each in found.items() if name in layers][-1]
    return weights.mean(-1).unflatten(-1, (graph.num_targets, graph.num_sources))
