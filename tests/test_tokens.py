"""Tokens: checked when made, moved together, batched and unbatched."""

import copy
import dataclasses
import io

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils._pytree import (
    keystr,
    tree_flatten,
    tree_flatten_with_path,
    tree_map,
    tree_unflatten,
)

from tokennet import Aggregate, Attention, Causal, Cycle, Disjoint, Edges, Full, Tokens, Window
from tokennet.positional import Rotary, SinusoidalEncoding


def example(n=4, dim=3, graph=None):
    return Tokens(torch.randn(n, dim), graph or Causal(n), torch.randn(n, 2))


def test_default_graph_is_complete():
    tokens = Tokens(torch.zeros(2, 5, 3))
    assert isinstance(tokens.graph, Full)
    assert (tokens.num_tokens, tokens.dim) == (5, 3)
    assert tokens.graph.num_edges == 25


def test_tokens_are_frozen_and_checked_again_when_replaced():
    tokens = example()
    with pytest.raises(dataclasses.FrozenInstanceError):
        tokens.z = torch.zeros(4, 3)
    assert tokens.replace(z=torch.zeros(4, 7)).graph is tokens.graph
    with pytest.raises(ValueError, match="graph must connect the N = 5 tokens of z, got 4"):
        tokens.replace(z=torch.zeros(5, 3))


def test_permute_moves_z_graph_and_pos_together():
    tokens, perm = example(graph=Causal(4)), torch.tensor([2, 0, 3, 1])
    moved = tokens.permute(perm)
    assert torch.equal(moved.z, tokens.z[perm])
    assert torch.equal(moved.pos, tokens.pos[perm])
    assert torch.equal(moved.graph.dense(), tokens.graph.dense()[perm][:, perm])
    back = moved.permute(torch.argsort(perm))
    assert torch.equal(back.z, tokens.z)
    assert torch.equal(back.graph.dense(), tokens.graph.dense())


@pytest.mark.parametrize("perm", [[0, 1, 2], [0, 0, 1, 2], [4, 0, 1, 2], [0.0, 1.0, 2.0, 3.0]])
def test_what_is_no_permutation_is_refused(perm):
    with pytest.raises(ValueError, match=r"perm must be a permutation of 0 \.\. 3"):
        example().permute(perm)


def test_ragged_batch_and_back():
    sets = [example(3), example(0), example(5, graph=Cycle(5))]
    batch = Tokens.batch(sets)
    assert batch.z.shape == (8, 3)
    assert isinstance(batch.graph, Disjoint)
    for before, after in zip(sets, batch.unbatch(), strict=True):
        assert torch.equal(after.z, before.z)
        assert torch.equal(after.pos, before.pos)
        assert after.graph is before.graph
    single = example()
    assert single.unbatch() == [single]


def test_sets_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="sets must hold at least one Tokens, got none"):
        Tokens.batch([])
    with pytest.raises(TypeError, match=r"sets\[1\] must be Tokens or a tensor, got list"):
        Tokens.batch([example(), [1.0]])
    with pytest.raises(ValueError, match="sets must agree on z but for N"):
        Tokens.batch([example(dim=3), example(dim=4)])
    with pytest.raises(ValueError, match="sets must agree on pos but for N"):
        Tokens.batch([example(), example().replace(pos=None)])


def test_to_moves_types_of_floating_point_only():
    tokens = Tokens(torch.zeros(3, 2), pos=torch.arange(3)[:, None])
    moved = tokens.to(torch.float64)
    assert moved.z.dtype == torch.float64
    assert moved.pos.dtype == torch.int64
    assert tokens.replace(pos=torch.zeros(3, 1)).to(torch.float64).pos.dtype == torch.float64
    assert tokens.to("meta").pos.device.type == "meta"
    ids = Tokens(torch.arange(3)[:, None], pos=torch.rand(3, 1))
    assert ids.to(torch.bfloat16).z.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_positions_are_not_rounded_with_the_tokens(dtype):
    n = 3000
    tokens = Tokens(torch.randn(n, 16), Window(n, 4), torch.arange(float(n))[:, None])
    moved = tokens.to(dtype)
    assert moved.z.dtype == dtype
    assert torch.equal(moved.pos, tokens.pos)
    assert tokens.to(torch.float64).to(dtype).pos.dtype == torch.float64
    encoding = SinusoidalEncoding(16)
    assert_close(encoding(moved).z.float(), encoding(tokens).z, rtol=0.02, atol=0.02)
    layer = Attention(16, 1, position=Rotary(by="pos"))
    expected = layer(tokens).z
    assert_close(layer.to(dtype)(moved).z.float(), expected, rtol=0.05, atol=0.05)


class Half(nn.Module):
    def forward(self, tokens):
        return tokens.replace(z=tokens.z / 2)


@pytest.mark.parametrize("pos", [None, torch.rand(4, 2)], ids=["no pos", "pos"])
def test_tokens_are_a_pytree_of_their_tensors(pos):
    tokens = Tokens(torch.randn(4, 8), Cycle(4), pos)
    leaves, spec = tree_flatten(tokens)
    assert [leaf is tensor for leaf, tensor in zip(leaves, (tokens.z, pos), strict=False)] == [
        True
    ] * len(leaves)
    assert len(leaves) == (1 if pos is None else 2)
    back = tree_unflatten(leaves, spec)
    assert (back.z is tokens.z, back.graph is tokens.graph, back.pos is pos) == (True, True, True)
    paths = [keystr(path) for path, _ in tree_flatten_with_path({"x": tokens})[0]]
    assert paths == ["['x'].z", "['x'].pos"][: len(leaves)]
    assert tree_map(lambda x: x.dtype, tokens).z == torch.float32  # what is mapped need not fit


class OnGraph(nn.Module):
    def __init__(self, layer, graph):
        super().__init__()
        self.layer, self.graph = layer, graph

    def forward(self, x):
        return self.layer(x, graph=self.graph)


@pytest.mark.parametrize("kind", [lambda: Attention(8, 2), lambda: Aggregate(8)])
@pytest.mark.parametrize("graph", [lambda: Edges([(0, 1), (1, 2)], 4), lambda: Window(4, 1)])
def test_a_layer_is_exported_and_saved_before_any_call(kind, graph):
    net, x, file = OnGraph(kind(), graph()), torch.randn(5, 4, 8), io.BytesIO()
    torch.export.save(torch.export.export(net, (x,), strict=False), file)
    file.seek(0)
    assert_close(torch.export.load(file).module()(x), net(x))


def test_layers_of_tokens_are_exported_and_vmapped():
    layer, tokens = Attention(8, 2).double(), Tokens(torch.randn(5, 4, 8).double(), Cycle(4))
    program = torch.export.export(layer, (tokens,)).module()
    other = tokens.replace(z=torch.randn(5, 4, 8).double())
    assert_close(program(other).z, layer(other).z)
    for number, z in enumerate(tokens.z):
        assert_close(torch.vmap(layer)(tokens).z[number], layer(Tokens(z, tokens.graph)).z)
    tangents = Tokens(torch.randn(5, 4, 8).double(), tokens.graph)
    _, change = torch.func.jvp(Half(), (tokens,), (tangents,))
    assert_close(change.z, tangents.z / 2)


def test_pinned_memory_is_asked_of_each_tensor(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self + 1)  # there may be no GPU
    tokens = example()
    pinned = torch.utils.data._utils.pin_memory.pin_memory([tokens])[0]
    assert torch.equal(pinned.z, tokens.z + 1)
    assert torch.equal(pinned.pos, tokens.pos + 1)
    assert pinned.graph is tokens.graph


def test_what_is_saved_is_loaded_by_weights_alone(tmp_path):
    sets = [
        example(3),
        example(4, graph=Causal(4).relabel([2, 0, 1, 3])),
        example(2, graph=~Full(2)),
    ]
    for tokens in (*sets, Tokens.batch(sets)):
        torch.save(tokens, tmp_path / "tokens.pt")
        loaded = torch.load(tmp_path / "tokens.pt", weights_only=True)
        assert repr(loaded) == repr(tokens)
        assert torch.equal(loaded.z, tokens.z)
        assert torch.equal(loaded.pos, tokens.pos)
        assert torch.equal(loaded.graph.edge_index(), tokens.graph.edge_index())


def test_deepcopy_and_repr():
    tokens = example()
    twin = copy.deepcopy(tokens)
    assert torch.equal(twin.z, tokens.z)
    assert twin.graph is not tokens.graph
    assert repr(tokens) == (
        "Tokens(z=(4, 3), graph=Causal(4): 4 tokens, 10 edges, density 0.625, pos=(4, 2))"
    )


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Tokens([1.0]), TypeError, "z must be a tensor, got list"),
        (
            lambda: Tokens(torch.zeros(3)),
            ValueError,
            r"z must have shape .* got \(3,\)",
        ),
        (lambda: Tokens(torch.zeros(3, 2), Causal(4)), ValueError, "got 4 targets and 4 sources"),
        (lambda: Tokens(torch.zeros(3, 2), Full(3, 4)), ValueError, "got 3 targets and 4 sources"),
        (
            lambda: Tokens(torch.zeros(3, 2), "causal"),
            TypeError,
            "must be a TokenGraph, got str",
        ),
        (lambda: Tokens(torch.zeros(3, 2), pos=[0]), TypeError, "pos must be a tensor, got list"),
        (lambda: Tokens(torch.zeros(3, 2), pos=torch.zeros(3)), ValueError, r"pos must have shape"),
        (lambda: Tokens(torch.zeros(3, 2), pos=torch.zeros(2, 1)), ValueError, "with N = 3, got"),
        (
            lambda: Tokens(torch.zeros(3, 4, 2), pos=torch.zeros(5, 4, 1)),
            ValueError,
            r"pos must have the leading dimensions \(3,\) of z or none, got shape \(5, 4, 1\)",
        ),
        (
            lambda: Tokens(torch.zeros(4, 2), pos=torch.zeros(5, 4, 1)),
            ValueError,
            r"pos must have the leading dimensions \(\) of z or none",
        ),
        (
            lambda: Tokens(torch.zeros(5, 2), Disjoint([Full(2, 3), Full(3, 2)])),
            ValueError,
            "graph must be square in each of its parts",
        ),
        (
            lambda: Tokens(torch.zeros(3, 2), pos=torch.zeros(3, 1, device="meta")),
            ValueError,
            "pos must be on the device of z, cpu, got meta",
        ),
    ],
)
def test_bad_parts_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_no_tokens_and_no_edges_are_fine():
    assert Tokens(torch.zeros(0, 3)).graph.num_edges == 0
    assert Tokens(torch.zeros(3, 2), Edges(torch.zeros(2, 0, dtype=torch.long), 3)).num_tokens == 3


def test_tensors_are_sets_on_complete_graphs():
    loader = torch.utils.data.DataLoader(
        [torch.randn(n, 4) for n in (3, 1, 5)], batch_size=3, collate_fn=Tokens.batch
    )
    (together,) = loader
    assert [part.graph.num_edges for part in together.unbatch()] == [9, 1, 25]
    assert together.z.shape == (9, 4)
