"""Time how graphs are read, for docs/benchmarks.md: python -m benchmarks.loading.

`Tokens.batch` as the `collate_fn` of a `DataLoader` against PyG's own loader, on the same graphs
with the same workers; and `from_networkx` against a loop over the edges. Both sides take turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable

import networkx as nx
import torch
from torch.utils.data import DataLoader
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader as PyGLoader

from benchmarks.pages import DOCS, head, row, write
from tokennet import Tokens, from_networkx

GRAPHS, BATCH, WORKERS, ROUNDS = 4096, 512, 4, 7


def molecules(count: int) -> list[Data]:
    """Random trees of 20 to 40 nodes with some rings, 16 features on nodes and 4 on edges."""
    made = []
    for _ in range(count):
        n = int(torch.randint(20, 41, ()))
        child = torch.arange(1, n)
        bonds = torch.stack([(torch.rand(n - 1) * child).long(), child])
        bonds = torch.cat([bonds, torch.randint(0, n, (2, 3))], 1)
        edges = torch.cat([bonds, bonds.flip(0)], 1)
        attr = torch.randn(edges.shape[1], 4)
        made.append(Data(x=torch.randn(n, 16), edge_index=edges, edge_attr=attr))
    return made


def epoch(loader: Iterable, num_edges: Callable[..., int]) -> int:
    """Read all batches, as far as their edges, which training needs."""
    return sum(num_edges(batch) for batch in loader)


def in_turns(*calls: Callable[[], object]) -> list[float]:
    """Median seconds of each call; in each round all are called."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(ROUNDS + 1):
        for call, seconds in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if turn:  # the first warms up
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]


def of_loaders(workers: int) -> list[float]:
    graphs = molecules(GRAPHS)
    tokens = [Tokens.from_pyg(graph) for graph in graphs]
    # Kept workers: otherwise most of the time is that of starting them.
    options = {"batch_size": BATCH, "num_workers": workers, "persistent_workers": workers > 0}
    ours = DataLoader(tokens, collate_fn=Tokens.batch, **options)
    theirs = PyGLoader(graphs, **options)
    return in_turns(
        lambda: epoch(ours, lambda batch: batch.graph.edge_index().shape[1]),
        lambda: epoch(theirs, lambda batch: batch.edge_index.shape[1]),
    )


def of_networkx(edges: int) -> list[float]:
    graph = nx.gnm_random_graph(edges // 5, edges, seed=0)
    nx.set_edge_attributes(graph, 1.0, "w")

    def loop() -> None:
        number = {node: i for i, node in enumerate(graph)}
        torch.tensor([(number[u], number[v], data["w"]) for u, v, data in graph.edges(data=True)])

    return in_turns(lambda: from_networkx(graph, "w"), loop)


def main() -> None:
    torch.manual_seed(0)
    rows = []
    for workers in (0, WORKERS):
        what = f"an epoch of {GRAPHS:,} graphs, {BATCH} a batch, {workers} workers"
        ours, theirs = of_loaders(workers)
        rows.append(row(what, f"{ours:.3f}", "PyG's `DataLoader`", f"{theirs:.3f}"))
    ours, theirs = of_networkx(100_000)
    what = "`from_networkx`, 100,000 undirected edges with an attribute"
    rows.append(row(what, f"{ours:.3f}", "a loop over the edges", f"{theirs:.3f}"))
    lines = [*head("what", "seconds", "beside", "seconds"), *rows]
    write(DOCS / "benchmarks.md", "loading", lines)


if __name__ == "__main__":
    main()
