"""Calls of attention that models make, as calls of `attend`."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tokennet.graphs import Disjoint, PerHead, TokenGraph
from tokennet.interop._masks import GraphMask, known_graph
from tokennet.interop._visible import Own, own_graph, recognized
from tokennet.ops import Explanation, Softmax, attend, attention_weights, explain
from tokennet.ops.call import Bias

NAME = "tokennet"
"""Of our attention in Hugging Face's `AttentionInterface`."""


class Offsets(NamedTuple):
    """Where the first query and the first key stand in the sequence."""

    query: int = 0
    key: int = 0
    length: int | None = None
    """Of the sequence so far; None where queries and keys are of different sequences."""


class AttentionCall(NamedTuple):
    """One call of attention in a model of others, as `attend` gets it. Made by `on_graph`."""

    q: Tensor
    k: Tensor
    v: Tensor
    graph: TokenGraph | PerHead
    bias: Bias | None
    scale: float | None
    softmax: Softmax | None

    def weights(self) -> Tensor:
        """(..., E, H) of the graph's edges, of the `union` of a `PerHead`."""
        with FRAMES.busy():
            return attention_weights(
                self.q, self.k, self.graph, self.bias, scale=self.scale, softmax=self.softmax
            )

    def explanation(self) -> Explanation | None:
        """Which backend takes it; None of a graph for each head."""
        if isinstance(self.graph, PerHead):
            return None
        with FRAMES.busy():
            return explain(*self[:3], self.graph, self.bias, scale=self.scale, softmax=self.softmax)

    def without_padding(self) -> AttentionCall:
        """A padded batch (B, N, ...) as a ragged one, if the mask says no more than padding.

        Tokens that no query of their entry sees are left out; of self-attention as queries, too.
        """
        bias, q = self.bias, self.q
        if not isinstance(bias, Tensor) or bias.shape[-3] != 1 or q.dim() != 4:
            return self
        visible = bias == 0  # (B, 1, N, M)
        if isinstance(self.graph, PerHead) or not bool((visible | (bias == -math.inf)).all()):
            return self
        masks = visible.expand(len(q), -1, -1, -1)[:, 0] & self.graph.dense(q.device)
        parts, queries, keys = [], [], []
        for mask in masks:
            keep = mask.any(0)
            rows = keep if mask.shape[0] == mask.shape[1] else torch.ones_like(mask[:, 0])
            parts.append(recognized(mask[rows][:, keep]))
            queries.append(rows)
            keys.append(keep)
        rows, keep = torch.stack(queries), torch.stack(keys)
        q, k, v = q[rows], self.k.expand(len(q), *self.k.shape[1:])[keep], self.v[keep]
        return self._replace(q=q, k=k, v=v, graph=Disjoint(parts), bias=None)

    def dense_weights(self) -> Tensor:
        """(..., H, N, M)"""
        graph = self.graph.union if isinstance(self.graph, PerHead) else self.graph
        source, target = graph.edge_index(self.q.device)
        n, m = graph.num_targets, graph.num_sources
        rows = self.weights().transpose(-1, -2)  # (..., H, E)
        out = rows.new_zeros(*rows.shape[:-1], n * m)
        return out.index_copy(-1, target * m + source, rows).unflatten(-1, (n, m))


class Frames(threading.local):
    """The modules that are running in this thread, of models on a graph."""

    def __init__(self) -> None:
        self.running: list[Any] = []
        self.is_busy = False
        self.mode: TorchFunctionMode | None = None
        self.masks: list[tuple[Any, Own]] = []
        self.offsets: dict[tuple[int, int], Offsets] = {}
        """By numbers of queries and keys, for masks that a model has copied."""

    @contextmanager
    def busy(self) -> Iterator[None]:
        """While our own attention runs, which calls torch's: that is not ours to catch."""
        was, self.is_busy = self.is_busy, True
        try:
            yield
        finally:
            self.is_busy = was


FRAMES = Frames()


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    *,
    scale: float | None = None,
    softmax: Softmax | None = None,
    offsets: Offsets | None = None,
) -> tuple[Tensor, AttentionCall]:
    """Attention of q (..., H, N, C), k and v (..., K, M, C), as (..., N, H, Cv), and the call."""
    q, k, v = (x.transpose(-3, -2) for x in (q, k, v))  # (..., N, H, C)
    n, m = q.shape[-3], k.shape[-3]
    own = _own(mask, is_causal, n, m)
    graph: TokenGraph | PerHead = own.graph
    if FRAMES.running:
        frame = FRAMES.running[-1]
        for one in FRAMES.running:
            one.reached += 1
        known = offsets or Offsets(length=n if n == m else None)
        graph = frame.session.graph_of(frame.path, own.graph, known)
    given = AttentionCall(q, k, v, graph, own.bias, scale, softmax)
    with FRAMES.busy():
        if FRAMES.running:
            frame.session.note(frame.path, given)
        return attend(*given[:5], scale=scale, softmax=softmax), given


def _own(mask: Tensor | None, is_causal: bool, n: int, m: int) -> Own:
    """As `own_graph`, which is asked once for a mask that all layers share."""
    if isinstance(mask, GraphMask):
        return Own(mask.graph, None)
    if mask is None or mask.requires_grad or not FRAMES.running:
        return own_graph(mask, is_causal, n, m)
    key = (mask, mask._version, n, m)
    for (other, *sizes), own in FRAMES.masks:
        if other is mask and tuple(sizes) == key[1:]:
            return own
    own = own_graph(mask, is_causal, n, m)
    FRAMES.masks = [(key, own), *FRAMES.masks[:3]]
    return own


class Catch(TorchFunctionMode):
    """Calls of torch's attention in a running module become calls of `attend`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if FRAMES.running and not FRAMES.is_busy:
            if func is F.scaled_dot_product_attention:
                return _scaled_dot_product(*args, **kwargs)
            if func is F.multi_head_attention_forward:
                return _multi_head(*args, **kwargs)
        return func(*args, **kwargs)


def _scaled_dot_product(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if query.dim() < 3:
        raise ValueError(f"query must have heads, (..., H, N, C), got {tuple(query.shape)}")
    if query.shape[-3] != key.shape[-3] and not enable_gqa:
        key, value = (x.expand(*query.shape[:-2], *x.shape[-2:]) for x in (key, value))
    softmax = Softmax(dropout=dropout_p) if dropout_p else None
    out, _ = _attend(query, key, value, attn_mask, is_causal, scale=scale, softmax=softmax)
    return out.transpose(-3, -2)


def _multi_head(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """`F.multi_head_attention_forward`, whose inside a mode does not see."""
    bound = signature(F.multi_head_attention_forward).bind(*args, **kwargs)
    bound.apply_defaults()
    a = bound.arguments
    for name, plain in (
        ("bias_k", None), ("bias_v", None), ("add_zero_attn", False), ("static_k", None),
        ("static_v", None),
    ):  # fmt: skip
        if a[name] is not plain:
            raise NotImplementedError(
                f"nn.MultiheadAttention on a graph must have {name}={plain}, got "
                f"{a[name] if isinstance(a[name], bool) else 'a tensor'}"
            )
    query, key, value = a["query"], a["key"], a["value"]  # (N, B, D)
    is_batched = query.dim() == 3
    if not is_batched:
        query, key, value = (x.unsqueeze(1) for x in (query, key, value))
    weights = (a["q_proj_weight"], a["k_proj_weight"], a["v_proj_weight"])
    if not a["use_separate_proj_weight"]:
        weights = a["in_proj_weight"].chunk(3)
    biases = (None,) * 3 if a["in_proj_bias"] is None else a["in_proj_bias"].chunk(3)
    heads = a["num_heads"]
    q, k, v = (
        F.linear(x, weight, bias).unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)  # (B, H, N, C)
        for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
    )
    mask = _merged(a["attn_mask"], a["key_padding_mask"], q)
    drop = a["dropout_p"] if a["training"] else 0.0
    out, given = _attend(q, k, v, mask, False, softmax=Softmax(dropout=drop) if drop else None)
    out = out.flatten(-2).transpose(0, 1)  # (N, B, D)
    out = F.linear(out, a["out_proj_weight"], a["out_proj_bias"])
    shown = None
    if a["need_weights"]:
        shown = given.dense_weights()  # (B, H, N, M)
        shown = shown.mean(1) if a["average_attn_weights"] else shown
        shown = shown if is_batched else shown.squeeze(0)
    return (out if is_batched else out.squeeze(1)), shown


def _merged(mask: Tensor | None, padding: Tensor | None, q: Tensor) -> Tensor | None:
    """Masks of `nn.MultiheadAttention`, True where not visible, as one of SDPA."""
    if mask is not None and mask.dim() == 3:
        mask = mask.unflatten(0, (-1, q.shape[1]))  # (B, H, N, M)
    if padding is not None:
        padding = padding.view(-1, 1, 1, padding.shape[-1])
    given = [x for x in (mask, padding) if x is not None]
    if all(x.dtype == torch.bool for x in given):
        visible = [~x for x in given]
        return visible[0] & visible[-1] if visible else None
    zero = torch.zeros((), dtype=q.dtype, device=q.device)
    added = [
        torch.where(x, -torch.inf, zero) if x.dtype == torch.bool else x.to(q.dtype) for x in given
    ]
    return added[0] if len(added) == 1 else added[0] + added[1]


def attention_of_huggingface(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """An attention function of Hugging Face's `AttentionInterface`: our `attend`."""
    if options.get("cache") is not None:
        raise NotImplementedError("a paged cache is not supported by the attention of tokennet")
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    n, m = query.shape[-2], key.shape[-2]
    offsets = getattr(attention_mask, "_tokennet_offsets", FRAMES.offsets.get((n, m)))
    mask = attention_mask
    if position_bias is not None:
        mask = _with_position_bias(position_bias, mask, is_causal and n > 1, n, m)
    softmax = None
    if softcap is not None or s_aux is not None or dropout:
        softmax = Softmax(softcap, s_aux, dropout)
    out, _ = _attend(
        query, key, value, mask, bool(is_causal), scale=scaling, softmax=softmax, offsets=offsets
    )
    return out.contiguous(), None


def _with_position_bias(
    bias: Tensor, mask: Tensor | None, is_causal: bool, n: int, m: int
) -> Tensor:
    """A bias that is added to the scores of what is visible."""
    if mask is None:
        if not is_causal:
            return bias
        mask = torch.ones(n, m, dtype=torch.bool, device=bias.device).tril()
    mask = mask[..., :m]
    if mask.dtype == torch.bool:
        return torch.where(mask, bias, torch.finfo(bias.dtype).min)
    return bias + mask


def mask_of_huggingface(*, q_offset: Any = 0, kv_offset: Any = 0, **given: Any) -> Tensor:
    """A mask function of `AttentionMaskInterface`: all that is visible, never left out."""
    from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

    skips = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    write = partial(sdpa_mask, q_offset=q_offset, kv_offset=kv_offset, **{**given, **skips})
    query, key, n, m = int(q_offset), int(kv_offset), given["q_length"], given["kv_length"]
    is_cross = n != m and given.get("mask_function") is bidirectional_mask_function
    graph = None
    if n == m and query == key == 0 and not (given.get("use_vmap") or _hides(given, n)):
        graph = known_graph(given.get("mask_function"), n)
    mask: Any = (
        write()
        if graph is None
        else GraphMask.of(graph, (given["batch_size"], 1, n, m), write, given.get("device", "cpu"))
    )
    found = Offsets() if is_cross else Offsets(query, key, query + n)
    mask._tokennet_offsets = FRAMES.offsets[n, m] = found
    return mask


def _hides(given: dict[str, Any], n: int) -> bool:
    """Whether there is padding among n tokens."""
    padding = given.get("attention_mask")
    return padding is not None and (padding.shape[-1] != n or not bool(padding.all()))


def register_attention() -> None:
    """Make `attn_implementation="tokennet"` known to Hugging Face's transformers.

    A model of that implementation runs on its own masks, sparse ones on a sparse kernel; with
    `on_graph` on another graph. `on_graph` registers it, too.

    >>> register_attention()
    >>> from transformers import AutoModel, ViTConfig
    >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    >>> config = ViTConfig(**sizes, intermediate_size=8, image_size=4, patch_size=2)
    >>> model = AutoModel.from_config(config, attn_implementation="tokennet")
    >>> model(torch.zeros(1, 3, 4, 4)).last_hidden_state.shape
    torch.Size([1, 5, 8])
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attention_of_huggingface)
    AttentionMaskInterface.register(NAME, mask_of_huggingface)
