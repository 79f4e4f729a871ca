"""`TokenNet`, layers in sequence; `build_net`, the same net with one mixer or another."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from math import isqrt, prod
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

import torch
from torch import Tensor, nn

from tokennet.checks import check_items, check_made, check_size, check_sizes, checked, lookup, shown
from tokennet.graphs import TokenGraph
from tokennet.layer import (
    HoldsFunctions,
    IncrementalDecodingError,
    TokenLayer,
    Upstream,
    check_layer,
)
from tokennet.mixers import MIXERS, MixerFactory
from tokennet.nets.block import TokenWise
from tokennet.nets.config import BlockConfig
from tokennet.nets.embedding import Embedding
from tokennet.nets.evaluating import evaluating
from tokennet.nets.readout import READOUTS, Readout, make_readout
from tokennet.nets.summary import Row, Summary, count_parameters
from tokennet.positional import LearnedEncoding, SinusoidalEncoding
from tokennet.symmetry import Symmetry, intersection
from tokennet.tokens import Tokens


class TokenNet(HoldsFunctions):
    """Token layers in sequence, and a readout if the result is to be a tensor.

    Use it for every net of layers; it may be a layer of another net, or of a `Residual`.
    A net with a readout that is given positions (`tokens.pos`), and reads neither these nor the
    index of a token, warns once; not where the vectors of the tokens begin with them.

    Args:
        layers: `TokenLayer`s; nets without a readout may be among them.
        readout: makes the output tensor; None to return tokens.
        sources: of layers that attend to what an earlier layer returned: `{5: 1}` where layer 5
            attends to all tokens that layer 1 returned, `{5: -1}` to those that enter the net.
            Other layers that need a source attend to the one that the net is given.

    >>> import torch
    >>> from tokennet import Attention, Residual
    >>> from tokennet.nets import mlp
    >>> net = TokenNet([Residual(Attention(8, num_heads=2)), TokenWise(mlp(8))])
    >>> net(torch.zeros(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    >>> layers = [Attention(8, num_heads=2), TokenWise(mlp(8)), Residual(Attention(8, num_heads=2))]
    >>> TokenNet(layers, sources={2: 0})(torch.zeros(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    warns_of_positions = True
    """Set it to False on a net that is meant not to read the positions that it is given."""
    _looked_at_positions = False

    @checked()
    def __init__(
        self,
        layers: Sequence[TokenLayer | TokenNet],
        readout: Readout | None = None,
        sources: Mapping[int, int] | None = None,
    ):
        super().__init__()
        if isinstance(layers, nn.Module) and not isinstance(layers, nn.ModuleList):
            raise TypeError(f"layers must be a list of layers, got a {type(layers).__name__}")
        layers = check_items("layers", layers, object, "layers")
        for number, layer in enumerate(layers):
            check_layer(f"layers[{number}]", layer)
        self.layers = nn.ModuleList(layers)
        self.readout: Readout | None = readout
        self.sources = _checked_sources({} if sources is None else sources, layers)

    @property
    def symmetry(self) -> Symmetry:
        """The intersection over the layers and the readout, for what they read of the tokens.

        Layers after `WithGraph(complete)` do not depend on the graph of the tokens; to read or
        drop tokens that the net has prepended is not to depend on the index of the others.
        """
        return Symmetry(self.reads_after(Upstream())[0])

    def reads_after(self, upstream: Upstream) -> tuple[Set[str], Upstream]:
        """See `TokenLayer.reads_after`."""
        reads: Set[str] = frozenset()
        returned = {-1: upstream}
        for number, layer in enumerate(self.layers):
            if number in self.sources:
                hidden = returned[self.sources[number]].hidden
                reads |= layer.source_symmetry.reads - hidden  # type: ignore[union-attr, operator]
            own, upstream = layer.reads_after(upstream)  # type: ignore[operator]
            reads, returned[number] = reads | own, upstream
        if self.readout is not None:
            reads |= self.readout.reads_after(upstream)
        return reads, upstream

    @property
    def source_symmetry(self) -> Symmetry:
        """As a function of the source, which is visible as a whole, whatever graph it has."""
        return intersection(layer.source_symmetry for layer in self._of_the_source())

    @property
    def needs_source(self) -> bool:
        """Whether a layer attends to another set, which the net is to be given."""
        return any(True for _ in self._of_the_source())

    def _of_the_source(self) -> Iterator[Any]:
        """The layers that attend to the source that the net is given."""
        for number, layer in enumerate(self.layers):
            if layer.needs_source and number not in self.sources:
                yield layer

    @property
    def takes_source(self) -> bool:
        """As for a layer, so that a net may be part of a residual connection."""
        return self.needs_source

    @property
    def is_tokenwise(self) -> bool:
        """Whether all layers are functions of single tokens."""
        return all(layer.is_tokenwise for layer in self.layers)  # type: ignore[misc]

    def tokens(self, given: Any) -> Tokens:
        """The input of the net, tensor or tokens, as tokens."""
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
        if result.pos is not None and not self._looked_at_positions:
            self._look_at_positions(result)
        returned = {-1: result}
        for number, layer in enumerate(self.layers):
            if number in self.sources:
                result = layer(result, returned[self.sources[number]])
            else:
                result = layer(result, source) if layer.needs_source else layer(result)  # type: ignore[operator]
            if self.sources:
                returned[number] = result
        if self.readout is not None:
            return self.readout(result)
        return result.z if isinstance(tokens, Tensor) else result

    if TYPE_CHECKING:  # of Tokens: Tokens, or a tensor where there is a readout

        @overload  # type: ignore[override]
        def __call__(self, tokens: Tensor, source: Any = None, graph: Any = None) -> Tensor: ...
        @overload
        def __call__(self, tokens: Any, source: Any = None, graph: Any = None) -> Any: ...
        def __call__(self, tokens: Any, source: Any = None, graph: Any = None) -> Any: ...

    def step(
        self, tokens: Tokens, graph: TokenGraph, state: Any = None, source: Any = None
    ) -> tuple[Any, list[Any]]:
        """Incremental decoding, see `TokenLayer.step`; the state is that of each layer."""
        self._check_source(source)
        for number in self.sources:
            raise IncrementalDecodingError(
                self.layers[number], "it attends to all tokens of an earlier layer"
            )
        states = [None] * len(self.layers) if state is None else state
        new = []
        for layer, old in zip(self.layers, states, strict=True):
            given = source if layer.needs_source else None
            tokens, state = layer.step(tokens, graph, old, given)  # type: ignore[operator]
            new.append(state)
        return (tokens if self.readout is None else self.readout.step(tokens)), new

    def _check_source(self, source: Any) -> None:
        if (source is not None) != self.needs_source:
            raise ValueError(
                "source must be given: a layer attends to another set"
                if self.needs_source
                else "source must be left out: no layer attends to another set"
            )

    def _look_at_positions(self, tokens: Tokens) -> None:
        """Warn if nothing reads positions; without a readout, another layer may have read them."""
        if self.readout is None or torch.compiler.is_compiling():
            return
        self._looked_at_positions = True
        is_read = self.symmetry.reads & {"pos", "index"} or _holds_positions(tokens)
        if self.warns_of_positions and not is_read:
            warnings.warn(
                f"{type(self).__name__} does not use tokens.pos: none of its layers reads "
                "positions; SinusoidalEncoding(dim, num_coordinates=...) would",
                stacklevel=3,
            )

    def extra_repr(self) -> str:
        return f"sources={self.sources}" if self.sources else ""

    def flops(self, tokens: Any, source: Any = None) -> int:
        return self.summary(tokens, source).flops

    def summary(self, example: Any, source: Any = None) -> Summary:
        """Describe the net on an example: shapes, parameters, FLOPs, declared symmetry."""
        self._check_source(source)
        tokens, rows = self.tokens(example), []
        total = count_parameters(self), self.symmetry.on(tokens)
        with evaluating(self):
            returned = {-1: tokens}
            for number, layer in enumerate(self.layers):
                given = (tokens, source) if layer.needs_source else (tokens,)
                if number in self.sources:
                    given = tokens, returned[self.sources[number]]
                flops, tokens = layer.flops(*given), layer(*given)  # type: ignore[operator]
                returned[number] = tokens
                rows.append(Row.of(layer, tokens.z, flops, layer.symmetry.on(tokens)))  # type: ignore[operator, union-attr]
            if self.readout is not None:
                flops, symmetry = self.readout.flops(tokens), self.readout.symmetry.on(tokens)
                rows.append(Row.of(self.readout, self.readout(tokens), flops, symmetry))
        return Summary(rows, *total)


def _checked_sources(sources: Mapping[int, int], layers: Sequence[Any]) -> dict[int, int]:
    if not isinstance(sources, Mapping):
        raise TypeError(
            "sources must be a dict, from the number of a layer to that of an earlier one, "
            f"got {shown(sources)}"
        )
    found = {}
    for number, earlier in sources.items():
        number = check_size("a number in sources", number)
        earlier = check_size(f"sources[{number}]", earlier, -1)
        if number >= len(layers):
            raise ValueError(f"sources must be of layers 0 to {len(layers) - 1}, got {number}")
        if earlier >= number:
            raise ValueError(f"sources[{number}] must be below {number}, got {earlier}")
        if not layers[number].takes_source:
            raise ValueError(
                f"sources[{number}] must be of a layer that attends to another set, got "
                f"{type(layers[number]).__name__}"
            )
        found[number] = earlier
    return found


def _holds_positions(tokens: Tokens) -> bool:
    """Whether the vectors begin with the positions, as those of a cloud of points are these."""
    z, pos = tokens.z, tokens.pos
    assert pos is not None
    if z.shape[-1] < pos.shape[-1]:
        return False
    try:
        return bool((z[..., : pos.shape[-1]] == pos).all())
    except RuntimeError:  # under vmap, a tensor has no truth value
        return True


@checked(num_coordinates=0, num_tokens=0)
@dataclass(frozen=True)
class IOSpec:
    """Input and output of a net, as a task fixes them; `build_net` makes nets for it.

    >>> import torch
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
    """Longest wavelength of sinusoidal encodings over 2 pi; of the order of the positions."""
    ids: bool = False
    """Whether z (..., N, 1) holds integers below `in_features`, each with a vector of its own."""
    grid: tuple[int, ...] | None = None
    """Sides of the grid where the tokens are in rows and columns; None for a square or a row."""

    def __post_init__(self) -> None:
        lookup("readout", self.readout, READOUTS)
        if self.grid is not None and prod(check_sizes("grid", self.grid, 1)) != self.num_tokens:
            raise ValueError(f"grid must have num_tokens = {self.num_tokens}, got {self.grid}")


Positions = Literal["pos", "index", "none"]


@checked(depth=0, hidden=0)
def build_net(
    mixer: str | MixerFactory,
    spec: IOSpec,
    dim: int,
    depth: int = 2,
    *,
    hidden: int | None = None,
    num_heads: int = 4,
    positions: Positions = "none",
    dropout: float = 0.0,
    config: BlockConfig | None = None,
) -> TokenNet:
    """Build a net of a named mixer; nets of different mixers differ in nothing else.

    Use it to compare mixers: an embedding, positions, `depth` pre-norm blocks of mixer and
    token-wise MLP, a readout.

    Args:
        mixer: a name in `MIXERS`, or "none" for a net that does not mix tokens before its readout;
            or a function that makes mixers, (dim, num_heads, num_tokens) to a mixer.
        spec: features in and out, and the readout.
        dim: channels of the tokens.
        depth: number of blocks.
        hidden: width of the token-wise MLPs, `4 dim` by default; 0 for no MLPs.
        num_heads: for mixers that have heads.
        positions: "pos" adds sinusoidal encodings of `tokens.pos`, "index" a learned table, for
            one grid: tokens on another one are refused.
        dropout: on the input and on every residual branch.
        config: of the blocks; `dropout` is the one above.

    Raises:
        ValueError: an unknown name, or positions that the spec does not have.

    >>> import torch
    >>> net = build_net("attention", IOSpec(in_features=3, out_features=10), dim=16)
    >>> net(torch.zeros(2, 7, 3)).shape
    torch.Size([2, 10])
    """
    if isinstance(mixer, nn.Module):
        raise TypeError(f"mixer must be a name or make a mixer, got one, {type(mixer).__name__}")
    make_mixer = mixer if callable(mixer) else lookup("mixer", mixer, {**MIXERS, "none": None})
    config = replace(config or BlockConfig(), dropout=dropout)
    embedding = [*_embedding(spec, dim, dropout), *positions_of(positions, spec, dim)]

    def mixers() -> list[TokenLayer]:
        if make_mixer is None:
            return []
        return [check_made("mixer", make_mixer, TokenLayer, dim, num_heads, spec.num_tokens)]

    blocks = config.stack(mixers, dim, depth, hidden)
    return TokenNet([*embedding, *blocks], make_readout(spec.readout, dim, spec.out_features))


def _embedding(spec: IOSpec, dim: int, dropout: float) -> list[TokenLayer]:
    if spec.ids:
        table = Embedding(spec.in_features, dim, scale=dim**0.5)
        return [table, TokenWise(nn.Dropout(dropout))] if dropout else [table]
    embed = nn.Linear(spec.in_features, dim)
    return [TokenWise(nn.Sequential(nn.Dropout(dropout), embed))]


def positions_of(positions: str, spec: IOSpec, dim: int) -> list[TokenLayer]:
    """Layers of positional encodings, an empty list for "none"; see `build_net`."""
    lookup("positions", positions, dict.fromkeys(get_args(Positions)))
    if positions == "none":
        return []
    if positions == "pos":
        if spec.num_coordinates == 0:
            raise ValueError("positions='pos' needs tokens.pos, which this task does not have")
        coordinates, base = spec.num_coordinates, spec.position_base
        return [SinusoidalEncoding(dim, "pos", num_coordinates=coordinates, base=base)]
    if spec.num_tokens is None:
        raise ValueError("positions='index' needs a fixed number of tokens; here it varies")
    side = isqrt(spec.num_tokens)
    grid = spec.grid or ((side, side) if side**2 == spec.num_tokens else (spec.num_tokens,))
    return [LearnedEncoding(dim, spec.num_tokens, "index", grid=grid)]
