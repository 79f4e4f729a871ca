"""`TokenLayer`: the base class of all layers; Tokens in, Tokens out, on the same graph."""

from __future__ import annotations

import pickle
import re
import sys
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Set
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple, cast, overload

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.hooks import BackwardHook, RemovableHandle

from tokennet.checks import check_type, shown
from tokennet.graphs import TokenGraph
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens

Given = Tokens | Tensor | None
"""What a layer may be given as the other set."""


class IncrementalDecodingError(TypeError):
    """A layer or readout does not support incremental decoding.

    Args:
        layer: the layer.
        reason: of the message, such as "it attends to later tokens".
    """

    def __init__(self, layer: nn.Module, reason: str = "") -> None:
        because = f": {reason}" if reason else ""
        super().__init__(f"{type(layer).__name__} does not support incremental decoding{because}")


class _LocalFunction:
    """A function in a pickled state that `pickle` cannot save; other packages may be able to."""

    def __init__(self, owner: object, name: str, function: Any) -> None:
        self.owner, self.name, self.function = type(owner).__name__, name, function

    def __deepcopy__(self, memo: dict[int, Any]) -> _LocalFunction:
        return self  # functions are not copied

    def __reduce__(self) -> Any:
        loaded = {name.rpartition(".")[2] for name in sys.modules}
        if loaded & {"cloudpickle", "dill"}:  # which save functions of any kind
            return _itself, (self.function,)
        raise pickle.PicklingError(
            f"{self.name} of {self.owner} must be a function that can be imported, to be pickled: "
            "define it by def in a module, or save net.state_dict(); got "
            f"{self.function.__qualname__} of {self.function.__module__}"
        )


def _itself(function: Any) -> Any:
    return function


class HoldsFunctions(nn.Module):
    """Base of modules with functions as attributes: says which of them cannot be pickled."""

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: _LocalFunction(self, name, value)
            if isinstance(value, FunctionType) and "<" in value.__qualname__
            else value
            for name, value in self.__dict__.items()
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(
            {
                name: value.function if isinstance(value, _LocalFunction) else value
                for name, value in state.items()
            }
        )


class Upstream(NamedTuple):
    """What the layers before have changed in the tokens, for the symmetry of a net."""

    hidden: Set[str] = frozenset()
    """Of what `Symmetry` can read: what was replaced by something that depends on nothing."""
    prepended: int = 0
    """Number of learned tokens before the others of each set."""


class TokenLayer(HoldsFunctions, ABC):
    """A layer of a token net: the base class of mixers, residuals, encodings and whole nets.

    Called with `Tokens` it returns `Tokens` with the same graph and positions. Called with a
    tensor (..., N, D), which stands for tokens on the complete graph or on the given `graph`, it
    returns a tensor, so that it drops into any PyTorch model.

    A subclass defines `transform` and declares in `symmetry` what it reads besides z.

    >>> class Double(TokenLayer):
    ...     is_tokenwise = True
    ...
    ...     def transform(self, tokens):
    ...         return tokens.replace(z=2 * tokens.z)
    >>> Double()(torch.ones(2, 1)).flatten()
    tensor([2., 2.])
    """

    symmetry = Symmetry()
    takes_source = False
    """Whether the layer can attend to another set."""
    needs_source = False
    """Whether it attends only to another set: in a net, to the net's `source`."""
    why_no_step = ""
    """Why it does not support incremental decoding, such as "it attends to later tokens"."""
    is_tokenwise = False
    """Whether each output depends on its own token only, not on the index, the graph or other
    tokens; incremental decoding then needs no state."""

    def __init__(self) -> None:
        super().__init__()
        self._gradient_hooks: tuple[OrderedDict[int, Any], ...] = (OrderedDict(), OrderedDict())
        """Of full backward hooks, and of those before them."""

    @property
    def source_symmetry(self) -> Symmetry:
        """As a function of the source, which is visible as a whole, whatever graph it has."""
        return Symmetry(self.symmetry.reads - {"graph"})

    def reads_after(self, upstream: Upstream) -> tuple[Set[str], Upstream]:
        """What the layer reads of the input of a net, and what the next layer has to know.

        Args:
            upstream: what the layers before it in the net have changed.
        """
        return self.symmetry.reads - upstream.hidden, upstream

    def forward(
        self, tokens: Tokens | Tensor, source: Tokens | Tensor | None = None, graph: Any = None
    ) -> Tokens | Tensor:
        transform = self._transform_hooked if any(self._gradient_hooks) else self.transform
        if source is None and graph is None and isinstance(tokens, Tokens):
            try:
                return transform(tokens)
            except RuntimeError as error:
                if (plain := mismatch(self, tokens.z, error)) is None:
                    raise
                raise plain from error
        context: dict[str, Any] = {} if source is None else {"source": source}
        if graph is not None:
            context["graph"] = graph
        if context and not self.takes_source:
            raise TypeError(
                f"{type(self).__name__} accepts no {' or '.join(context)}: it does not mix"
            )
        if isinstance(tokens, Tensor):
            if source is None:
                return cast(Tokens, self.forward(Tokens(tokens, context.pop("graph", None)))).z
            return transform(Tokens(tokens), **context).z
        check_type("tokens", tokens, Tokens, "Tokens or a tensor")
        return transform(tokens, **context)

    def _transform_hooked(self, tokens: Tokens, **context: Any) -> Tokens:
        hook = BackwardHook(self, *(list(hooks.values()) for hooks in self._gradient_hooks))
        given: dict[str, Any] = {"tokens": tokens, **context}
        if isinstance(source := context.get("source"), Tensor):
            given["source"] = Tokens(source)
        names = [name for name, value in given.items() if isinstance(value, Tokens)]
        zs = hook.setup_input_hook(tuple(given[name].z for name in names))
        given |= {name: given[name].replace(z=z) for name, z in zip(names, zs, strict=True)}
        out = self.transform(given.pop("tokens"), **given)
        return out.replace(z=hook.setup_output_hook(out.z))

    # PyTorch's own hooks see the gradients of tensors alone, and none of `Tokens`.

    def register_full_backward_hook(self, hook: Any, prepend: bool = False) -> RemovableHandle:
        """As PyTorch's; the gradients are those of z, for a layer that is given `Tokens` too."""
        return self._register(0, hook, prepend)

    def register_full_backward_pre_hook(self, hook: Any, prepend: bool = False) -> RemovableHandle:
        """As PyTorch's; the gradient is that of z, for a layer that is given `Tokens` too."""
        return self._register(1, hook, prepend)

    def _register(self, kind: int, hook: Any, prepend: bool) -> RemovableHandle:
        hooks = self._gradient_hooks[kind]
        handle = RemovableHandle(hooks)
        hooks[handle.id] = hook
        if prepend:
            hooks.move_to_end(handle.id, last=False)
        return handle

    if TYPE_CHECKING:

        @overload  # type: ignore[override]
        def __call__(self, tokens: Tokens, source: Given = None, graph: Any = None) -> Tokens: ...
        @overload
        def __call__(self, tokens: Tensor, source: Given = None, graph: Any = None) -> Tensor: ...
        def __call__(self, tokens: Any, source: Given = None, graph: Any = None) -> Any: ...

    @abstractmethod
    def transform(self, tokens: Tokens, /, *args: Any, **context: Any) -> Tokens:
        """The layer's function; only layers with `takes_source` are given `source` and `graph`."""

    def step(
        self, tokens: Tokens, graph: TokenGraph, state: Any = None, source: Any = None
    ) -> tuple[Tokens, Any]:
        """Incremental decoding: process the next tokens of a sequence, given the state so far.

        Consecutive calls return what one call on the whole sequence returns, and each token is
        computed once. Layers with `is_tokenwise` need no state; others override this method, or
        do not support it.

        Args:
            tokens: the m new tokens of one set, or of a batch of sets of the same length;
                their graph is not used.
            graph: the m new tokens as targets; all tokens so far, new tokens included, as sources.
            state: what the previous call returned (such as a KV cache); None in the first call.
                The leading dimensions of its tensors are those of the tokens, so that rows of
                a batch can be selected.
            source: the other set, for layers that need one.

        Raises:
            IncrementalDecodingError: the layer does not support incremental decoding.
            ValueError: `graph` is a ragged batch, or does not fit these tokens.
        """
        if not self.is_tokenwise:
            raise IncrementalDecodingError(self, self.why_no_step)
        check_step(tokens, graph)
        return cast(Tokens, self(tokens)), None

    def flops(self, tokens: Tokens) -> int:
        """Floating-point operations of one forward pass on all given tokens.

        Matrix products count 2 per multiply-add, sums along edges 1 per addition;
        norms, activations, softmax and residual sums are not counted. This base method
        counts matrix products by running the layer. Layers that work along edges
        override it with a formula: `FlopCounterMode`, also with registered formulas,
        counts what a backend runs (padding, masked pairs), so that the count would
        depend on the backend that is chosen.
        """
        return count_flops(self, tokens)


def mismatch(module: nn.Module, z: Tensor, error: RuntimeError) -> Exception | None:
    """What to say plainly where `module` failed on z: its dtype or its channels do not fit."""
    dtypes = [weight.dtype for weight in module.parameters() if weight.is_floating_point()]
    name = type(module).__name__
    is_cast = torch.is_autocast_enabled(z.device.type)
    of_types = re.search("type|not implemented for", str(error)) and not is_cast
    if of_types and dtypes and z.dtype != dtypes[0]:
        net = f" or net.to({z.dtype})" if z.is_floating_point() else ""
        told = f"got {z.dtype}; write tokens.to({dtypes[0]}){net}"
        return TypeError(f"tokens must have the dtype of {name}, {dtypes[0]}, {told}")
    if re.search("shapes cannot be multiplied|normalized_shape", str(error)):
        widths = (_width(part) for part in module.modules())
        width = next((width for width in widths if width is not None), None)
        if width not in (None, z.shape[-1]):
            return ValueError(f"tokens must have {width} channels, got shape {tuple(z.shape)}")
    return None


def _width(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.in_features
    return module.normalized_shape[-1] if isinstance(module, nn.LayerNorm) else None


def check_layer(name: str, layer: Any) -> None:
    """Raise unless it is a token layer, or a net of layers that returns tokens."""
    is_net = hasattr(layer, "reads_after") and hasattr(layer, "layers")
    if not isinstance(layer, TokenLayer) and not is_net:
        raise TypeError(
            f"{name} must be a TokenLayer (TokenWise(fn) makes one of a function), "
            f"got {shown(layer)}"
        )
    if getattr(layer, "readout", None) is not None:
        raise ValueError(f"{name} must return tokens: it has a readout")


def check_step(tokens: Tokens, graph: TokenGraph, dim: int | None = None) -> None:
    """Raise ValueError unless `step` can process `tokens`, of `dim` channels, on `graph`."""
    if graph.is_ragged:
        raise ValueError(
            f"graph must be that of one set: no ragged batch in incremental decoding; got {graph!r}"
        )
    if graph.num_targets != tokens.num_tokens or graph.num_sources < graph.num_targets:
        raise ValueError(
            f"graph must have the {tokens.num_tokens} new tokens as targets and all tokens so far, "
            f"new tokens included, as sources; got {graph!r}"
        )
    if dim is not None:
        check_channels(tokens.z, dim)


def check_channels(z: Tensor, dim: int, name: str = "tokens") -> None:
    """Raise ValueError unless (..., N, D) has D = `dim`."""
    if z.shape[-1] != dim:
        raise ValueError(f"{name} must have {dim} channels, got shape {tuple(z.shape)}")


def weight_of(linear: Any) -> Tensor:
    """The weight (out, in) of a linear layer, also of one that `quantize_dynamic` has replaced.

    For layers that read a weight in place of calling the linear layer.
    """
    weight = linear.weight
    return weight if isinstance(weight, Tensor) else weight().dequantize()


def is_linear(module: nn.Module | None) -> bool:
    """Whether it is a linear layer, also one that `quantize_dynamic` has made."""
    quantized = hasattr(module, "in_features") and callable(getattr(module, "weight", None))
    return isinstance(module, nn.Linear) or quantized


def count_flops(module: nn.Module, *inputs: Any) -> int:
    """Floating-point operations of the matrix products of a call, which is run.

    Products of quantized weights count as those of the weights that they stand for.
    """
    from torch.utils.flop_counter import FlopCounterMode  # loads Triton

    counter, quantized = FlopCounterMode(display=False), [0]

    def add(linear: Any, given: tuple[Any, ...], out: Tensor) -> None:
        quantized[0] += 2 * linear.in_features * out.numel()

    linears = [m for m in module.modules() if is_linear(m) and not isinstance(m, nn.Linear)]
    handles = [linear.register_forward_hook(add) for linear in linears]
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return counter.get_total_flops() + quantized[0]


def map_flops(z: Tensor, *maps: Any) -> int:
    """Floating-point operations of token-wise modules on (..., N, D); linear layers are not run."""
    flops = 0
    for module in maps:
        if is_linear(module):
            flops += 2 * module.in_features * module.out_features * z.shape[:-1].numel()
        elif module is not None and not isinstance(module, nn.Identity):
            flops += count_flops(module, z)
    return flops
