"""Two nets, of which the second listens to the first: for tasks with a source."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from tokennet.compare.net import Net, Width
from tokennet.compare.task import Recipe, net_of_blocks
from tokennet.layer import TokenLayer
from tokennet.mixers import Attention, CrossAttention, collect_attention_weights
from tokennet.nets import READOUTS, Interface, Residual, TokenNet, TokenWise, mlp
from tokennet.tokens import Tokens


def encoder(net: Net, interface: Interface, recipe: Recipe, width: Width) -> TokenNet:
    """The net of `build_net` without its readout: embedding, positions, blocks of the mixer."""
    whole = net_of_blocks(net, interface, recipe, width)
    return TokenNet(list(whole.layers))  # type: ignore[arg-type]


def listening_blocks(recipe: Recipe, width: Width) -> list[TokenLayer]:
    """Layers of a decoder: attention to its own tokens, attention to the source, an MLP."""
    dim, blocks = width.dim, []
    for _ in range(recipe.depth):
        for layer in (
            Attention(dim, recipe.heads),
            CrossAttention(dim, recipe.heads),
            TokenWise(mlp(dim, width.hidden, recipe.dropout)),
        ):
            blocks.append(Residual(layer, nn.LayerNorm(dim), recipe.dropout))
    return blocks  # type: ignore[return-value]


def decoder(
    interface: Interface, recipe: Recipe, width: Width, before: Sequence[TokenLayer]
) -> TokenNet:
    """The layers `before`, blocks that listen to the source, and the interface's readout."""
    layers = [*before, *listening_blocks(recipe, width)]
    return TokenNet(layers, READOUTS[interface.readout](width.dim, interface.out_features))


class Listening(nn.Module):
    """`decoder(tokens, encoder(source))`.

    Vaswani et al., 2017 (arXiv 1706.03762), with any mixer in the encoder.
    """

    def __init__(self, encoder: TokenNet, decoder: TokenNet) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, tokens: Tokens, source: Tokens) -> Tensor:
        return self.decoder(tokens, self.encoder(source))  # type: ignore[return-value]

    def flops(self, tokens: Tokens, source: Tokens) -> int:
        return self.encoder.flops(source) + self.decoder.flops(tokens, self.encoder(source))  # type: ignore[arg-type]


def cross_attention(run: Callable[[], object], net: nn.Module) -> Tensor:
    """Weights of the last layer of `net` that attends to a source, as `run()` makes it do.

    (..., N, M), the mean over heads: how much each of N tokens listens to each of M sources.
    """
    layers = {name for name, part in net.named_modules() if isinstance(part, CrossAttention)}
    with collect_attention_weights(net) as found:
        run()
    graph, weights = [each for name, each in found.items() if name in layers][-1]
    return weights.mean(-1).unflatten(-1, (graph.num_targets, graph.num_sources))
