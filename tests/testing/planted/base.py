"""What a planted bug and a truthful model are, and the sound parts that both are built of."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from tokennet import Edges, Tokens

SETS, NODES, DIM, HEADS = 3, 7, 8, 2
TIED = ("tied_inputs",)
IN_ORDER = ("causality", "batch_composition", "deterministic")
"""Laws of a model that is causal on purpose; it commutes with no permutation."""

Make = Callable[[], tuple[nn.Module, Any]]


@dataclass(frozen=True)
class Planted:
    """A model with one bug.

    Attributes:
        make: gives the model and an example, the same ones at each call.
        law: that the bug breaks.
        kwargs: what the checker is to be told.
        also: other laws that break with it, of necessity, if they are asked about.
        laws: to ask about; None for all that apply to the example.
    """

    name: str
    make: Make
    law: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    laws: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Truthful:
    """A model that obeys every law; attributes as of `Planted`.

    `exact` is False where it computes in float32 whatever it is given.
    """

    name: str
    make: Make
    kwargs: dict[str, Any] = field(default_factory=dict)
    laws: tuple[str, ...] | None = None
    exact: bool = True


def made(model: Callable[[], nn.Module], example: Callable[[], Any]) -> Make:
    """A `make` that draws from a seed and leaves the generator as it was."""

    def make() -> tuple[nn.Module, Any]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return model(), example()

    return make


def bug_line(model: nn.Module) -> list[tuple[str, int]]:
    """File and line of each statement marked `# bug` in the classes of `model`."""
    found = []
    for kind in dict.fromkeys(type(module) for module in model.modules()):
        if kind.__module__.startswith(__package__):
            lines, start = inspect.getsourcelines(kind)
            file = inspect.getsourcefile(kind) or ""
            found += [(file, start + n) for n, line in enumerate(lines) if "# bug" in line]
    return found


def tensor() -> Tensor:
    return torch.randn(SETS, NODES, DIM)


def masked() -> tuple[Tensor, Tensor]:
    """Sets of 7, 4 and 5 tokens, and a mask that is True for them."""
    return tensor(), torch.arange(NODES) < torch.tensor([[7], [4], [5]])


def padded() -> tuple[Tensor, Tensor]:
    """The same with a mask that is True for padding."""
    x, mask = masked()
    return x, ~mask


def edges(n: int = NODES) -> Tensor:
    """Edges in no order, at least one to each node and at most one a pair."""
    ring = torch.stack([torch.arange(n), (torch.arange(n) + 1) % n])
    chords = torch.stack([torch.arange(n), (torch.arange(n) * 2 + 3) % n])
    others = torch.stack([torch.arange(n), (torch.arange(n) * 3 + 1) % n])
    listed = torch.cat([ring, chords[:, 1:-1], others[:, 1:-2]], dim=1).unique(dim=1)
    return listed[:, torch.randperm(listed.shape[1])]


def graph() -> tuple[Tensor, Tensor]:
    return torch.randn(NODES, DIM), edges()


def data(n: int) -> Data:
    return Data(x=torch.randn(n, DIM), edge_index=edges(n))


def batch() -> Batch:
    return Batch.from_data_list([data(n) for n in (5, 7, 6)])


def ragged() -> tuple[Tensor, Tensor]:
    """Tokens of three sets, and which set each belongs to."""
    return torch.randn(16, DIM), torch.arange(3).repeat_interleave(torch.tensor([5, 7, 4]))


def tokens() -> Tokens:
    return Tokens(torch.randn(NODES, DIM), Edges(edges(), NODES))


def disjoint() -> Tokens:
    return Tokens.batch([Tokens(torch.randn(n, DIM), Edges(edges(n), n)) for n in (5, 7, 6)])


def mlp(dim: int = DIM, out: int | None = None) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, out or dim))


class Block(nn.Module):
    """A pre-norm transformer block; `attend` is there to be overridden.

    `mask` (B, N) is True for tokens that take part.
    """

    def __init__(self, dim: int = DIM, num_heads: int = HEADS) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = mlp(dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.mix(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))

    def mix(self, x: Tensor, mask: Tensor | None) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (B, N, 3, H, C)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, N, C)
        out = self.attend(q, k, v, mask)
        return self.out(out.transpose(1, 2).flatten(2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        allowed = None if mask is None else mask[:, None, None, :]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)


class Masked(nn.Module):
    """Layers that take (x, mask), one after the other."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask)
        return x


class Mean(nn.Module):
    """The mean of the tokens, then a linear map."""

    def __init__(self, out: int = 5) -> None:
        super().__init__()
        self.head = nn.Linear(DIM, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean(1))
