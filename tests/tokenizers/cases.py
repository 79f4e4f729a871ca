"""One case for each tokenizer: what it is given, and what it says it gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch_geometric.data import Data

from tokennet import Causal, Edges, Grid, Window
from tokennet.tokenizers import (
    BPE,
    Bytes,
    Characters,
    Frames,
    LineGraph,
    LogMel,
    Nodes,
    NodesAndEdges,
    Patches,
    Pixels,
    Points,
    SeriesWindows,
    Superpixels,
    Tokenizer,
)

TEXT = "It was the best of times, it was the worst of times. Ça, 👍 «日本語»"


@dataclass
class Case:
    """What the common suite needs to know."""

    tokenizer: Tokenizer
    raw: Callable[[int], Any]
    """Seed to a raw datum; even seeds have one size, odd ones another."""
    graph: type
    shape: tuple[int, int]
    """(N, D) of the raw datum of seed 0."""
    coordinates: int | None
    inverse: str
    """What the inverse gives of relabeled tokens: "same", "relabeled", or "none"."""
    bad: list[tuple[Any, type[Exception], str]] = field(default_factory=list)
    """Raw data that are refused, how, and the argument that is named."""
    floating: bool = True
    """Whether raw data are tensors of floating point."""


def image(*shape: int) -> Callable[[int], torch.Tensor]:
    def raw(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        height, width = shape[-2:]
        size = (*shape[:-2], height, width + (seed % 2) * width)
        return torch.rand(size, generator=generator)

    return raw


def line(*lengths: int, channels: int | None = None) -> Callable[[int], torch.Tensor]:
    def raw(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        size = [lengths[seed % 2]] + ([] if channels is None else [channels])
        return torch.randn(size, generator=generator)

    return raw


def tone(seed: int) -> torch.Tensor:
    """A chord and some noise: 0.2 or 0.26 s at 8 kHz."""
    time = torch.arange(1600 + 480 * (seed % 2)) / 8000
    chord = sum(torch.sin(2 * math.pi * (220 + 110 * seed) * k * time) / k for k in (1, 2, 3))
    return chord + 0.1 * torch.randn(len(time), generator=torch.Generator().manual_seed(seed))


def blocks(seed: int) -> torch.Tensor:
    """Four or six squares of one color each, 6 pixels wide."""
    colors = torch.rand(3, 2, 2 + seed % 2, generator=torch.Generator().manual_seed(seed))
    return colors.repeat_interleave(6, 1).repeat_interleave(6, 2)


def text(seed: int) -> str:
    return TEXT[seed % 2 :].replace("t", "tsaeh"[seed % 5])


def graph(seed: int) -> Data:
    """Five or six nodes, a ring and some chords in one direction; every node has an edge."""
    generator = torch.Generator().manual_seed(seed)
    n = 5 + seed % 2
    ring = torch.stack([torch.arange(n), (torch.arange(n) + 1) % n])
    edges = torch.cat([ring, ring.flip(0), torch.randint(n, (2, 4), generator=generator)], 1)
    x = torch.randn(n, 3, generator=generator)
    return Data(
        x=x, edge_index=edges, edge_attr=torch.randn(edges.shape[1], 2, generator=generator)
    )


def points(seed: int) -> torch.Tensor:
    return torch.randn(9 + seed % 2, 3, generator=torch.Generator().manual_seed(seed))


NO_IMAGE = [
    ([[1.0]], TypeError, "image"),
    (torch.zeros(8, 8), ValueError, r"image must have shape \(\.\.\., C, H, W\)"),
]
NO_TEXT = [(7, TypeError, "text"), (torch.tensor([1]), TypeError, "text")]
NO_GRAPH = [
    (torch.zeros(3, 2), TypeError, "data must be a PyG Data"),
    (Data(edge_index=torch.zeros(2, 0, dtype=torch.long)), ValueError, "data must have x"),
]
MISFIT = "must be 4 \\+ k x 4 long"

CASES = {
    "patches": Case(
        Patches(4), image(3, 8, 12), Grid, (6, 48), 2, "same",
        [*NO_IMAGE, (torch.zeros(3, 8, 9), ValueError, f"image {MISFIT}")],
    ),
    "patches_overlap": Case(Patches(4, stride=2), image(3, 8, 12), Grid, (15, 48), 2, "same"),
    "patches_oblong": Case(Patches((2, 4), (1, 2)), image(1, 4, 8), Grid, (9, 8), 2, "same"),
    "pixels": Case(Pixels(), image(3, 4, 5), Grid, (20, 3), 2, "same", NO_IMAGE),
    "superpixels": Case(
        Superpixels(4), blocks, Edges, (4, 3), 2, "none",
        [
            (torch.zeros(8, 8), ValueError, r"image must have shape \(C, H, W\)"),
            (torch.zeros(3, 8, 8, dtype=torch.uint8), TypeError, "image"),
            (torch.full((3, 8, 8), math.nan), ValueError, "image"),
        ],
    ),
    "characters": Case(
        Characters.from_text(TEXT + "aeh"), text, Causal, (64, 1), 1, "same",
        [*NO_TEXT, ("It ~", ValueError, "text must be written in the alphabet, got '~' at 3")],
        floating=False,
    ),
    "bytes": Case(Bytes(), text, Causal, (76, 1), 1, "same", NO_TEXT, floating=False),
    "bpe": Case(
        BPE.train([TEXT] * 2, 290), text, Causal, (26, 1), 1, "same", NO_TEXT, floating=False
    ),
    "frames": Case(
        Frames(4), line(12, 20), Window, (3, 4), 1, "same",
        [
            ([1, 2], TypeError, "sound"),
            (torch.zeros(10), ValueError, f"sound {MISFIT}"),
            (torch.zeros(3), ValueError, f"sound {MISFIT}"),
        ],
    ),
    "frames_overlap": Case(Frames(6, stride=2), line(12, 20), Window, (4, 6), 1, "same"),
    "log_mel": Case(
        LogMel(200, 80, sample_rate=8000, num_mels=12, pad=True), tone, Window, (19, 12), 1, "none",
        [
            (torch.zeros(400, dtype=torch.int16), TypeError, "sound"),
            ("la", TypeError, "sound"),
        ],
    ),
    "series": Case(
        SeriesWindows(4), line(12, 20, channels=2), Causal, (3, 8), 1, "same",
        [
            (torch.zeros(12), ValueError, r"series must have shape \(\.\.\., T, C\)"),
            (torch.zeros(10, 2), ValueError, f"series {MISFIT}"),
        ],
    ),
    "series_delays": Case(
        SeriesWindows(3, stride=1), line(8, 11, channels=2), Causal, (6, 6), 1, "same"
    ),
    "nodes": Case(Nodes(), graph, Edges, (5, 3), None, "relabeled", NO_GRAPH),
    "nodes_and_edges": Case(
        NodesAndEdges(3), graph, Edges, (19, 7), 2, "same",
        [*NO_GRAPH, (Data(torch.zeros(2, 4), torch.zeros(2, 0).long()), ValueError, "data.x")],
    ),
    "line_graph": Case(
        LineGraph(3), graph, Edges, (14, 8), 2, "same",
        [*NO_GRAPH, (Data(torch.zeros(2, 4), torch.zeros(2, 0).long()), ValueError, "data.x")],
    ),
    "points": Case(
        Points(k=3), points, Edges, (9, 3), 3, "relabeled",
        [
            ("here", TypeError, "points"),
            (torch.zeros(3), ValueError, "points must have shape"),
            (torch.tensor([[math.nan, 0.0]]), ValueError, "points must be finite"),
        ],
    ),
    "points_radius": Case(
        Points(radius=1.5, num_coordinates=2), points, Edges, (9, 3), 2, "relabeled",
        [(torch.zeros(3, 1), ValueError, "points must have at least 2 columns")],
    ),
}  # fmt: skip

BAD_ARGUMENTS = [
    (lambda: Patches(0), "size must be at least 1"),
    (lambda: Patches((2, 2, 2)), "size must be an int or"),
    (lambda: Patches(4, stride=5), "stride must be at most size = 4"),
    (lambda: Patches(4, blur=2), "blur must be an odd"),
    (lambda: Patches(4, border="zeros"), "border must be"),
    (lambda: Frames(4, stride=0), "stride must be at least 1"),
    (lambda: SeriesWindows(4, stride=5), "stride must be at most size"),
    (lambda: LogMel(200, 300), "stride must be at most size"),
    (lambda: LogMel(floor=0.0), "floor must be positive"),
    (lambda: LogMel(64, 16, num_mels=80), "num_mels must leave a frequency"),
    (lambda: Superpixels(0), "num_segments must be at least 1"),
    (lambda: Superpixels(compactness=0.0), "compactness must be positive"),
    (lambda: Superpixels(sigma=-1.0), "sigma must be at least 0"),
    (lambda: Points(), "either k or radius"),
    (lambda: Points(k=1, radius=1.0), "either k or radius"),
    (lambda: Points(radius=math.nan), "radius must be finite"),
    (lambda: Points(k=-1), "k must be at least 0"),
    (lambda: Characters("abca"), "alphabet must not repeat any, got 'a'"),
    (lambda: Bytes(special_tokens=("[A]", "[A]")), "special_tokens must not repeat"),
    (lambda: BPE.train(["a"], 255), "vocab_size must be at least 256"),
    (lambda: NodesAndEdges(-1), "node_dim must be at least 0"),
]
