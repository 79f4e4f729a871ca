"""Every registered tokenizer: round trip, sizes, batches, types, errors.

A new tokenizer is tested here by a case in `cases.py`.
"""

import dataclasses
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from tests.axes import in_turn
from tests.tokenizers.cases import BAD_ARGUMENTS, CASES
from tokennet import Attention, Disjoint, Full, Tokens, TokenWise
from tokennet.tokenizers import TOKENIZERS

INVERTIBLE = [name for name, case in CASES.items() if case.inverse != "none"]
PLACED = [name for name, case in CASES.items() if case.inverse == "same"]
TENSORS = [name for name, case in CASES.items() if isinstance(case.raw(0), Tensor)]


def assert_same(got, want):
    """Bit by bit, whatever raw data are."""
    assert type(got) is type(want)
    if isinstance(want, Data):
        for key in ("x", "edge_index", "edge_attr", "pos"):
            assert_same(got.get(key), want.get(key))
    elif isinstance(want, list):
        for one, other in zip(got, want, strict=True):
            assert_same(one, other)
    elif isinstance(want, Tensor):
        assert got.dtype == want.dtype
        assert torch.equal(got, want)
    else:
        assert got == want


def assert_same_tokens(got, want):
    assert_same([got.z, got.graph.edge_index()], [want.z, want.graph.edge_index()])
    assert_same(got.pos, want.pos)


def test_every_registered_tokenizer_has_a_case():
    assert {type(case.tokenizer) for case in CASES.values()} == set(TOKENIZERS.values())


@pytest.mark.parametrize("name", CASES)
def test_graph_and_positions_are_as_declared(name):
    case = CASES[name]
    tokens = case.tokenizer(case.raw(0))
    assert tokens.z.shape == case.shape
    assert type(tokens.graph) is case.graph
    if case.tokenizer.num_coordinates is not None:
        assert tokens.pos.shape == (case.shape[0], case.tokenizer.num_coordinates)
    if case.coordinates is not None:
        assert tokens.pos.shape == (case.shape[0], case.coordinates)
        if case.tokenizer.shares_graph:
            assert len(tokens.pos.unique(dim=0)) == case.shape[0]


@pytest.mark.parametrize("name", INVERTIBLE)
def test_round_trip(name):
    case = CASES[name]
    for seed in range(4):
        raw = case.raw(seed)
        assert_same(case.tokenizer.inverse(case.tokenizer(raw)), raw)


@pytest.mark.parametrize("name", INVERTIBLE)
def test_round_trip_of_relabeled_tokens(name):
    case = CASES[name]
    raw = case.raw(0)
    tokens = case.tokenizer(raw)
    perm = torch.randperm(tokens.num_tokens, generator=torch.Generator().manual_seed(1))
    back = case.tokenizer.inverse(tokens.permute(perm))
    if isinstance(raw, Data):  # edges are a set
        again = case.tokenizer(back)
        assert sorted(again.z.sum(1).tolist()) == pytest.approx(sorted(tokens.z.sum(1).tolist()))
        if case.inverse == "same":
            assert_same(back.x, raw.x)
            assert_same(edges_as_a_set(back), edges_as_a_set(raw))
    elif case.inverse == "same":
        assert_same(back, raw)
    else:
        assert_same(back, raw[perm])


def edges_as_a_set(data):
    rows = zip(*data.edge_index.tolist(), data.edge_attr.tolist(), strict=True)
    return sorted(map(str, rows))


@in_turn(name=INVERTIBLE, seeds=[(0, 1, 2), (0, 2), (1,)])  # ragged, equal, one
def test_round_trip_of_batches(name, seeds):
    case = CASES[name]
    raws = [case.raw(seed) for seed in seeds]
    back = case.tokenizer.inverse(case.tokenizer(raws))
    assert_same(list(back), raws)


@pytest.mark.parametrize("name", INVERTIBLE)
def test_round_trip_on_another_graph(name):
    case = CASES[name]
    raw = case.raw(0)
    tokenizer = dataclasses.replace(case.tokenizer, graph=Full)
    tokens = tokenizer(raw)
    assert type(tokens.graph) is Full
    assert_same(tokens.z, case.tokenizer(raw).z)
    assert all(type(graph) is Full for graph in tokenizer([raw, case.raw(1)]).graph.graphs)
    if name != "nodes":  # its edges are its graph
        assert_same(tokenizer.inverse(tokens), raw)


@pytest.mark.parametrize("name", CASES)
def test_batches_are_one_by_one(name):
    case = CASES[name]
    raws = [case.raw(seed) for seed in (0, 1, 2)]
    alone = [case.tokenizer(raw) for raw in raws]
    ragged = case.tokenizer(raws)
    assert isinstance(ragged.graph, Disjoint)
    for part, want in zip(ragged.unbatch(), alone, strict=True):
        assert_same_tokens(part, want)
    equal = case.tokenizer([raws[0], raws[2]])
    if case.tokenizer.shares_graph and alone[0].num_tokens == alone[2].num_tokens:
        assert type(equal.graph) is case.graph
        assert_same_tokens(equal, alone[0].replace(z=torch.stack([alone[0].z, alone[2].z])))
    else:
        for part, want in zip(equal.unbatch(), (alone[0], alone[2]), strict=True):
            assert_same_tokens(part, want)


@pytest.mark.parametrize("name", TENSORS)
def test_a_leading_dimension_is_a_batch(name):
    case = CASES[name]
    raws = [case.raw(seed) for seed in (0, 2)]
    assert_same_tokens(case.tokenizer(torch.stack(raws)), case.tokenizer(raws))
    if case.tokenizer.shares_graph:
        nested = torch.stack(2 * [torch.stack(raws)])
        tokens = case.tokenizer(nested)
        assert tokens.z.shape == (2, 2, *case.shape)
        if case.inverse != "none":
            assert_same(case.tokenizer.inverse(tokens), nested)


@in_turn(name=TENSORS, dtype=[torch.float64, torch.float32, torch.bfloat16])
def test_types_are_kept(name, dtype):
    case = CASES[name]
    raw = case.raw(0).to(dtype)
    tokens = case.tokenizer(raw)
    assert tokens.z.dtype == dtype
    assert tokens.z.isfinite().all()
    if case.inverse == "none":
        return
    back = case.tokenizer.inverse(tokens)
    assert back.dtype == dtype
    # Sums are taken in float64, so that what overlaps is rounded back to the same number.
    tolerance = 2e-16 if dtype == torch.float64 else 0.0
    torch.testing.assert_close(back, raw, rtol=tolerance, atol=tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize("name", TENSORS)
def test_tokens_are_where_the_raw_data_are(name):
    case = CASES[name]
    raw = case.raw(0)
    tokens = case.tokenizer(raw.cuda())
    assert tokens.z.is_cuda
    assert tokens.pos.is_cuda
    torch.testing.assert_close(tokens.z.cpu(), case.tokenizer(raw).z)
    if case.inverse != "none":
        assert_same(case.tokenizer.inverse(tokens).cpu(), raw)


@pytest.mark.parametrize("name", ["patches", "patches_overlap", "pixels", "frames_overlap"])
def test_integers_come_back(name):
    case = CASES[name]
    raw = (case.raw(0) * 100).to(torch.int16)
    assert_same(case.tokenizer.inverse(case.tokenizer(raw)), raw)


@pytest.mark.parametrize(
    "name", [name for name in TENSORS if name not in ("superpixels", "log_mel")]
)
def test_gradients_go_there_and_back(name):
    case = CASES[name]
    raw = case.raw(0).double().requires_grad_()
    tokens = case.tokenizer(raw)
    assert torch.autograd.gradcheck(lambda raw: case.tokenizer(raw).z, raw, fast_mode=True)
    z = tokens.z.detach().requires_grad_()
    inverse = case.tokenizer.inverse
    assert torch.autograd.gradcheck(lambda z: inverse(tokens.replace(z=z)), z, fast_mode=True)


@pytest.mark.parametrize("name", ["superpixels", "log_mel"])
def test_gradients_of_features(name):
    case = CASES[name]
    raw = case.raw(0).requires_grad_()
    (gradient,) = torch.autograd.grad(case.tokenizer(raw).z.sum(), raw)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("name", CASES)
def test_pickles_and_shows_its_arguments(name):
    case = CASES[name]
    again = pickle.loads(pickle.dumps(case.tokenizer))
    assert_same_tokens(again(case.raw(0)), case.tokenizer(case.raw(0)))
    assert repr(case.tokenizer).startswith(type(case.tokenizer).__name__ + "(")
    assert "graph" not in repr(case.tokenizer)


@pytest.mark.parametrize("name", CASES)
def test_a_net_takes_the_tokens(name):
    case = CASES[name]
    tokens = case.tokenizer([case.raw(0), case.raw(1)])
    if case.floating:
        embed = TokenWise(nn.Linear(tokens.dim, 8))
    else:
        table = nn.Embedding(case.tokenizer.vocab_size, 8)
        embed = TokenWise(lambda ids: table(ids[..., 0]))
    out = Attention(8, num_heads=2)(embed(tokens))
    assert out.z.shape == (tokens.num_tokens, 8)
    assert out.z.isfinite().all()


BAD = [(name, *bad) for name, case in CASES.items() for bad in case.bad]


@pytest.mark.parametrize(("name", "raw", "error", "says"), BAD, ids=[bad[0] for bad in BAD])
def test_errors_name_the_argument(name, raw, error, says):
    with pytest.raises(error, match=says):
        CASES[name].tokenizer.tokenize(raw)


@pytest.mark.parametrize(("make", "says"), BAD_ARGUMENTS, ids=[says for _, says in BAD_ARGUMENTS])
def test_bad_arguments_are_named(make, says):
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_no_batch(name):
    with pytest.raises(ValueError, match="raw must hold at least one datum"):
        CASES[name].tokenizer([])


@pytest.mark.parametrize("name", CASES)
def test_inverse_of_something_else(name):
    case = CASES[name]
    with pytest.raises(TypeError, match="tokens must be Tokens, got Tensor"):
        case.tokenizer.inverse(torch.zeros(3, 4))
    if case.inverse == "none":
        with pytest.raises(TypeError, match="has no inverse"):
            case.tokenizer.inverse(case.tokenizer(case.raw(0)))


@pytest.mark.parametrize("name", PLACED)
def test_inverse_asks_for_places_and_channels(name):
    case = CASES[name]
    tokens = case.tokenizer(case.raw(0))
    if case.floating:
        with pytest.raises(ValueError, match="tokens.pos must have shape"):
            case.tokenizer.inverse(tokens.replace(pos=None))
    else:
        assert case.tokenizer.inverse(tokens.replace(pos=None)) == case.raw(0)
    with pytest.raises(ValueError, match="tokens.pos must hold whole numbers"):
        case.tokenizer.inverse(tokens.replace(pos=tokens.pos - 0.5))
    with pytest.raises(ValueError, match="tokens.pos must hold whole numbers"):
        case.tokenizer.inverse(tokens.replace(pos=tokens.pos - 1))
    if name != "pixels":  # of which any number of channels is whole
        with pytest.raises(ValueError, match="tokens must have"):
            case.tokenizer.inverse(Tokens(tokens.z[..., :1].float(), tokens.graph, tokens.pos))
