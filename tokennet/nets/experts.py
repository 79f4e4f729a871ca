"""`MixtureOfExperts`: many token-wise functions, of which each token uses a few; its losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tokennet.checks import check_made, checked
from tokennet.graphs import Causal, Full, TokenGraph
from tokennet.layer import TokenLayer, check_step, weight_of
from tokennet.nets.block import mlp
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens


class Routing(NamedTuple):
    """Which experts process the tokens of a call."""

    logits: Tensor
    """(R, E) of the router, a row for each token of all sets."""
    experts: Tensor
    """(R, K) the most probable first."""
    gates: Tensor
    """(R, K) weight of each of them in the token's output."""


class RouterLosses(NamedTuple):
    """Terms to add to the loss of a net, with small factors, so that all experts are used."""

    balance: Tensor
    r"""E \sum_e f_e P_e, with f_e the share of the choices that fell on expert e and P_e its
    mean probability: 1 where all are used equally, E where only one is used. Fedus et al., 2021
    (arXiv 2101.03961), eq. 4."""
    z: Tensor
    """Mean of logsumexp(logits)^2; keeps logits small. Zoph et al., 2022 (arXiv 2202.08906)."""


class MixtureOfExperts(TokenLayer):
    r"""Each token is processed by the few experts that a router chooses for it.

    Use it in place of `TokenWise(mlp(dim))` for more parameters at the same cost per token.

        out_i = \sum_{e in top_K(p_i)} g_ie Expert_e(z_i),   p_i = softmax(W z_i)
        g_ie = p_ie / \sum_{e' in top_K} p_ie' for K > 1, and p_ie for K = 1

    Shazeer et al., 2017 (arXiv 1701.06538), without noise; with K = 1 the layer of Switch
    Transformers (Fedus et al., 2021, arXiv 2101.03961), with K = 2 that of Mixtral (2024,
    arXiv 2401.04088). `collect_router_losses` collects the losses that training needs too.

    Without a capacity each token is a function of itself alone, and the layer commutes with
    every permutation. With a capacity, an expert accepts at most

        capacity   or   ceil(capacity_factor K N / E)

    of the N tokens of a set, in the order of the array; later tokens get 0 from that expert, and
    `Residual` passes them on unchanged. So a token depends on those before it: the layer reads
    the index, commutes with no permutation, and all earlier tokens must be visible to each
    token. A share of N depends on the number of later tokens too, and needs the complete
    graph. Sets of a batch, ragged or not, do not depend on each other.

    Args:
        dim: channels D.
        num_experts: E.
        top_k: K.
        expert: makes one expert, a module on the last dimension; `mlp(dim)` by default.
        capacity_factor: the capacity as a share of N; None for no limit.
        renormalize: whether gates add up to 1; by default where K > 1.
        jitter: in training the router sees z times random numbers in [1 - jitter, 1 + jitter].
        capacity: as a number of tokens; None for no limit.

    Raises:
        ValueError: K is not in 1 .. E, jitter not in 0 .. 1, or two capacities are given; a
            graph in which a token does not attend to all tokens before it, with a capacity,
            or to all others, with a `capacity_factor`.

    >>> layer = MixtureOfExperts(8, num_experts=4, top_k=2)
    >>> with collect_router_losses(layer) as losses:
    ...     layer(torch.zeros(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    >>> losses[0].balance.item()
    1.0
    """

    @checked(top_k=None)
    def __init__(
        self,
        dim: int,
        num_experts: int = 8,
        top_k: int = 2,
        *,
        expert: Callable[[], nn.Module] | None = None,
        capacity_factor: float | None = None,
        renormalize: bool | None = None,
        jitter: float = 0.0,
        capacity: int | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= num_experts:
            raise ValueError(f"top_k must be in 1 .. num_experts = {num_experts}, got {top_k}")
        if capacity_factor is not None and capacity_factor <= 0:
            raise ValueError(f"capacity_factor must be positive, got {capacity_factor}")
        if capacity is not None and capacity_factor is not None:
            raise ValueError(f"capacity must be None beside a capacity_factor, got {capacity}")
        if not 0 <= jitter <= 1:
            raise ValueError(f"jitter must be in 0 .. 1, got {jitter}")
        self.top_k, self.capacity, self.jitter = top_k, capacity, jitter
        self.capacity_factor = capacity_factor
        self._renormalize = renormalize
        self.router = nn.Linear(dim, num_experts, bias=False)
        make = (lambda: mlp(dim)) if expert is None else expert
        made = [check_made("expert", make, nn.Module) for _ in range(num_experts)]
        self.experts = nn.ModuleList(made)
        self.collected: list[RouterLosses] | None = None

    @property
    def renormalize(self) -> bool:
        """Whether gates add up to 1."""
        return self.top_k > 1 if self._renormalize is None else self._renormalize

    @renormalize.setter
    def renormalize(self, value: bool | None) -> None:
        self._renormalize = value

    @property
    def symmetry(self) -> Symmetry:  # type: ignore[override]
        return Symmetry({"index"}) if self._is_limited else Symmetry()

    @property
    def _is_limited(self) -> bool:
        return self.capacity is not None or self.capacity_factor is not None

    @property
    def is_tokenwise(self) -> bool:  # type: ignore[override]
        return not self._is_limited

    def transform(self, tokens: Tokens) -> Tokens:
        if self._is_limited:
            check_visibility(tokens.graph, future=self.capacity is None)
        return self._run(tokens)[0]

    def step(
        self, tokens: Tokens, graph: TokenGraph, state: Any = None, source: Any = None
    ) -> tuple[Tokens, Any]:
        """With a capacity, the state is how often each expert was chosen (..., 1, E)."""
        if self.capacity is None:
            return super().step(tokens, graph, state, source)
        check_step(tokens, graph)
        check_visibility(graph, future=False)
        return self._run(tokens, state)

    def _run(self, tokens: Tokens, chosen: Tensor | None = None) -> tuple[Tokens, Tensor | None]:
        """The outputs, and with a capacity how often each expert was chosen so far."""
        rows = tokens.z.flatten(0, -2)  # (R, D), all sets of the batch
        routing = self.route(rows)
        if self.collected is not None:
            self.collected.append(router_losses(routing))
        accepted = None
        if self._is_limited:
            accepted, chosen = self._limit(routing.experts, tokens, chosen)
        z = self._combine(rows, routing, accepted)
        return tokens.replace(z=z.unflatten(0, tokens.z.shape[:-1])), chosen

    def route(self, rows: Tensor) -> Routing:
        """Choose experts for rows (R, D), in float32 at least."""
        if self.training and self.jitter:
            rows = rows * torch.empty_like(rows).uniform_(1 - self.jitter, 1 + self.jitter)
        precise = torch.promote_types(rows.dtype, torch.float32)
        with torch.autocast(rows.device.type, enabled=False):
            logits = rows.to(precise) @ weight_of(self.router).to(precise).T  # (R, E)
        gates, experts = logits.softmax(-1).topk(self.top_k)
        if self.renormalize:
            gates = gates / gates.sum(-1, keepdim=True)
        return Routing(logits, experts, gates)

    def _combine(self, rows: Tensor, routing: Routing, accepted: Tensor | None) -> Tensor:
        """Each expert runs once, on all its rows; outputs return to the indices of their rows."""
        chosen = routing.experts.flatten()  # (R K,)
        order = chosen.argsort(stable=True)
        if accepted is not None:
            order = order[accepted.flatten()[order]]
        counts = _lengths(chosen[order], len(self.experts)).tolist()
        parts = rows[order // self.top_k].split(counts)
        outs = torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])
        outs = outs.new_zeros(len(chosen), outs.shape[-1]).index_copy(0, order, outs)
        outs = outs.unflatten(0, (-1, self.top_k))  # (R, K, D)
        return (outs * routing.gates[..., None].to(outs.dtype)).sum(1)

    def _limit(
        self, experts: Tensor, tokens: Tokens, chosen: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(R, K) whether the expert accepts the token.

        And how often each expert was chosen, (..., sets, E), `chosen` before included.
        """
        graph, batch, device = tokens.graph, tokens.z.shape[:-2].numel(), experts.device
        sizes, own = graph.sizes, graph.batch(device)
        if self.capacity is None:
            share = self.capacity_factor * self.top_k / len(self.experts)  # type: ignore[operator]
            capacity = torch.tensor([math.ceil(share * n) for n in sizes], device=device)
        else:
            capacity = torch.full((len(sizes),), self.capacity, device=device)
        first = torch.arange(batch, device=device)[:, None] * len(sizes)
        queue = (first + own).flatten()[:, None] * len(self.experts) + experts  # (R, K)
        count = batch * len(sizes) * len(self.experts)
        before = queue.new_zeros(count) if chosen is None else chosen.flatten()
        rank = before[queue] + rank_in_queue(queue.flatten(), count).view_as(queue)
        after = before + _lengths(queue.flatten(), count)
        shape = *tokens.z.shape[:-2], len(sizes), len(self.experts)
        return rank < capacity[own].repeat(batch)[:, None], after.view(shape)


def rank_in_queue(queue: Tensor, count: int) -> Tensor:
    """(R,) for each entry, the number of entries before it in the same of `count` queues.

    >>> rank_in_queue(torch.tensor([1, 0, 1, 1]), 2).tolist()
    [0, 0, 1, 2]
    """
    order = queue.argsort(stable=True)
    length = _lengths(queue, count)
    start = length.cumsum(0) - length
    rank = torch.arange(len(queue), device=queue.device) - start[queue[order]]
    return torch.empty_like(rank).index_copy(0, order, rank)


def _lengths(queue: Tensor, count: int) -> Tensor:
    """`bincount`, of a size that `torch.compile` and `torch.export` know in advance."""
    return queue.new_zeros(count).scatter_add(0, queue, torch.ones_like(queue))


def router_losses(routing: Routing) -> RouterLosses:
    """Losses of one call; 0 if it had no tokens."""
    rows, num_experts = routing.logits.shape
    counts = _lengths(routing.experts.flatten(), num_experts)
    share = counts / max(routing.experts.numel(), 1)
    probability = routing.logits.softmax(-1).sum(0) / max(rows, 1)
    balance = num_experts * (share.to(probability.dtype) * probability).sum()
    return RouterLosses(balance, routing.logits.logsumexp(-1).square().sum() / max(rows, 1))


@contextmanager
def collect_router_losses(net: nn.Module) -> Iterator[list[RouterLosses]]:
    """A context in which each call of a mixture of experts in `net` adds its losses to the list.

    >>> from tokennet import Residual, TokenNet
    >>> net = TokenNet([Residual(MixtureOfExperts(8, num_experts=4))])
    >>> with collect_router_losses(net) as losses:
    ...     out = net(torch.randn(2, 5, 8))
    >>> total = out.square().mean() + 0.01 * sum(each.balance for each in losses)
    """
    losses: list[RouterLosses] = []
    with ExitStack() as stack:
        for module in net.modules():
            if isinstance(module, MixtureOfExperts):
                stack.callback(setattr, module, "collected", module.collected)
                module.collected = losses
        yield losses


def check_visibility(graph: TokenGraph, future: bool) -> None:
    """Raise ValueError unless each token attends to itself and all tokens before it in its set.

    Args:
        graph: of the tokens.
        future: whether later tokens must be visible too.
    """
    if future and not graph.cached(_all_is_visible):
        raise ValueError(
            "graph must let each token attend to all others where experts have a capacity that is "
            f"a share of them; got {graph!r}. Give capacity=, a number of tokens, for a causal "
            "graph"
        )
    if not future and not graph.cached(_past_is_visible):
        raise ValueError(
            "graph must let each token attend to all before it where experts have a capacity, "
            f"which is used up in their order; got {graph!r}. capacity=None honors any graph"
        )


def _past_is_visible(graph: TokenGraph) -> bool:
    return all(
        (part.is_full or part.is_causal)
        or part.contains(Causal(part.num_sources).last(part.num_targets))
        for part in graph.parts
    )


def _all_is_visible(graph: TokenGraph) -> bool:
    return all(part.is_full or part.contains(Full(part.num_targets)) for part in graph.parts)
