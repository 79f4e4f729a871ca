"""The tables in docs/mixers.md, read off the layers: python -m benchmarks.mixers.

What a layer costs and what its weights are stands here; formula and source are those of its
docstring, graphs, symmetry and steps what it says when it is asked.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import torch
from torch import nn
from torch_geometric.nn import GCNConv

import tokennet
from benchmarks.pages import DOCS, head, row, write
from tokennet import Causal, Cycle, Edges, Full, Grid, Tokens, mixers, nets
from tokennet.mixers import MIXERS, SCORES
from tokennet.mixers.scores import Location

PAGE = DOCS / "mixers.md"
N, DIM = 16, 8
TYPED = Edges(Cycle(N).edge_index(), N, edge_type=torch.arange(3 * N) % 3)
GRAPHS = {"complete": Full(N), "causal": Causal(N), "grid": Grid(4, 4), "ring": Cycle(N)}
NAMES = {**vars(tokennet), **vars(mixers), **vars(nets), "GCNConv": GCNConv, "nn": nn}


class Line(NamedTuple):
    """What is not read off the layer."""

    code: str
    weights: str
    cost: str
    """Of N tokens, M sources, E edges, D channels; the page says what other letters are."""


LINES = [
    Line("Attention(8, num_heads=2)", "data", "N D² + E D"),
    Line("CrossAttention(8, num_heads=2)", "data", "(N + M) D² + N M D"),
    Line("GraphAttention(8, num_heads=2)", "data", "N D² + E D"),
    Line('LinearAttention(8, num_heads=2, features="softmax")', "data", "N D² + N F D"),
    Line("HyperMixer(8, hidden=16)", "data", "N D (D + H)"),
    Line("SetAttentionBlock(8, num_heads=2)", "data", "N D² + E D"),
    Line("InducedSetAttentionBlock(8, num_heads=2, num_points=4)", "data", "N D² + N K D"),
    Line("PerceiverMixer(8, num_heads=2, num_latents=4)", "data", "N D² + N K D"),
    Line("SetNorm(8)", "data", "N D"),
    Line("LearnedMixing(8, Causal(16), num_heads=2)", "parameters", "N D² + E D"),
    Line("TokenMixingMLP(8, num_tokens=16, hidden=32)", "parameters", "N H D"),
    Line("CrossPatchLinear(8, num_tokens=16)", "parameters", "N² D"),
    Line("GatedMLP(8, num_tokens=16)", "parameters", "N D H + N² H"),
    Line("Convolution(8, kernel_size=3, causal=True)", "parameters", "N K D"),
    Line("GridConvolution(8, kernel_size=3)", "parameters", "N K² D"),
    Line('Recurrence(8, "gru")', "parameters", "N D², one token after the other"),
    Line("Pooling(8)", "all equal", "E D"),
    Line('Aggregate(8, "mean")', "all equal; in max, 1 or 0", "N D² + E D"),
    Line("RelationalAggregate(8, num_edge_types=3)", "all equal within a type", "N D² + E D²"),
    Line("GraphIsomorphism(8)", "all equal", "N D² + E D"),
    Line("PyGMixer(GCNConv(8, 8))", "those of the convolution", "its own"),
    Line("RecurrentAttention(8, num_heads=2, memory=4)", "data", "N D² + E D"),
]
"""Mixers: tokens in, the same number of tokens out."""
OTHERS = [
    Line("Latents(8, num_latents=4, num_heads=2)", "data", "N D² + N K D"),
    Line("PoolingByAttention(8, num_heads=2, num_seeds=4)", "data", "N D² + N K D"),
    Line("StridedConvolution(8, 16)", "parameters", "N K² D² / 4"),
    Line(
        "MemoryTokens(Attention(8, num_heads=2), 8, count=2)", "its layers' own", "of N + K tokens"
    ),
    Line("MixtureOfExperts(8, num_experts=4, top_k=2)", "token-wise", "K experts for each token"),
]
"""Layers that change the tokens there are, or mix none."""


def make(line: Line) -> Any:
    return eval(line.code, dict(NAMES))


def named(kind: type) -> list[str]:
    """What a mixer is called in `MIXERS`, as in `tokennet compare`."""
    return [name for name, build in MIXERS.items() if type(build(DIM, 2, N)) is kind]


def summary(layer: Any) -> str:
    return type(layer).__doc__.strip().splitlines()[0].rstrip(".")


def formula(layer: Any) -> str:
    """The formula of the docstring, or its first line where there is none."""
    text = re.split("Args:|Raises:|>>>", type(layer).__doc__)[0]
    block = re.search(r"(?:^ {8,}\S.*\n)+", text, flags=re.MULTILINE)
    if block is None:
        return summary(layer)
    lines = [line.strip().replace("|", "\\|") for line in block[0].splitlines()]
    return "<br>".join(f"`{line}`" for line in lines)


def source(layer: Any) -> str:
    """The first paper that the docstring names, by its number on arXiv."""
    found = re.search(r"arXiv\s+(\d{4}\.\d{4,5})", type(layer).__doc__)
    return found[1] if found else ""


@torch.no_grad()
def honored(layer: Any) -> str:
    """The graphs in `GRAPHS` on which it runs."""
    names = [name for name, graph in GRAPHS.items() if _runs(layer, graph)]
    if not names and _runs(layer, TYPED):
        return "any with types of edges"
    return "any" if len(names) == len(GRAPHS) else ", ".join(names)


def _runs(layer: Any, graph: Any) -> bool:
    given = (torch.randn(3, DIM),) if layer.needs_source else ()
    try:
        layer(Tokens(torch.randn(N, DIM), graph), *given)
    except ValueError:
        return False
    return True


@torch.no_grad()
def steps(layer: Any) -> str:
    """Whether a sequence can be run token by token."""
    given = torch.randn(3, DIM) if layer.needs_source else None
    try:
        layer.step(Tokens(torch.randn(1, DIM)), Causal(1), None, given)
    except TypeError:
        return "no"
    return "yes"


def rows(lines: list[Line]) -> list[str]:
    made = []
    for line in lines:
        layer = make(line)
        names = ", ".join(f"`{name}`" for name in named(type(layer)))
        symmetry = layer.symmetry
        made.append(
            row(
                f"`{line.code}`",
                names,
                formula(layer),
                line.weights,
                honored(layer),
                symmetry.relabeling,
                symmetry.shuffling,
                steps(layer),
                line.cost,
                source(layer),
            )
        )
    return made


def scores() -> list[str]:
    made = []
    given = {f'"{name}"': kind for name, kind in SCORES.items()}
    for name, kind in {**given, "Location(size)": Location}.items():
        text = " ".join(kind.__doc__.split())  # type: ignore[union-attr]
        found = re.search(r'(s_ij = .+?)(?:, (?:of|with|")|(?<=\S)\.(?:\s|$))', text)
        assert found, name
        cell, paper = found[1].replace("|", "\\|"), re.search(r"arXiv (\d{4}\.\d{4,5})", text)
        assert paper, name
        made.append(row(f"`{name}`", f"`{kind.__name__}`", f"`{cell}`", paper[1]))
    return made


COLUMNS = ("layer", "in `MIXERS`", "what it does", "weights", "graphs", "relabeling", "shuffling")
COLUMNS += ("steps", "cost", "arXiv")


def tables() -> dict[str, list[str]]:
    return {
        "table of mixers": [*head(*COLUMNS), *rows(LINES)],
        "table of other layers": [*head(*COLUMNS), *rows(OTHERS)],
        "table of scores": [*head("name", "class", "score", "arXiv"), *scores()],
    }


def main() -> None:
    for name, lines in tables().items():
        write(PAGE, name, lines)


if __name__ == "__main__":
    main()
