"""`on_graph`: a transformer of anyone on a token graph, as it is."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from tokennet.checks import check_type
from tokennet.graphs import PerHead, TokenGraph, from_mask_mod
from tokennet.interop._calls import FRAMES, NAME, AttentionCall, Catch, Offsets, register_attention
from tokennet.interop._pyg import is_convolution, num_nodes, on_edges

Graph = TokenGraph | PerHead | None
Rule = Graph | Callable[["Layer", int], Graph] | Mapping[int, Graph] | Sequence[Graph] | str

_MOST = 256
"""Graphs that a model remembers, by layer and length."""


class Layer(int):
    """Number of a layer of attention, in the order in which they first run; and its path."""

    path: str

    def __new__(cls, number: int, path: str) -> Layer:
        self = super().__new__(cls, number)
        self.path = path
        return self


class _Frame:
    """A module that is running."""

    def __init__(self, session: Session, path: str) -> None:
        self.session, self.path, self.reached = session, path, 0


class ModelOnGraph:
    """A model on a graph, and the way back. Made by `on_graph`."""

    note: Callable[[str, AttentionCall], None] | None = None
    """Asked of each call, with the path of its layer; it then gives no graph itself."""

    def __init__(
        self, model: nn.Module, rule: Rule, note: Callable[[str, AttentionCall], None] | None = None
    ) -> None:
        self.model = model
        self.rule = rule
        self.note = note
        self._graphs: dict[Any, Any] = {}
        with _LOCK:
            _session_of(model).push(self)

    def __enter__(self) -> ModelOnGraph:
        return self

    def __exit__(self, *error: object) -> None:
        self.restore()

    def restore(self) -> None:
        """Give the model its own attention back; twice is once."""
        _session_of(self.model).remove(self)

    def graph_of(self, layer: Layer, own: TokenGraph, offsets: Offsets) -> TokenGraph | PerHead:
        """What a call attends to: the graph given, and of that what the model sees."""
        length = own.num_targets if offsets.length is None else offsets.length
        given = self.given(layer, length)
        if given is None:
            return own
        key = id(given), id(own), offsets
        if key not in self._graphs:
            if len(self._graphs) >= _MOST:
                self._graphs.clear()
            graphs = given.graphs if isinstance(given, PerHead) else (given,)
            made = {id(g): _seen(g, own, offsets, layer) for g in graphs}
            both = [made[id(g)] for g in graphs]
            joined = PerHead(both) if isinstance(given, PerHead) else both[0]
            self._graphs[key] = joined, given, own  # which keeps their ids
        return self._graphs[key][0]

    def given(self, layer: Layer, length: int) -> Graph:
        """The graph of a layer for a sequence of some length, or None for its own."""
        rule = self.rule
        if isinstance(rule, TokenGraph | PerHead) or rule is None or isinstance(rule, str):
            return None if isinstance(rule, str) else rule
        key = (int(layer), length)
        if key not in self._graphs:
            if callable(rule):
                found = rule(layer, length)
            elif isinstance(rule, Mapping):
                found = rule.get(int(layer))
            else:
                found = rule[layer] if layer < len(rule) else None
            if found is not None:
                kinds = TokenGraph | PerHead
                check_type(f"graph of {layer.path}", found, kinds, "a graph or None")
            self._graphs[key] = (found,)
        return self._graphs[key][0]


def _seen(graph: TokenGraph, own: TokenGraph, offsets: Offsets, layer: Layer) -> TokenGraph:
    """Of a graph on the whole sequence, the part between these queries and keys; and own."""
    n, m, length = own.num_targets, own.num_sources, offsets.length
    whole = (n, m) if length is None else (length, length)
    if (graph.num_targets, graph.num_sources) != whole:
        raise ValueError(
            f"graph of {layer.path} must have {whole[0]} targets and {whole[1]} sources, got "
            f"{graph!r}; a function of (layer, length) can give each call its own, or None"
        )
    if length is not None and (offsets != Offsets(0, 0, n) or m != n):
        graph = _window_of(graph, offsets, n, m)
    return graph if own.is_full else graph & own


def _window_of(graph: TokenGraph, offsets: Offsets, n: int, m: int) -> TokenGraph:
    length = graph.num_targets
    if offsets.key == 0 and m == length and offsets.query + n == length:
        return graph.last(n)

    def visible(b: Any, h: Any, i: Any, j: Any) -> Any:
        source = (j + offsets.key).clamp(max=length - 1)  # keys after the last are not filled yet
        return graph.attends((i + offsets.query).clamp(max=length - 1), source) & (
            j + offsets.key < length
        )

    return from_mask_mod(visible, n, m)


class Session:
    """A model that is on a graph, or on several, one within the other: the last one counts."""

    def __init__(self) -> None:
        self.stack: list[ModelOnGraph] = []
        self.numbers: dict[str, int] = {}
        self.undo: list[Callable[[], None]] = []

    def push(self, one: ModelOnGraph) -> None:
        with _LOCK:
            if not self.stack:
                self._install(one.model)
            self.stack.append(one)

    def remove(self, one: ModelOnGraph) -> None:
        with _LOCK:
            if one not in self.stack:
                return
            self.stack.remove(one)
            if not self.stack:
                self._undo()

    def _undo(self) -> None:
        while self.undo:
            self.undo.pop()()

    def graph_of(self, path: str, own: TokenGraph, offsets: Offsets) -> TokenGraph | PerHead:
        number = self.numbers.setdefault(path, len(self.numbers))
        for one in reversed(self.stack):  # none is left where another thread restored the model
            if one.note is None:
                return one.graph_of(Layer(number, path), own, offsets)
        return own

    def edges_of(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Arguments of a convolution of PyG, with the edges of its graph alone."""
        number = self.numbers.setdefault(path, len(self.numbers))
        rules = [one for one in self.stack if one.note is None]
        length = num_nodes(module, args, kwargs)[0]
        graph = rules[-1].given(Layer(number, path), length) if rules else None
        for frame in FRAMES.running:
            frame.reached += 1
        if graph is None:
            return None
        if isinstance(graph, PerHead):
            raise TypeError(f"graph of {path} must be one for all heads, got {graph!r}")
        return on_edges(module, args, kwargs, graph, path)

    def note(self, path: str, given: AttentionCall) -> None:
        for one in self.stack:
            if one.note is not None:
                one.note(path, given)

    def _install(self, model: nn.Module) -> None:
        try:
            self._switch_huggingface(model)
            model.__dict__[_KEPT] = self
            self.undo.append(partial(model.__dict__.pop, _KEPT, None))
            _FASTPATH.switch_off()
            back = weakref.finalize(model, _FASTPATH.switch_back)  # once: here, or when it is freed
            back.atexit = False
            self.undo.append(back)
            for path, module in model.named_modules():
                self._hook(path, module)
        except BaseException:
            self._undo()
            raise

    def _hook(self, path: str, module: nn.Module) -> None:
        def enter(module: nn.Module, inputs: Any) -> None:
            if not FRAMES.running:
                FRAMES.mode = Catch()
                FRAMES.mode.__enter__()
            FRAMES.running.append(_Frame(self, path))

        def check(module: nn.Module, inputs: Any, output: Any) -> None:
            if is_attention and not FRAMES.running[-1].reached:
                raise RuntimeError(_unreached(path, module))

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            FRAMES.running.pop()
            if not FRAMES.running and FRAMES.mode is not None:
                FRAMES.masks, FRAMES.offsets = [], {}
                mode, FRAMES.mode = FRAMES.mode, None
                mode.__exit__(None, None, None)

        is_attention = path == "" or _is_attention(module)
        for handle in (
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(check),
            module.register_forward_hook(leave, always_call=True),
        ):
            self.undo.append(handle.remove)
        if is_convolution(module):
            restrict = partial(self.edges_of, path)
            handle = module.register_forward_pre_hook(restrict, with_kwargs=True)
            self.undo.append(handle.remove)

    def _switch_huggingface(self, model: nn.Module) -> None:
        """Dispatch to our attention, in all models of Hugging Face that dispatch."""
        if "transformers" not in sys.modules:
            return
        from transformers import PreTrainedModel

        register_attention()
        configs: dict[int, Any] = {}
        for part in model.modules():
            if isinstance(part, PreTrainedModel) and part._can_set_attn_implementation():
                for inner in part.modules():
                    config: Any = getattr(inner, "config", None)
                    if hasattr(config, "_attn_implementation_internal"):
                        configs[id(config)] = config
        for config in configs.values():
            self.undo.append(_setter(config, config._attn_implementation_internal))
            config._attn_implementation_internal = NAME


def _setter(config: Any, value: Any) -> Callable[[], None]:
    def restore() -> None:
        config._attn_implementation_internal = value

    return restore


def _is_attention(module: nn.Module) -> bool:
    """Whether it computes attention itself, by its name: no part of it does."""
    return _has_name(module) and not any(
        _has_name(part) for part in module.modules() if part is not module
    )


def _has_name(module: nn.Module) -> bool:
    name = type(module).__name__.lower()
    return "attention" in name or "attn" in name


def _unreached(path: str, module: nn.Module) -> str:
    kind = type(module).__name__
    if path == "":
        return f"{kind} cannot be put on a graph: it called no attention that can be reached"
    return (
        f"{path} cannot be put on a graph: {kind} computes attention itself, neither by Hugging "
        "Face's AttentionInterface nor by torch's scaled_dot_product_attention"
    )


class _Fastpath:
    """Torch's flag of the fast path of its transformer layers, off while a model is on a graph."""

    def __init__(self) -> None:
        self.count, self.was = 0, True

    def switch_off(self) -> None:
        if self.count == 0:
            self.was = torch.backends.mha.get_fastpath_enabled()
            torch.backends.mha.set_fastpath_enabled(False)
        self.count += 1

    def switch_back(self) -> None:
        with _LOCK:
            self.count -= 1
            if self.count == 0:
                torch.backends.mha.set_fastpath_enabled(self.was)


_LOCK = threading.RLock()
_FASTPATH = _Fastpath()
_KEPT = "_tokennet_session"


def _session_of(model: nn.Module) -> Session:
    """Kept with the model while it is on a graph, so that both are freed together."""
    return model.__dict__.get(_KEPT) or Session()


def on_graph(model: nn.Module, graph: Rule = "own") -> ModelOnGraph:
    """Run a transformer of anyone on a token graph, with its own weights, without conversion.

    Models of Hugging Face that dispatch their attention, and models that call torch's
    `scaled_dot_product_attention`: timm, `nn.TransformerEncoder`, your own; and convolutions of
    PyG, which keep those of their edges that are in the graph. In each of their calls
    a target attends to what both the graph and the model's own mask let it see; padding, causal
    and window masks, packed sequences, grouped queries, soft-capping, sinks, biases and dropout
    stay as the model has them. With a cache, new tokens attend to those before them as the graph
    of the whole sequence says.

    As a context it ends at the end of the block; else with `.restore()`. Then hooks, configs and
    torch's flag of the fast path are as before. In nested blocks the inner graph counts.

    Args:
        model: any module. What checkpointing computes again in the backward pass must be within
            the block, too.
        graph: a `TokenGraph` on the tokens of each sequence, or a `PerHead`; a list or dict of
            them by layer; or a function of (layer, length) to one. None, or no entry, leaves a
            layer its own. `layer` is the number of a layer in the order in which they first
            run, with its `path`; `length` that of the sequence so far, or the number of queries
            where keys come from another sequence. "own" leaves all as they are, with sparse
            masks on a sparse kernel.

    Raises:
        TypeError: `model` is no module, or `graph` is none of these.
        ValueError: in a call: a graph of other sizes, by the layer's path.
        RuntimeError: in a call: a layer computes attention itself and cannot be reached.

    >>> import torch
    >>> from tokennet import Window
    >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    >>> z = torch.randn(1, 6, 8)
    >>> with on_graph(layer, Window(6, radius=1)):
    ...     before = layer(z)
    ...     z[0, 5] = 0.0
    ...     after = layer(z)
    >>> [torch.allclose(before[0, i], after[0, i]) for i in (3, 4)]
    [True, False]
    """
    check_type("model", model, nn.Module, "a module")
    is_rule = isinstance(graph, TokenGraph | PerHead | Mapping | Sequence) or callable(graph)
    if (graph is not None and not is_rule) or (isinstance(graph, str) and graph != "own"):
        raise TypeError(
            "graph must be a TokenGraph, a PerHead, a list or dict of them by layer, a function of "
            f'(layer, length), None or "own", got {graph!r}'
        )
    return ModelOnGraph(model, graph)
