"""Recurrent nets along the tokens: GRU, LSTM and the plain RNN."""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from tokennet._compiling import constant_result
from tokennet.checks import checked, lookup
from tokennet.graphs import Causal, Full, TokenGraph
from tokennet.layer import check_step
from tokennet.mixers.fixed_pattern import FixedPatternMixer
from tokennet.ops.batching import sets_alike
from tokennet.tokens import Tokens

Cell = Literal["gru", "lstm", "rnn"]
GATES = {"gru": 3, "lstm": 4, "rnn": 1}


class Packed(NamedTuple):
    """A ragged batch by time: first tokens of all sets, longest set first, second tokens, ..."""

    order: Tensor
    """(N,) index of each token of that list."""
    back: Tensor
    """(N,) index in that list of each token."""


class Recurrence(FixedPatternMixer):
    r"""A recurrent net along the tokens: a baseline for sequences, with a state of fixed size.

        gru:   r, u = sigmoid(A z_i + B h_{i-1} + c),  n = tanh(A' z_i + a' + r (B' h_{i-1} + b'))
               h_i = (1 - u) n + u h_{i-1}
        lstm:  f, g, o = sigmoid(A z_i + B h_{i-1} + c),  n = tanh(A' z_i + B' h_{i-1} + c')
               c_i = f c_{i-1} + g n,   h_i = o tanh(c_i)
        rnn:   h_i = tanh(A z_i + B h_{i-1} + c)

    out_i = h_i, with h_0 = 0. Cho et al., 2014 (arXiv 1406.1078); Hochreiter and Schmidhuber,
    1997; Elman, 1990. Equal to `nn.GRU`, `nn.LSTM` and `nn.RNN`, whose weights
    `recurrence.cells.load_state_dict` accepts. A token depends on itself and all before it, so
    that the graph must have the edges of `Causal(n)`; of `Full(n)` where `bidirectional`. It
    supports incremental decoding unless it is.

    Args:
        dim: channels D of tokens and output.
        cell: "gru", "lstm" or "rnn".
        num_layers: recurrent nets on top of each other.
        bidirectional: half of the channels from a net that comes from the other end.

    Raises:
        ValueError: an unknown cell, an odd `dim` where bidirectional, a graph that lacks some
            of the edges, or a `source`.

    >>> Recurrence(8, "lstm")(torch.zeros(2, 5, 8), graph=Causal(5)).shape
    torch.Size([2, 5, 8])
    """

    @checked()
    def __init__(
        self,
        dim: int,
        cell: Cell = "gru",
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
    ) -> None:
        super().__init__(dim)
        lookup("cell", cell, GATES)
        if bidirectional and dim % 2:
            raise ValueError(f"dim must be even for two directions, got {dim}")
        self.cell, self.bidirectional = cell, bidirectional
        self.pattern = (_earlier_or_all, bidirectional)
        # The common base of nn.GRU and its like: dynamo refuses these, but not what they call.
        self.cells = nn.RNNBase(
            "RNN_TANH" if cell == "rnn" else cell.upper(), dim, dim // (1 + bidirectional),
            num_layers, batch_first=True, bidirectional=bidirectional,
        )  # fmt: skip

    def mix(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        # Sizes of packed steps are data to a compiler, which cannot unroll them.
        if graph.is_ragged and not torch.compiler.is_compiling():
            return self._mix_packed(tokens.z, graph)
        return super().mix(tokens, source, graph)

    def mix_set(self, z: Tensor, graph: TokenGraph) -> Tensor:
        return self._run(z, None)[0]

    def step(
        self, tokens: Tokens, graph: TokenGraph, state: Any = None, source: Any = None
    ) -> tuple[Tokens, Any]:
        """The hidden states of all layers (..., layers, H) are the state."""
        if self.bidirectional:
            return super().step(tokens, graph, state, source)
        check_step(tokens, graph, self.dim)
        self.check_graph(graph)
        z, state = self._run(tokens.z, state)
        return tokens.replace(z=z), state

    def _run(self, z: Tensor, state: Any) -> tuple[Tensor, Any]:
        if z.numel() == 0:
            return z, state
        sequences = z.reshape(-1, *z.shape[-2:])  # (B, N, D)
        state = self._start(z, len(sequences)) if state is None else tree_map(_layers_first, state)
        out, state = self._call(sequences, state, batch_first=(True,))
        state = tree_map(
            lambda part: part.transpose(0, 1).reshape(*z.shape[:-2], *part.shape[::2]), state
        )
        return out.reshape(z.shape), state

    def _mix_packed(self, z: Tensor, graph: TokenGraph) -> Tensor:
        if z.numel() == 0:
            return z
        sets_alike(graph, z.device)  # a compiled call asks for it, and cannot build it
        packed: Packed = graph.cached(_packed, device=z.device)
        batch = z.shape[:-2].numel()
        sizes = batch * graph.cached(_packed_sizes)  # stay on the CPU
        flat = z.reshape(batch, *z.shape[-2:]).index_select(1, packed.order)
        data = flat.transpose(0, 1).flatten(0, 1)  # (N batch, D), by time
        out, _ = self._call(data, self._start(z, int(sizes[0])), sizes)
        out = out.unflatten(0, (-1, batch)).transpose(0, 1).index_select(1, packed.back)
        return out.reshape(z.shape)

    def _start(self, z: Tensor, batch: int) -> Any:
        layers = self.cells.num_layers * (1 + self.bidirectional)
        zeros = z.new_zeros(layers, batch, self.cells.hidden_size)
        return (zeros, zeros) if self.cell == "lstm" else zeros

    def _call(
        self, z: Tensor, state: Any, *sizes: Tensor, batch_first: tuple[bool, ...] = ()
    ) -> tuple[Tensor, Any]:
        weights = [weight for layer in self.cells.all_weights for weight in layer]
        short = torch.get_autocast_dtype("cpu")
        is_autocast = z.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if self.cell == "lstm" and is_autocast and not _cpu_has_lstm(short):
            with torch.autocast("cpu", enabled=False):
                wide = tree_map(lambda part: part.to(weights[0].dtype), (z, state))
                out = self._call(*wide, *sizes, batch_first=batch_first)
            return tree_map(lambda part: part.to(short), out)
        run: Any = {"gru": torch.gru, "lstm": torch.lstm, "rnn": torch.rnn_tanh}[self.cell]
        # Without dropout this only says whether cuDNN keeps what its backward pass needs.
        train = self.training or torch.is_grad_enabled()
        settings = True, self.cells.num_layers, 0.0, train, self.bidirectional
        out, *state = run(z, *sizes, state, weights, *settings, *batch_first)
        return out, tuple(state) if self.cell == "lstm" else state[0]

    def flops(self, tokens: Tokens) -> int:
        """2 gates H (inputs + H) for each token, layer and direction, of hidden size H."""
        hidden, directions = self.cells.hidden_size, 1 + self.bidirectional
        inputs = self.dim + (self.cells.num_layers - 1) * hidden * directions
        per_token = 2 * GATES[self.cell] * hidden * (inputs + self.cells.num_layers * hidden)
        return tokens.z.shape[:-1].numel() * directions * per_token


@constant_result
@functools.cache
def _cpu_has_lstm(dtype: torch.dtype) -> bool:
    """Whether this CPU runs an LSTM under autocast to `dtype`: for bfloat16 it needs AVX-512."""
    # In no mode of the caller's, and without a number from the caller's generator.
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        cells = nn.LSTM(1, 1, device="cpu", dtype=torch.float32)
        z = torch.zeros(1, 1, device="cpu", dtype=torch.float32, requires_grad=True)
        try:
            with torch.autocast("cpu", dtype):
                cells(z)[0].float().sum().backward()
        except RuntimeError:
            return False
    return True


def _earlier_or_all(graph: TokenGraph, bidirectional: bool) -> TokenGraph:
    if bidirectional:
        return Full(graph.num_sources)
    return Causal(graph.num_sources).last(graph.num_targets)


def _layers_first(state: Tensor) -> Tensor:
    """(..., layers, H) to (layers, B, H)."""
    return state.reshape(-1, *state.shape[-2:]).transpose(0, 1).contiguous()


def _packed(graph: TokenGraph) -> Packed:
    sizes = torch.tensor(graph.sizes)
    rank = sizes.argsort(descending=True, stable=True).argsort()
    order = (graph.local_index() * len(sizes) + rank[graph.batch()]).argsort()
    return Packed(order, order.argsort())


def _packed_sizes(graph: TokenGraph) -> Tensor:
    return torch.bincount(graph.local_index())
