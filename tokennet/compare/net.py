"""`Net`: how a net is written, and `Width`, how wide it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Width:
    """Channels of the tokens, and of the hidden layer of the token-wise MLPs.

    >>> Width(dim=32, hidden=64).hidden
    64
    """

    dim: int
    hidden: int


@dataclass(frozen=True)
class NetSpec:
    """A mixer on a graph, as in "attention@grid", or with a readout, "mean@full/max".

    >>> net = Net.parse("mean@grid/max", {"mean": None}, ("grid",), ("max",))
    >>> net.mixer, net.graph, net.readout
    ('mean', 'grid', 'max')
    """

    mixer: str
    graph: str
    readout: str | None = None
    """None for the task's own."""

    def __str__(self) -> str:
        return f"{self.mixer}@{self.graph}" + (f"/{self.readout}" if self.readout else "")

    @staticmethod
    def parse(
        text: str,
        mixers: Mapping[str, Any],
        graphs: tuple[str, ...],
        readouts: tuple[str, ...] = (),
    ) -> NetSpec:
        """Read "mixer@graph" or "mixer@graph/readout".

        Raises:
            ValueError: it is not of that form, or one of the names is not known.
        """
        front, slash, readout = text.strip().partition("/")
        mixer, at, graph = front.partition("@")
        if not at:
            raise ValueError(f"a net is written mixer@graph, such as attention@full; got {text!r}")
        if mixer not in mixers:
            raise ValueError(f"mixer must be one of {', '.join(mixers)}; got {mixer!r} in {text!r}")
        if graph not in graphs:
            raise ValueError(
                f"graph must be one of {', '.join(graphs)} for this task; got {graph!r} in {text!r}"
            )
        if slash and readout not in readouts:
            allowed = f"one of {', '.join(readouts)}" if readouts else "left out"
            raise ValueError(
                f"readout must be {allowed} for this task; got {readout!r} in {text!r}"
            )
        return NetSpec(mixer, graph, readout or None)
