"""Every form of input with a passing model, and with an injected bug."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence
from torch_geometric.data import Batch, HeteroData

from tests.testing.cases import forms
from tests.testing.cases.base import DIM, TIED, InjectedBug, PassingModel, batch, edges, seeded
from tests.testing.cases.batch_bugs import MeanOfBatch
from tests.testing.cases.passing_graphs import GraphClassifier
from tokennet import Tokens

QUICK = {
    "queries_beside_tokens", "lengths", "cross", "edge_label_index", "max_over_zeros",
    "counts_by_edges", "ptr", "dense_tokens",
}  # fmt: skip
"""Forms that are tested at each run; the others are under the mark `sweep`."""
ORDER = "node_permutation"
OF_BATCH = "batch_composition"
INF = float("inf")


def x(*shape: int) -> Tensor:
    return torch.randn(*(shape or (3, 7, DIM)))


def mask() -> Tensor:
    return torch.arange(7) < torch.tensor([[7], [4], [5]])


def ids(high: int, *shape: int) -> Tensor:
    return torch.randint(0, high, shape)


def sets() -> list[Tensor]:
    return [torch.randn(n, DIM) for n in (5, 7, 4)]


def of_sets(sizes: tuple[int, ...] = (5, 7, 4)) -> Tensor:
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))


def nested(layout: Any) -> Callable[[], Any]:
    return lambda: torch.nested.nested_tensor(sets(), layout=layout)


def dense() -> Tensor:
    adjacency = (torch.rand(3, 7, 7) < 0.5).float()
    adjacency[:, range(7), range(7)] = 1
    return adjacency


def from_to(n: int, m: int, count: int = 14) -> Tensor:
    return torch.stack([torch.randint(0, n, (count,)), torch.randint(0, m, (count,))])


def by_type() -> dict[str, Any]:
    lists = {
        ("author", "writes", "paper"): from_to(4, 6),
        ("paper", "cites", "paper"): from_to(6, 6),
    }
    return {"x_dict": {"paper": x(6, DIM), "author": x(4, DIM)}, "edge_index_dict": lists}


def hetero_data() -> HeteroData:
    data, parts = HeteroData(), by_type()
    for kind, nodes in parts["x_dict"].items():
        data[kind].x = nodes
    for kind, listed in parts["edge_index_dict"].items():
        data[kind].edge_index = listed
    return data


def stale() -> Batch:
    """Edges were dropped after batching, so that the batch's notes of where they are, are old."""
    found = batch()
    found.edge_index = found.edge_index[:, ::2]
    return found


def long_sets() -> tuple[Tensor, Tensor]:
    """So many tokens that some are above and some below zero in every feature."""
    return x(3, 40, DIM), torch.arange(40) < torch.tensor([[40], [30], [37]])


def added() -> Tensor:
    return torch.zeros(3, 1, 1, 7).masked_fill(~mask()[:, None, None], -INF)


def typed() -> Tensor:
    return torch.tensor([2, 0, 1, 1, 0, 2, 0, 1, 2])


FORMS: list[tuple[str, type[forms.Form], Callable[[], Any], str, dict[str, Any]]] = [
    (
        "vector_beside_tokens", forms.PooledBesideVector,
        lambda: (x(), mask(), x(3, DIM)), OF_BATCH, {},
    ),
    (
        "queries_beside_tokens", forms.QueriesBesideTokens,
        lambda: (x(), mask(), x(3, 5, DIM)), "padding", {},
    ),
    ("decoder_ids", forms.Seq2Seq, lambda: (ids(9, 3, 7), ids(9, 3, 5)), ORDER, {}),
    ("labels", forms.WithLabels, lambda: (x(), ids(8, 3)), OF_BATCH, {}),
    ("pairs_nn", forms.Biased, lambda: (x(), x(7, 7)), ORDER, {}),
    ("pairs_bnn", forms.Biased, lambda: (x(), x(3, 7, 7)), ORDER, {}),
    ("pairs_bhnn", forms.Biased, lambda: (x(), x(3, 2, 7, 7)[:, :1]), ORDER, {}),
    ("pair_features", forms.PairFeatures, lambda: (x(), x(3, 7, 7, 4)), ORDER, {}),
    ("added_mask", forms.Extended, lambda: (x(), added()), "padding", {}),
    ("mask_b11n", forms.Extended, lambda: (x(), mask()[:, None, None]), "padding", {}),
    ("merged_mask", forms.MergedMask, lambda: (x(), x(6, 7, 7)), ORDER, {}),
    ("tokens_first_output", forms.TokensFirstOutput, lambda: (x(), mask()), ORDER, {}),
    ("complex_output", forms.Spectrum, x, ORDER, {}),
    ("dataclass_output", forms.InDataclass, x, ORDER, {}),
    ("model_output", forms.InModelOutput, x, OF_BATCH, {"outputs": "last_hidden_state"}),
    ("auxiliary_loss", forms.WithLoss, x, OF_BATCH, {}),
    ("lengths", forms.MeanOfLengths, lambda: (x(), torch.tensor([7, 4, 5])), "padding", {}),
    ("packed", forms.Packed, lambda: pack_sequence(sets(), enforce_sorted=False), ORDER, {}),
    ("list_of_sets", forms.SetList, sets, ORDER, {}),
    ("list_of_sets_pooled", forms.PooledSetList, sets, OF_BATCH, {}),
    ("nested", forms.Nested, nested(torch.strided), ORDER, {}),
    ("jagged", forms.Nested, nested(torch.jagged), ORDER, {}),
    ("molecules", forms.Molecules, lambda: (ids(5, 16), x(16, 3), of_sets()), OF_BATCH, {}),
    (
        "edge_label_index", forms.LinkScores,
        lambda: (x(9, DIM), edges(9), from_to(9, 9, 11)), "edge_permutation", {},
    ),
    ("dense_adjacency", forms.DenseMean, lambda: (x(), dense()), "empty_neighborhood", {}),
    ("bipartite", forms.Bipartite, lambda: ((x(5, DIM), x(6, DIM)), from_to(5, 6)), ORDER, {}),
    ("by_type", forms.Heterogeneous, by_type, ORDER, {}),
    ("hetero_data", forms.OnHeteroData, hetero_data, ORDER, {}),
    ("cross", forms.Cross, lambda: (x(), x(3, 5, DIM)), ORDER, {}),
    (
        "masked_cross", forms.MaskedCross,
        lambda: (x(), x(3, 5, DIM), torch.arange(5) < torch.tensor([[5], [2], [3]])), "padding", {},
    ),
    (
        "cross_of_one_size", forms.Cross, lambda: (x(), x()), ORDER,
        {"roles": {"context": "tokens:context"}},
    ),
    (
        "cross_pairs", forms.CrossPairs,
        lambda: (x(), x(3, 5, DIM), torch.rand(3, 7, 5) < 0.7), ORDER, {},
    ),
    ("tokens_first", forms.TokensFirst, lambda: x(7, 3, DIM), ORDER, {}),
    ("channels_first", forms.PointNet, lambda: x(3, 3, 9), ORDER, {}),
    ("images", forms.ImageNet, lambda: x(3, 3, 6, 6), OF_BATCH, {}),
    ("pixels", forms.Pixels, lambda: x(3, 3, 4, 5), ORDER, {"roles": {"image": "tokens:-2,-1"}}),
    ("types", forms.Typed, lambda: (x(9, DIM), typed()), ORDER, {}),
    ("types_of_nodes", forms.TypedNodes, lambda: (x(9, DIM), edges(9), typed()), ORDER, {}),
    (
        "vectors_beside_ragged", forms.RaggedBesideVectors,
        lambda: (x(16, DIM), of_sets(), x(3, DIM)), OF_BATCH, {},
    ),
    ("ids", forms.Ids, lambda: ids(20, 9), ORDER, {}),
    ("pairs_of_two", forms.PairsOfTwo, lambda: x(3, 2, DIM), ORDER, {}),
    ("max_over_zeros", forms.MaxOverZeros, long_sets, "padding", {}),
    ("max_of_padded", forms.MaxOfPadded, lambda: (x(60, DIM), of_sets((20, 25, 15))), OF_BATCH, {}),
    (
        "counts_by_edges", forms.CountsByEdges,
        lambda: (x(9, DIM), edges(9)), "empty_neighborhood", {},
    ),
    (
        "edges_in_rows", forms.EdgesInRows,
        lambda: (x(9, DIM), edges(9).T.contiguous()), "edge_permutation", {},
    ),
    ("ptr", forms.SumsByPtr, lambda: (x(16, DIM), torch.tensor([0, 5, 12, 16])), OF_BATCH, {}),
    (
        "packed_lengths", forms.SumsByLengths,
        lambda: (x(16, DIM), torch.tensor([5, 7, 4])), OF_BATCH, {},
    ),
    ("dense_tokens", forms.OfDenseTokens, lambda: Tokens(x()), OF_BATCH, {}),
    ("shared_edges", forms.OnSharedEdges, lambda: (x(), from_to(7, 7, 20)), OF_BATCH, {}),
    ("shared_positions", forms.SharedPositions, lambda: (x(), x(7, 3)), ORDER, {}),
]  # fmt: skip

_NOT_LOCALIZED = {"nested", "jagged", "packed", "counts_by_edges"}
_SELECTS = {"max_over_zeros", "max_of_padded", "channels_first"}

FORM_BUGS = [
    InjectedBug(
        f"form_{name}", seeded(lambda kind=kind: kind(True), example), law, options,
        also_broken=(*TIED, ORDER, OF_BATCH, "padding"), slow=name not in QUICK,
        localizable=name not in _NOT_LOCALIZED,
    )
    for name, kind, example, law, options in FORMS
]  # fmt: skip
FORM_BUGS.append(
    InjectedBug(
        "form_stale_batch", seeded(MeanOfBatch, stale), OF_BATCH,
        also_broken=("empty_neighborhood",), slow=True,
    )
)  # fmt: skip

PASSING_FORMS = [
    PassingModel(
        f"form_{name}", seeded(kind, example), options, selects=name in _SELECTS,
        slow=name not in QUICK,
    )
    for name, kind, example, _, options in FORMS
]  # fmt: skip
PASSING_FORMS.append(PassingModel("form_stale_batch", seeded(GraphClassifier, stale), slow=True))
