"""What layers answer to arguments and inputs that do not fit, and to features they do not read."""

import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.nn import GATConv, GCNConv, MixHopConv

from tokennet import (
    Aggregate,
    Attention,
    Causal,
    Convolution,
    Cycle,
    Edges,
    GraphAttention,
    PyGMixer,
    Residual,
    TokenMixingMLP,
    Tokens,
    TokenWise,
    Window,
)  # fmt: skip
from tokennet.mixers import LearnedMixing, Recurrence

X = torch.ones(5, 8)
FEATURED = Edges(torch.tensor([[0, 1], [1, 2]]), 5, edge_attr=torch.ones(2, 3))


def bad(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_messages_name_the_argument_at_construction():
    bad(lambda: Attention(8, 2, source_dim="x"), TypeError, "source_dim must be an int, got 'x'")
    bad(lambda: Attention(8, heads=2), TypeError, "'heads'; did you mean num_heads")
    bad(lambda: Attention(), TypeError, r"Attention\(\) missing a required argument: 'dim'")
    bad(lambda: Attention(8, 2, backend="fuse"), ValueError, "backend must .* did you mean fused")
    bad(lambda: TokenMixingMLP("x", 4, 4), TypeError, "dim must be an int, got 'x'")
    bad(lambda: TokenMixingMLP(8, -1, 4), ValueError, "num_tokens must be at least 0, got -1")
    bad(lambda: Recurrence(8, bidirectional=-1), TypeError, "bidirectional must be True or False")
    bad(lambda: LearnedMixing(8, -1), ValueError, "graph must be at least 0, got -1")
    bad(lambda: Aggregate(8, "maen"), ValueError, "aggr must .* did you mean mean")
    bad(lambda: Aggregate(8, 3), TypeError, "aggr must be the name of an aggregation, .* got int")
    bad(lambda: Aggregate(8, "quantile"), TypeError, "aggr must be a module .* 'q'")
    bad(
        lambda: PyGMixer(nn.Linear(8, 8)),
        ValueError,
        r"conv must be called as conv\(x, ",
    )
    bad(lambda: PyGMixer(GCNConv(8, 16)), ValueError, "conv must keep .* it makes 16 of 8")
    bad(lambda: PyGMixer(GATConv(8, 8, heads=2)), ValueError, "conv must keep .* it makes 16 of 8")


def test_what_fits_is_accepted():
    assert type(Attention(np.int64(8), torch.tensor(2), bias=np.bool_(False)).dim) is int
    tokens = Tokens(X, Cycle(5))
    convolutions = (GATConv(8, 4, heads=2), GATConv(8, 8, heads=2, concat=False))
    for conv in (*convolutions, MixHopConv(8, 4, powers=[0, 1])):
        assert PyGMixer(conv)(tokens).z.shape == X.shape
    for aggr in ("MeanAggregation", "power_mean", "add", ["mean", "max"]):
        assert Aggregate(8, aggr)(tokens).z.shape == X.shape


def test_a_graph_in_the_place_of_the_source():
    layer = Attention(8, 2)
    for tokens in (X, Tokens(X)):
        bad(lambda z=tokens: layer(z, Cycle(6)), TypeError, "source must .* Cycle.* write graph=")


LAYERS = {
    "attention": lambda: Attention(8, 2),
    "gat": lambda: GraphAttention(8, 2),
    "aggregate": lambda: Aggregate(8),
    "convolution": lambda: Convolution(8),
    "tokenwise": lambda: TokenWise(nn.Sequential(nn.Dropout(0.1), nn.Linear(8, 8))),
    "function": lambda: TokenWise(nn.Sequential(nn.GELU(), nn.Linear(8, 8))),
    "residual": lambda: Residual(TokenWise(nn.Linear(8, 8)), nn.LayerNorm(8)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_another_dtype_or_width_is_said_plainly(name):
    layer = LAYERS[name]()
    wrong = r"tokens must have the dtype of \w+, torch.float32, got torch.float64; write tokens.to"
    bad(lambda: layer(Tokens(X.double(), Window(5, 1))), TypeError, wrong)
    wrong = r"tokens must have 8 channels, got shape \(5, 4\)"
    bad(lambda: layer(Tokens(X[:, :4], Window(5, 1))), ValueError, wrong)
    bad(
        lambda: layer(X.byte()) if name != "convolution" else layer(Tokens(X.byte(), Window(5, 1))),
        TypeError,
        r"got torch.uint8; write tokens.to\(torch.float32\)$",
    )


def test_autocast_is_no_mistake():
    layer = TokenWise(nn.Linear(8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(X.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (lambda: Attention(8, 2), "Attention does not use graph.edge_attr; edge_dim=3 would read"),
        (lambda: GraphAttention(8, 2), "GraphAttention does not use .* edge_dim=3 would read it"),
        (lambda: Aggregate(8), "Aggregate does not use graph.edge_attr$"),
        (lambda: PyGMixer(MixHopConv(8, 8, powers=[1])), None),
        (lambda: Attention(8, 2, edge_dim=3), None),
    ],
)
def test_features_that_are_not_used_are_said_once_for_each_layer(layer, says):
    graph = FEATURED.with_edge_attr(torch.ones(2, 1)) if says is None else FEATURED
    for fresh in (layer(), layer()):
        if says is None and hasattr(fresh, "edge"):
            graph = FEATURED
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            fresh(Tokens(X, graph))
            fresh(Tokens(X, graph))
        assert len(said) == (says is not None)
        assert says is None or re.search(says, str(said[0].message))


def test_without_features_nothing_is_said():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Attention(8, 2)(Tokens(X, Causal(5)))
