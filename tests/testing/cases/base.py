"""What a model with an injected bug and a passing model are, and the parts both are built of."""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from tokennet import Edges, Tokens

NUM_SETS, NUM_TOKENS, DIM, NUM_HEADS = 3, 7, 8, 2
TIED = ("tied_inputs",)
CAUSAL_LAWS = ("causality", "batch_composition", "deterministic")
"""Laws of a model that is meant to be causal; it commutes with no permutation."""

Make = Callable[[], tuple[nn.Module, Any]]


@dataclass(frozen=True)
class InjectedBug:
    """A model in which one statement, marked `# bug`, breaks a law.

    Attributes:
        make: returns the model and an example, the same ones at each call.
        law: that the bug breaks.
        options: of `check` for this model.
        also_broken: other laws that such a bug breaks as well.
        laws: to be checked; None for all that apply to the example.
        slow: under the mark `sweep`.
        localizable: the engine can follow what the model does: no nested tensors.
    """

    name: str
    make: Make
    law: str
    options: dict[str, Any] = field(default_factory=dict)
    also_broken: tuple[str, ...] = ()
    laws: tuple[str, ...] | None = None
    slow: bool = False
    localizable: bool = True


@dataclass(frozen=True)
class PassingModel:
    """A model without a bug, on which a broken law is a false positive.

    Attributes as of `InjectedBug`; `exact` is False where the model computes in float32
    whatever the precision of its input, `selects` says that it selects tokens by their values,
    so that equal tokens are a hard case, and `slow` puts it under the mark `sweep`.
    """

    name: str
    make: Make
    options: dict[str, Any] = field(default_factory=dict)
    laws: tuple[str, ...] | None = None
    exact: bool = True
    selects: bool = False
    slow: bool = False


def seeded(model: Callable[[], nn.Module], example: Callable[[], Any]) -> Make:
    """A `make` that draws from a fixed seed and leaves the global generator as it was."""

    def make() -> tuple[nn.Module, Any]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return model(), example()

    return make


def bug_lines(model: nn.Module) -> list[tuple[str, int]]:
    """File and line of each statement marked `# bug` in the classes of `model`."""
    found = []
    kinds = (kind for module in model.modules() for kind in type(module).__mro__)
    for kind in dict.fromkeys(kinds):
        if kind.__module__.startswith(__package__):
            lines, start = inspect.getsourcelines(kind)
            file = inspect.getsourcefile(kind) or ""
            found += [(file, start + n) for n, line in enumerate(lines) if "# bug" in line]
    return found


def reproduced_by(script: str, model: nn.Module) -> bool:
    """Whether the script of a report shows the broken law, on a model that was not checked."""
    printed, fast = io.StringIO(), torch.backends.mha.get_fastpath_enabled()
    try:
        with contextlib.redirect_stdout(printed):
            exec(script, {"model": model})
    finally:  # a script may switch it off
        torch.backends.mha.set_fastpath_enabled(fast)
    words = printed.getvalue().split()
    if set(words) <= {"True", "False"}:
        return "False" in words
    return not float(words[0]) <= 1e-9  # NaN, too, is not 0


def between_blocks(kind: type[nn.Module]) -> nn.Module:
    return nn.Sequential(Block(), kind(), Block())


def after_block(kind: type[nn.Module]) -> nn.Module:
    return nn.Sequential(Block(), kind())


def tensor() -> Tensor:
    return torch.randn(NUM_SETS, NUM_TOKENS, DIM)


def masked() -> tuple[Tensor, Tensor]:
    """Sets of 7, 4 and 5 tokens, and a mask that is True for them."""
    return tensor(), torch.arange(NUM_TOKENS) < torch.tensor([[7], [4], [5]])


def padded() -> tuple[Tensor, Tensor]:
    """The same with a mask that is True for padding."""
    x, mask = masked()
    return x, ~mask


def edges(n: int = NUM_TOKENS) -> Tensor:
    """Edges in random order: at least one to each node, none twice."""
    ring = torch.stack([torch.arange(n), (torch.arange(n) + 1) % n])
    chords = torch.stack([torch.arange(n), (torch.arange(n) * 2 + 3) % n])
    others = torch.stack([torch.arange(n), (torch.arange(n) * 3 + 1) % n])
    listed = torch.cat([ring, chords[:, 1:-1], others[:, 1:-2]], dim=1).unique(dim=1)
    return listed[:, torch.randperm(listed.shape[1])]


def graph() -> tuple[Tensor, Tensor]:
    return torch.randn(NUM_TOKENS, DIM), edges()


def data(n: int) -> Data:
    return Data(x=torch.randn(n, DIM), edge_index=edges(n))


def batch() -> Batch:
    return Batch.from_data_list([data(n) for n in (5, 7, 6)])


def ragged() -> tuple[Tensor, Tensor]:
    """Tokens of three sets, and which set each belongs to."""
    return torch.randn(16, DIM), torch.arange(3).repeat_interleave(torch.tensor([5, 7, 4]))


def tokens() -> Tokens:
    return Tokens(torch.randn(NUM_TOKENS, DIM), Edges(edges(), NUM_TOKENS))


def disjoint() -> Tokens:
    return Tokens.batch([Tokens(torch.randn(n, DIM), Edges(edges(n), n)) for n in (5, 7, 6)])


def mlp(dim: int = DIM, out: int | None = None) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, out or dim))


class Block(nn.Module):
    """A pre-norm transformer block; subclasses override `attend` or `mix`.

    `mask` (B, N) is True for tokens and False for padding.
    """

    def __init__(self, dim: int = DIM, num_heads: int = NUM_HEADS) -> None:
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
    """Layers of (x, mask), one after the other."""

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
