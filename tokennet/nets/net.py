"""`TokenNet`: layers in sequence, and what they amount to."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tokennet.graphs import TokenGraph
from tokennet.layer import TokenLayer
from tokennet.mixers import MIXERS
from tokennet.nets.block import Residual, TokenWise, mlp
from tokennet.nets.compose import WithGraph, complete
from tokennet.nets.embedding import Embedding
from tokennet.nets.prepend import DropTokens, PrependTokens
from tokennet.nets.readout import READOUTS, ClassTokenReadout, Readout
from tokennet.nets.summary import Row, Summary, count_parameters
from tokennet.positional import LearnedEncoding, SinusoidalEncoding
from tokennet.symmetry import Symmetry, intersection
from tokennet.tokens import Tokens


class TokenNet(nn.Module):
    """Token layers one after the other, and a readout if the result is to be a tensor.

    Args:
        layers: `TokenLayer`s; nets without a readout may be among them.
        readout: makes the output tensor; None to give tokens back.

    >>> from tokennet import Attention
    >>> net = TokenNet([Residual(Attention(8, num_heads=2)), TokenWise(mlp(8))])
    >>> net(torch.zeros(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, layers: Sequence[TokenLayer | TokenNet], readout: Readout | None = None):
        super().__init__()
        if isinstance(layers, nn.Module) and not isinstance(layers, nn.ModuleList):
            raise TypeError(f"layers must be a list of layers, got a {type(layers).__name__}")
        for number, layer in enumerate(layers):
            if not isinstance(layer, TokenLayer | TokenNet):
                raise TypeError(
                    f"layers[{number}] must be a TokenLayer (TokenWise(fn) makes one of a "
                    f"function), got {type(layer).__name__}"
                )
            if isinstance(layer, TokenNet) and layer.readout is not None:
                raise ValueError(f"layers[{number}] must give tokens: it has a readout")
        self.layers = nn.ModuleList(layers)
        self.readout: Readout | None = readout

    @property
    def symmetry(self) -> Symmetry:
        """The intersection over the layers and the readout, for what they see of the tokens.

        After `WithGraph(complete)` the graph of the tokens is seen no more; to pick or drop
        tokens that the net has put before them is not to read their index.
        """
        return Symmetry(_reads(self, frozenset(), 0)[0])

    @property
    def source_symmetry(self) -> Symmetry:
        """As a function of the source, all of which is heard, whatever graph it has."""
        listening: list[Any] = [layer for layer in self.layers if layer.needs_source]
        return intersection(
            layer.source_symmetry
            if isinstance(layer, TokenNet)
            else Symmetry(layer.symmetry.reads - {"graph"})
            for layer in listening
        )

    @property
    def needs_source(self) -> bool:
        """Whether a layer listens to another set."""
        return any(layer.needs_source for layer in self.layers)  # type: ignore[union-attr]

    @property
    def takes_source(self) -> bool:
        """As for a layer, so that a net may stand in a residual connection."""
        return self.needs_source

    @property
    def is_tokenwise(self) -> bool:
        """Whether all layers are functions of single tokens."""
        return all(layer.is_tokenwise for layer in self.layers)  # type: ignore[union-attr]

    def tokens(self, given: Any) -> Tokens:
        """What the net is given, as tokens."""
        return Tokens(given) if isinstance(given, Tensor) else given

    def forward(self, tokens: Any, source: Any = None, graph: TokenGraph | None = None) -> Any:
        self._check_source(source)
        result = self.tokens(tokens)
        if graph is not None:
            if isinstance(tokens, Tokens):
                raise ValueError(
                    "graph must be left out where tokens have a graph of their own: write "
                    "net(tokens.replace(graph=...))"
                )
            result = result.replace(graph=graph)
        for layer in self.layers:
            result = layer(result, source) if layer.needs_source else layer(result)  # type: ignore[operator]
        if self.readout is not None:
            return self.readout(result)
        return result.z if isinstance(tokens, Tensor) else result

    def step(
        self, tokens: Tokens, graph: TokenGraph, state: Any = None, source: Any = None
    ) -> tuple[Any, list[Any]]:
        """The next tokens of a sequence; see `TokenLayer.step`. The states of all layers."""
        self._check_source(source)
        states = [None] * len(self.layers) if state is None else state
        new = []
        for layer, old in zip(self.layers, states, strict=True):
            asked = source if layer.needs_source else None
            tokens, state = layer.step(tokens, graph, old, asked)  # type: ignore[operator]
            new.append(state)
        return (tokens if self.readout is None else self.readout.step(tokens)), new

    def _check_source(self, source: Any) -> None:
        if (source is not None) != self.needs_source:
            raise ValueError(
                "source must be given: a layer listens to another set"
                if self.needs_source
                else "source must be left out: no layer listens to another set"
            )

    def flops(self, tokens: Any, source: Any = None) -> int:
        return self.summary(tokens, source).flops

    @torch.no_grad()
    def summary(self, example: Any, source: Any = None) -> Summary:
        """Describe the net on an example: shapes, parameters, FLOPs, declared symmetry."""
        self._check_source(source)
        tokens = self.tokens(example)
        training = {module for module in self.modules() if module.training}
        self.eval()
        try:
            return Summary(
                self._rows(tokens, source), count_parameters(self), self.symmetry.on(tokens)
            )
        finally:
            for module in training:
                module.training = True

    def _rows(self, tokens: Tokens, source: Any) -> list[Row]:
        rows = []
        for layer in self.layers:
            given = (tokens, source) if layer.needs_source else (tokens,)
            flops, tokens = layer.flops(*given), layer(*given)  # type: ignore[operator]
            rows.append(Row.of(layer, tokens.z, flops, layer.symmetry.on(tokens)))  # type: ignore[operator, union-attr]
        if self.readout is not None:
            flops = self.readout.flops(tokens)
            symmetry = self.readout.symmetry.on(tokens)
            rows.append(Row.of(self.readout, self.readout(tokens), flops, symmetry))
        return rows


def _reads(
    net: TokenNet, hidden: frozenset[str], before: int
) -> tuple[frozenset[str], frozenset[str], int]:
    """What a net reads of the tokens, and what it leaves to the layers after it.

    Args:
        hidden: what layers before the net have replaced by what tells nothing.
        before: number of learned tokens before those that the net is asked about.
    """
    reads: frozenset[str] = frozenset()
    layers: list[Any] = list(net.layers)
    for layer in layers:
        if isinstance(layer, TokenNet):
            own, hidden, before = _reads(layer, hidden, before)
        else:
            own = layer.symmetry.reads - hidden
        if isinstance(layer, WithGraph) and layer.graph_of is complete:
            hidden = hidden | {"graph"}
        elif isinstance(layer, PrependTokens):
            before += layer.count
        elif isinstance(layer, DropTokens):
            own = own - {"index"} if layer.count <= before else own
            before = max(before - layer.count, 0)
        reads = reads | own
    if net.readout is not None:
        of_those = isinstance(net.readout, ClassTokenReadout) and 0 <= net.readout.index < before
        reads = reads | net.readout.symmetry.reads - hidden - ({"index"} if of_those else set())
    return reads, hidden, before


@dataclass(frozen=True)
class IOSpec:
    """What a task fixes of a net: what goes in, and what is to come out.

    >>> per_token = IOSpec(in_features=3, out_features=10, readout="token")
    >>> build_net("mean", per_token, dim=16)(torch.zeros(2, 7, 3)).shape
    torch.Size([2, 7, 10])
    """

    in_features: int
    out_features: int
    readout: str = "mean"
    num_tokens: int | None = None
    """The number of tokens where it is the same for all examples."""
    num_coordinates: int = 0
    """Columns of `tokens.pos`; 0 where there are no positions."""
    position_base: float = 10_000.0
    """Longest wavelength of sinusoidal codes over 2 pi; of the order of the positions."""
    ids: bool = False
    """Whether z (..., N, 1) holds integers below `in_features`, each to have its own vector."""


Positions = Literal["pos", "index", "none"]


def build_net(
    mixer: str,
    interface: IOSpec,
    dim: int,
    depth: int = 2,
    *,
    hidden: int | None = None,
    num_heads: int = 4,
    positions: Positions = "none",
    dropout: float = 0.0,
) -> TokenNet:
    """Build a net in which the mixer is the only thing that changes.

    An embedding, positions, `depth` pre-norm blocks of mixer and token-wise MLP, a readout.

    Args:
        mixer: a name in `MIXERS`.
        interface: features in and out, and the readout.
        dim: channels of the tokens.
        depth: number of blocks.
        hidden: width of the token-wise MLPs, `4 dim` by default; 0 leaves them out.
        num_heads: for mixers that have heads.
        positions: "pos" adds sinusoidal codes of `tokens.pos`, "index" a learned table.
        dropout: on the input and on every residual branch.

    Raises:
        ValueError: an unknown name, or positions that the interface does not have.

    >>> net = build_net("attention", IOSpec(in_features=3, out_features=10), dim=16)
    >>> net(torch.zeros(2, 7, 3)).shape
    torch.Size([2, 10])
    """
    check_name("mixer", mixer, MIXERS)
    check_name("readout", interface.readout, READOUTS)
    layers = [*_embedding(interface, dim, dropout), *positions_of(positions, interface, dim)]
    for _ in range(depth):
        mixing = MIXERS[mixer](dim, num_heads, interface.num_tokens)
        layers.append(Residual(mixing, nn.LayerNorm(dim), dropout))
        if hidden != 0:
            layers.append(
                Residual(TokenWise(mlp(dim, hidden, dropout)), nn.LayerNorm(dim), dropout)
            )
    return TokenNet(layers, READOUTS[interface.readout](dim, interface.out_features))


def _embedding(interface: IOSpec, dim: int, dropout: float) -> list[TokenLayer]:
    if interface.ids:
        table = Embedding(interface.in_features, dim, scale=dim**0.5)
        return [table, TokenWise(nn.Dropout(dropout))] if dropout else [table]
    embed = nn.Linear(interface.in_features, dim)
    return [TokenWise(nn.Sequential(nn.Dropout(dropout), embed))]


def positions_of(positions: str, interface: IOSpec, dim: int) -> list[TokenLayer]:
    """Layers of positional codes, none for "none"; see `build_net`."""
    if positions == "none":
        return []
    if positions == "pos":
        if interface.num_coordinates == 0:
            raise ValueError("positions='pos' needs tokens.pos, which this task does not have")
        coordinates, base = interface.num_coordinates, interface.position_base
        return [SinusoidalEncoding(dim, "pos", num_coordinates=coordinates, base=base)]
    if positions == "index":
        if interface.num_tokens is None:
            raise ValueError("positions='index' needs a fixed number of tokens; here it varies")
        return [LearnedEncoding(dim, interface.num_tokens, "index")]
    raise ValueError(f"positions must be 'pos', 'index' or 'none', got {positions!r}")


def check_name(argument: str, name: str, registry: dict) -> None:
    """Raise ValueError if `name` is not registered, listing the names that are."""
    if name not in registry:
        near = [known for known in registry if known.startswith(name)]
        near = near or difflib.get_close_matches(name, registry)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"{argument} must be one of {', '.join(registry)}; got {name!r}{hint}")
