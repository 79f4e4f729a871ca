"""`Setting`: a workload with its tensors; `Peer`: one implementation of it; do peers agree?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tokennet.bench.workloads import Workload
from tokennet.graphs import TokenGraph
from tokennet.mixers import Attention, GraphAttention

DIRECTIONS = ("forward", "both")
"""Forward without gradients; and forward and backward."""

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Largest difference between peers, relative to the largest entry."""


class Setting(NamedTuple):
    """A workload at one level: the input of every peer."""

    workload: Workload
    graph: TokenGraph
    level: str
    layer: Attention | GraphAttention
    given: tuple[Tensor, ...]
    """At the level "layer" (z,) or (z, source), each (..., tokens, D); at the level
    "attend" (q, k, v), each (..., tokens, H, C)."""
    grad: Tensor
    """A fixed random gradient of the output, of the shape of z or of q."""
    memory: float = float("inf")
    """Bytes that a peer may take."""

    @property
    def device(self) -> torch.device:
        return self.grad.device


@dataclass(frozen=True)
class Peer:
    """One implementation, ready to run."""

    run: Callable[..., Tensor]
    given: tuple[Tensor, ...]
    grad: Tensor | None
    """In the form of its output; None if it has no backward."""
    weights: tuple[nn.Parameter, ...] = ()
    unpack: Callable[[Tensor], Tensor] = lambda out: out
    """From the form of its tensors to that of the setting's."""

    @property
    def directions(self) -> tuple[str, ...]:
        """The directions that it supports."""
        return DIRECTIONS[:1] if self.grad is None else DIRECTIONS

    def step(self, direction: str) -> Tensor:
        """One step "forward", without gradients, or "both", forward and backward."""
        if direction == "forward":
            with torch.no_grad():
                return self.run(*(tensor.detach() for tensor in self.given))
        out = self.run(*self.given)
        out.backward(self.grad)
        return out

    def forget(self) -> None:
        """Drop the gradients of the last step, so that the next step adds to none."""
        for tensor in (*self.given, *self.weights):
            tensor.grad = None


def prepare(
    workload: Workload,
    level: str,
    graph: TokenGraph,
    device: str = "cpu",
    memory: float = float("inf"),
) -> Setting:
    """Draw the weights and tokens of a workload, always the same."""
    generator = torch.Generator().manual_seed(0)
    n, m, dim = graph.num_targets, graph.num_sources, workload.dim
    lead = () if workload.batch == 1 else (workload.batch,)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*lead, *shape, generator=generator).to(device, workload.dtype)

    if level == "layer":
        given = [draw(n, dim)] if graph.is_square else [draw(n, dim), draw(m, dim)]
    else:
        given = [draw(size, workload.heads, workload.channels) for size in (n, m, m)]
    for tensor in given:
        tensor.requires_grad_()
    grad = torch.randn(given[0].shape, generator=generator).to(device, workload.dtype)
    make = Attention if workload.score == "dot" else GraphAttention
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = make(workload.dim, workload.heads, edge_dim=workload.edge_dim)
        for weight in layer.parameters():
            if weight.dim() == 1:  # a bias: with zeros a missing bias would not be seen
                nn.init.normal_(weight)
    if isinstance(layer, Attention):
        layer.out = nn.Identity()  # type: ignore[assignment]  # PyG has none
    layer = layer.to(device, workload.dtype)
    return Setting(workload, graph, level, layer, tuple(given), grad, memory)


def check_agreement(peers: dict[str, Peer], setting: Setting) -> dict[str, str]:
    """Compare the outputs and gradients of all peers with those of the first.

    Returns:
        Remarks by name of peer: those that are off in bfloat16, as some also sum in it. In
        float32 the same case tells whether they compute the same.

    Raises:
        RuntimeError: a peer computes something else in float32, by name.
    """
    off = differences(peers, setting)
    if setting.workload.dtype == torch.float32:
        where = f"on {setting.workload.name} at the level {setting.level}"
        for name, reason in off.items():
            raise RuntimeError(f"{name} disagrees with {next(iter(peers))} {where}: {reason}")
    return off


def differences(peers: dict[str, Peer], setting: Setting) -> dict[str, str]:
    """How far peers are from the first, by name, where that is more than the tolerance."""
    found: dict[str, str] = {}
    tolerance, expected = TOLERANCE[setting.workload.dtype], _results(next(iter(peers.values())))
    for name, peer in peers.items():
        for part, result in _results(peer).items():
            error = float((result - expected[part]).abs().max())
            largest = float(expected[part].abs().max())
            if not error <= tolerance * largest:  # also where it is NaN
                off = f"its {part} is off by {error:.2g}, its largest entry should be {largest:.2g}"
                found.setdefault(name, off)
    return found


def _results(peer: Peer) -> dict[str, Tensor]:
    """The output and, where there is a backward, the gradients of what is given."""
    results = {"output": peer.unpack(peer.step("forward"))}
    if peer.grad is not None:
        results["output with backward"] = peer.unpack(peer.step("both").detach())
        for number, tensor in enumerate(peer.given, start=1):
            results[f"gradient of input {number}"] = peer.unpack(tensor.grad)  # type: ignore[arg-type]
    peer.forget()
    return results
