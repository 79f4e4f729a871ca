"""Tasks on causal sequences, where a temporal convolutional network stands beside the mixers."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import nn

from tokennet.compare.net import NetSpec, Width
from tokennet.compare.task import Task, TrainConfig
from tokennet.layer import TokenLayer
from tokennet.mixers import Convolution
from tokennet.nets import BlockConfig, IOSpec, TokenNet, build_net

KERNEL = 5


class SequenceTask(Task):
    """A task with a fixed number of tokens, on which nets may be "tcn@causal" too."""

    forms: ClassVar[tuple[str, ...]] = ("tcn",)

    def build(self, net: NetSpec, recipe: TrainConfig, width: Width) -> nn.Module:
        if net.mixer == "tcn":
            return temporal_convolutions(self.interface, recipe, width)
        return super().build(net, recipe, width)


def temporal_convolutions(interface: IOSpec, recipe: TrainConfig, width: Width) -> TokenNet:
    """Blocks of causal convolutions, each reaching twice as far back as the one before.

    As many as it takes to hear the whole sequence: Bai, Kolter, Koltun, 2018
    (arXiv 1803.01271). Embedding, positions, MLPs and readout are those of the other nets.
    """
    if interface.num_tokens is None:
        raise ValueError("tcn needs a fixed number of tokens; here it varies")
    ends = build_net(
        "mean",
        interface,
        width.dim,
        depth=0,
        positions=recipe.positions,  # type: ignore[arg-type]
        dropout=recipe.dropout,
    )
    layers: list[TokenLayer] = list(ends.layers)  # type: ignore[arg-type]
    depth = math.ceil(math.log2((interface.num_tokens - 1) / (KERNEL - 1) + 1))
    style = BlockConfig(dropout=recipe.dropout)
    for power in range(max(depth, 1)):
        back = Convolution(width.dim, KERNEL, dilation=2**power, causal=True, groups=width.dim)
        layers += style.block([back], width.dim, width.hidden)
    return TokenNet(layers, ends.readout)
