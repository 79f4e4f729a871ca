"""What a compared net is: mixer, graph and readout, its widths, and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import nn

from tokennet.checks import checked
from tokennet.compare.variants import blocks_of, mixer_of, training_of, written
from tokennet.nets import IOSpec, TokenNet, build_net


@checked(dim=0, hidden=0)
@dataclass(frozen=True)
class Width:
    """Channels of the tokens, and of the hidden layer of the token-wise MLPs.

    Of a net of your own `dim` is the size that it is made of, 0 where that is fixed.

    >>> Width(dim=32, hidden=64).hidden
    64
    """

    dim: int
    hidden: int


NO_MIXER = "none"
"""The net of token-wise functions alone: no token receives from another before the readout."""


@checked()
@dataclass(frozen=True)
class NetSpec:
    """A mixer on a graph, and perhaps a readout: "attention@grid", "mean@full/max", "none@full".

    `Task.parse` reads one and looks its names up.

    >>> str(NetSpec("mean", "grid", "max"))
    'mean@grid/max'
    """

    mixer: str
    graph: str
    readout: str | None = None
    """None for the task's own."""
    options: tuple[tuple[str, Any], ...] = ()
    """What differs from the other nets, such as (("score", "cosine"), ("depth", 4))."""

    def __str__(self) -> str:
        readout = f"/{self.readout}" if self.readout else ""
        return f"{self.mixer}{written(self.options)}@{self.graph}{readout}"

    is_fixed: ClassVar[bool] = False
    """Whether its size is given, so that others are matched to it."""

    @property
    def name(self) -> str | None:
        """What makes it in another process, as given to `compare`; None for an object."""
        return str(self)

    def config_of(self, config: TrainConfig) -> TrainConfig:
        """How this net is built and trained where the others are by `config`."""
        return replace(config, **training_of(self.options))

    def code(self, width: Width) -> str | None:
        """A hash of what makes it, where its name does not say that."""
        return None

    def build(self, task: Any, config: TrainConfig, width: Width) -> nn.Module:
        """The net to train, for a `Task`."""
        return task.build(self, config, width)


@checked(depth=0)
@dataclass(frozen=True)
class TrainConfig:
    """How the nets of a task are built and trained: the same for each of them.

    >>> replace(TrainConfig(), depth=4).depth
    4
    """

    epochs: int = 30
    batch_size: int | None = None
    """Examples in one step, over all devices; None for all at once."""
    lr: float = 1e-3
    weight_decay: float = 0.0
    """Of Adam, as an L2 penalty."""
    depth: int = 2
    num_heads: int = 4
    mlp_ratio: float = 2.0
    """Width of the token-wise MLPs over `dim`, before widths are matched."""
    dropout: float = 0.0
    positions: str = "none"
    size: int = 50_000
    """Parameters of each net when sizes are matched and none is given."""
    clip: float | None = None
    """Largest norm of the gradient of a step; None for any."""
    warmup: float = 0.0
    """Share of the steps in which the learning rate rises to `lr`; then it falls as a cosine."""


def net_of_blocks(net: NetSpec, interface: IOSpec, config: TrainConfig, width: Width) -> TokenNet:
    """The net of blocks of this mixer that `build_net` makes by this configuration."""
    interface = replace(interface, readout=net.readout or interface.readout)
    return build_net(
        mixer_of(net.mixer, net.options), interface, width.dim, config.depth, hidden=width.hidden,
        num_heads=config.num_heads, dropout=config.dropout,
        positions=config.positions, config=blocks_of(net.options),  # type: ignore[arg-type]
    )  # fmt: skip
