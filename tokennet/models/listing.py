"""The tables that `tokennet nets` prints: named nets, and the mixers that nets are made of."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from tokennet.mixers import MIXERS
from tokennet.models.registry import NETS
from tokennet.nets.summary import count_parameters


def nets() -> None:
    """Print the named nets, and the mixers that nets are made of."""
    console = Console()
    console.print(_named(), "`create_model(name, ...)` makes a net; options replace its sizes.\n")
    console.print(_mixers())
    console.print(
        "A net to compare is mixer@graph, such as attention@full; `tokennet tasks` lists the "
        "graphs."
    )


def _named() -> Table:
    table = Table("net", "lines", "parameters", "relabeling", "shuffling")
    for column in table.columns:
        column.no_wrap = True
    for column in table.columns[1:3]:
        column.justify = "right"
    for name, net in NETS.items():
        model: Any = net.on_meta()
        size, symmetry = f"{count_parameters(model):,}", model.symmetry
        table.add_row(name, str(net.lines), size, symmetry.relabeling, symmetry.shuffling)
    return table


def _mixers() -> Table:
    table = Table("mixer", "layer", "what it does", "relabeling", "shuffling")
    for name, make in MIXERS.items():
        mixer = make(8, 2, 4)
        kind, symmetry = type(mixer), mixer.symmetry
        summary = (kind.__doc__ or "").strip().splitlines()[0]
        table.add_row(name, kind.__name__, summary, symmetry.relabeling, symmetry.shuffling)
    return table
