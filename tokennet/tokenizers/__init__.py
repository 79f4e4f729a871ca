"""Tokenizers, from raw data to tokens and back; `TOKENIZERS` has their names."""

from tokennet.tokenizers.audio import Frames, LogMel
from tokennet.tokenizers.base import Tokenizer
from tokennet.tokenizers.bpe import BPE
from tokennet.tokenizers.graph import LineGraph, Nodes, NodesAndEdges
from tokennet.tokenizers.image import Patches, Pixels
from tokennet.tokenizers.points import Points
from tokennet.tokenizers.series import SeriesWindows
from tokennet.tokenizers.superpixels import Superpixels
from tokennet.tokenizers.text import Bytes, Characters, TextTokenizer

TOKENIZERS: dict[str, type[Tokenizer]] = {
    "patches": Patches,
    "pixels": Pixels,
    "superpixels": Superpixels,
    "characters": Characters,
    "bytes": Bytes,
    "bpe": BPE,
    "frames": Frames,
    "log_mel": LogMel,
    "series": SeriesWindows,
    "nodes": Nodes,
    "nodes_and_edges": NodesAndEdges,
    "line_graph": LineGraph,
    "points": Points,
}

__all__ = [
    "BPE", "TOKENIZERS", "Bytes", "Characters", "Frames", "LineGraph", "LogMel", "Nodes",
    "NodesAndEdges", "Patches", "Pixels", "Points", "SeriesWindows", "Superpixels",
    "TextTokenizer", "Tokenizer",
]  # fmt: skip
