"""Nets that tasks build beside blocks of one mixer: temporal convolutions, encoder and decoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from tokennet.compare.task import NetSpec, StoredTask, TrainConfig, Width, net_of_blocks
from tokennet.graphs import Causal, TokenGraph, Window
from tokennet.interpret import record_attention
from tokennet.layer import TokenLayer
from tokennet.mixers import Convolution, CrossAttention
from tokennet.models import decoder_stack
from tokennet.nets import READOUTS, BlockConfig, EncoderDecoder, IOSpec, TokenNet

KERNEL = 5


class SequenceTask(StoredTask):
    """Sequences of one length, on causal graphs; nets may be written "tcn@causal" too."""

    graphs = ("causal", "window")
    forms: ClassVar[tuple[str, ...]] = ("tcn",)
    nets = ("attention@causal", "attention@window", "tcn@causal", "gru@causal", "none@causal")
    seeds = 1

    def set_length(self, n: int, radius: int) -> None:
        """All sequences have `n` tokens; on "window" each attends to `radius` before it."""
        self.radius = radius
        self.on = {name: self.graph_of(name, n) for name in self.graphs}
        self.pos = torch.arange(float(n))[:, None]

    def graph_of(self, name: str, n: int) -> TokenGraph:
        return Causal(n) if name == "causal" else Causal(n) & Window(n, self.radius)

    def build(self, net: NetSpec, config: TrainConfig, width: Width) -> nn.Module:
        """With "tcn", blocks of causal convolutions, each reaching twice as far as the last.

        Their number is the least with which the last token receives from the first: Bai, Kolter,
        Koltun, 2018 (arXiv 1803.01271). Embedding, positions, MLPs and readout are those of the
        other nets.
        """
        if net.mixer != "tcn":
            return super().build(net, config, width)
        without_blocks = replace(config, depth=0)
        ends = net_of_blocks(replace(net, mixer="mean"), self.interface, without_blocks, width)
        layers: list[TokenLayer] = list(ends.layers)  # type: ignore[arg-type]
        depth = math.ceil(math.log2((len(self.pos) - 1) / (KERNEL - 1) + 1))
        block = BlockConfig(dropout=config.dropout)
        for power in range(max(depth, 1)):
            convolution = Convolution(
                width.dim, KERNEL, dilation=2**power, causal=True, groups=width.dim
            )
            layers += block.block([convolution], width.dim, width.hidden)
        return TokenNet(layers, ends.readout)


def encoder_decoder(
    net: NetSpec,
    interface: IOSpec,
    config: TrainConfig,
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
    encoder = TokenNet(list(net_of_blocks(net, interface, config, width).layers))  # type: ignore[arg-type]
    block = BlockConfig(dropout=config.dropout)
    blocks = decoder_stack(
        width.dim, config.depth, config.num_heads, width.hidden, block, final_norm=False
    )
    readout = READOUTS[interface.readout](width.dim, interface.out_features)
    return EncoderDecoder(encoder, kind([*before, blocks], readout))


def cross_attention(run: Callable[[], object], net: nn.Module) -> Tensor:
    """Weights of the last layer of `net` that attends to a source, while `run()` calls the net.

    (..., N, M), the mean over heads: how much each of N tokens attends to each of M sources.
    """
    layers = {name for name, part in net.named_modules() if isinstance(part, CrossAttention)}
    with record_attention(net) as found:
        run()
    graph, weights = [each for name, each in found.items() if name in layers][-1]
    return weights.mean(-1).unflatten(-1, (graph.num_targets, graph.num_sources))
