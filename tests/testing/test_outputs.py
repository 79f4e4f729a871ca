"""What the parts of outputs hold, by hand: layouts, roles, actions; and small parts of reports."""

import math
import re
from types import SimpleNamespace

import pytest
import torch
from torch import tensor, zeros

from tokennet import Causal, Tokens
from tokennet.testing import strategies
from tokennet.testing.engine.actions import AsSet, Conjugate, Invariant, Permute, PermutePart
from tokennet.testing.engine.chance import Noise, _Beside, _permutation_test, with_noise
from tokennet.testing.engine.intervention import PermutationIntervention
from tokennet.testing.engine.nudge import _factors
from tokennet.testing.example.layout import Layout, of_sets, usual_layouts
from tokennet.testing.example.outputs import (
    Output,
    _as_said,
    _candidates,
    _check_count,
    _layout,
    _row_dim,
    chosen_outputs,
    has_a_known_action,
    may_be_indices,
    named_outputs,
    role_of_labels,
)
from tokennet.testing.example.reading import read_example
from tokennet.testing.example.roles import Kind, Role
from tokennet.testing.formats.html import _close, _same
from tokennet.testing.geometry.motions import random_orthogonal, rotation_in_plane
from tokennet.testing.geometry.representations import Representation
from tokennet.testing.laws.mask import HIDDEN, VISIBLE, _Layers

BATCH = read_example((zeros(3, 7, 8),), ["x"], {}).example
ONE = read_example((zeros(7, 8),), ["x"], {}).example
MEMBERS = tensor([0, 0, 0, 1, 1, 2, 2])
RAGGED = read_example((zeros(7, 8), MEMBERS), ["x", "batch"], {}).example
TWO = read_example((zeros(3, 7, 8), zeros(3, 5, 8)), ["x", "context"], {}).example
GRAPH = read_example((zeros(7, 8), tensor([[0, 1, 2], [1, 2, 3]])), ["x", "edge_index"], {}).example


# Which outputs are chosen, and what they hold.


def test_chosen_outputs():
    assert chosen_outputs(None) is None
    assert chosen_outputs("a") == {"a": None}
    assert chosen_outputs(["a", "b"]) == {"a": None, "b": None}
    assert chosen_outputs({"a": "per_set", 1: None}) == {"a": Role(Kind.PER_SET), "1": None}
    with pytest.raises(ValueError, match=r"outputs\['a'\] must be one of tokens, per_set"):
        chosen_outputs({"a": "padding"})
    for given in (3, ["a", 1]):
        with pytest.raises(TypeError, match="outputs must be a name, a list of names or a dict"):
            chosen_outputs(given)


def test_named_outputs():
    def model(x):
        return {"a": x, "b": (x, x.sum())}

    def named(chosen):
        found = named_outputs(model, BATCH, chosen)
        return [(out.name, out.is_left_out, out.role and str(out.role)) for out in found]

    assert named(None) == [("a", False, None), ("b.0", False, None), ("b.1", False, None)]
    assert named({"b": None}) == [("a", True, None), ("b.0", False, None), ("b.1", False, None)]
    chosen = {"a": Role(Kind.TOKENS, (1,)), "b": Role(Kind.PER_SET), "b.1": Role(Kind.OTHER)}
    assert named(chosen) == [
        ("a", False, "tokens:-2"),
        ("b.0", False, "per_set"),
        ("b.1", True, "other"),
    ]
    with pytest.raises(ValueError, match="outputs must be one of a, b, b.0, b.1; got 'c'"):
        named({"c": None})
    with pytest.raises(ValueError, match=r"outputs\['a'\]: there is no dimension 3"):
        named({"a": Role(Kind.TOKENS, (3,))})


@pytest.mark.parametrize(
    ("example", "shape", "tokens", "edges", "sets", "expected"),
    [
        (ONE, (7, 4), (-2,), (), None, Layout((-2,))),
        (ONE, (7, 4), None, (), None, Layout((-2,))),  # the size is that of the tokens
        (ONE, (4, 7), None, (), None, Layout((-1,))),
        (ONE, (7, 7), None, (), None, Layout((-2,))),
        (ONE, (7, 7), (-2, -1), (), None, Layout((-2, -1))),
        (ONE, (4,), None, (), None, Layout()),
        (GRAPH, (3, 4), (-2,), (-2,), None, Layout((), edges=(-2,))),
        (GRAPH, (3, 7), (-2, -1), (-2,), None, Layout((-1,), edges=(-2,))),
        (BATCH, (3, 7, 4), (-2,), (), (-3,), Layout((-2,), sets=-3)),
        (BATCH, (3, 4), (), (), (-2,), Layout(sets=-2)),
        (BATCH, (3, 4), (), (), None, Layout(sets=-2)),
        (BATCH, (3, 4), (), (), (), Layout()),
        (BATCH, (), (), (), (), Layout(scalar=True)),
        (BATCH, (1,), (), (), (), Layout(scalar=True)),
        (BATCH, (3, 3), (), (), (-2, -1), Layout(scalar=True)),
        (BATCH, (6, 4), (), (), (-2,), Layout(scalar=True)),  # several entries a set
        (RAGGED, (3, 4), (), (), (-2,), Layout(sets=-2)),
        (RAGGED, (7, 4), (-2,), (), (-2,), Layout((-2,))),
        (RAGGED, (7, 4), (-2,), (), None, Layout((-2,))),
    ],
)
def test_layouts(example, shape, tokens, edges, sets, expected):
    assert _layout(zeros(shape), example, tokens, edges, sets) == expected


def said(role, shape, layout, example=BATCH):
    return _as_said(Output(0, "y", zeros(shape), role, layout), layout, example)


def test_layouts_that_are_said():
    pooled = Layout(sets=-2)
    assert said(Role(Kind.PER_SET), (3, 4), pooled) == pooled
    assert said(Role(Kind.PER_SET, (-1,)), (4, 3), pooled) == Layout(sets=-1)
    assert said(Role(Kind.SCALAR), (3,), pooled) == Layout(scalar=True)
    usual = Layout((-2,), sets=-3)
    assert said(Role(Kind.TOKENS), (3, 7, 4), usual) == usual
    assert said(Role(Kind.TOKENS, (-1,)), (3, 4, 7), usual) == Layout((-1,), sets=-3)
    assert said(Role(Kind.TOKENS), (3, 7, 4), Layout(sets=-3)) == usual
    assert said(Role(Kind.TOKENS), (7,), Layout(), ONE) == Layout((-1,))
    assert said(Role(Kind.PAIRS), (3, 7, 7), usual) == Layout((-2, -1), sets=-3)
    assert said(Role(Kind.EDGES), (3, 4), Layout(), GRAPH) == Layout(edges=(-2,))
    assert said(Role(Kind.EDGES, (-1,)), (4, 3), Layout(), GRAPH) == Layout(edges=(-1,))
    both = Role(Kind.PAIRS, (-2, -1), ("x", "context"))
    assert said(both, (3, 7, 5), Layout((-2,), sets=-3), TWO) == Layout((-2,), sets=-3)
    other = TWO.view("context")
    assert said(both, (3, 7, 5), Layout((-1,), sets=-3), other) == Layout((-1,), sets=-3)
    of_x = Role(Kind.TOKENS, (), ("x",))
    assert said(of_x, (3, 7, 4), Layout((), sets=-3), other) == Layout(sets=-3)
    with pytest.raises(ValueError, match=r"outputs\['y'\]: dimension -2 has 4 entries for 7 tok"):
        said(Role(Kind.TOKENS), (3, 4, 2), usual)
    with pytest.raises(ValueError, match=r"outputs\['y'\] must be one of x; got 'z'"):
        said(Role(Kind.TOKENS, (), ("z",)), (3, 7, 2), usual)


def test_outputs_that_are_a_list_of_sets_are_refused():
    ys = [zeros(2), zeros(2)]
    with pytest.raises(ValueError, match="outputs for one set less, got 2 and 1: put those of all"):
        _check_count("set", 2, ys, [torch.Size([2])])
    _check_count("set", 3, ys, [torch.Size([2])])
    _check_count("set", 2, ys, [torch.Size([2])] * 2)
    _check_count("set", 2, ys, None)


def output(value, tokens=(), role=None, **layout):
    return Output(0, "y", value, role, Layout(tokens, **layout))


def test_numbers_of_tokens():
    labels = zeros(3, 7).long()
    assert may_be_indices(output(labels, (-1,)))
    assert not may_be_indices(output(labels))
    for other in (zeros(3, 7), zeros(3, 7).bool(), zeros(3, 7, dtype=torch.complex64)):
        assert not may_be_indices(output(other, (-1,)))
    assert role_of_labels(output(labels, (-1,))) == "tokens"
    assert role_of_labels(output(labels, (-2, -1))) == "pairs"


def test_outputs_whose_action_is_known():
    x = zeros(3, 7, 4)
    assert has_a_known_action(output(x, (-2,)), BATCH)
    assert has_a_known_action(output(x), BATCH)
    assert not has_a_known_action(output(x.long(), (-2,)), BATCH)
    assert has_a_known_action(output(x.long(), (-2,), Role(Kind.TOKENS)), BATCH)
    unknown = Output(0, "y", x, layout=Layout((-2,)), is_unknown=True)
    assert not has_a_known_action(unknown, BATCH)
    fewer = zeros(3, 4, 4)
    assert has_a_known_action(output(fewer, (-2,)), BATCH)  # some of the tokens, as a set
    assert not has_a_known_action(output(fewer, (-2, -1)), BATCH)
    assert not has_a_known_action(output(zeros(4, 4), (-2,)), RAGGED)
    assert has_a_known_action(output(zeros(3, 4), edges=(-2,)), GRAPH)
    assert not has_a_known_action(output(zeros(2, 4), edges=(-2,)), GRAPH)


def test_rows_that_may_be_a_set():
    assert _row_dim(output(zeros(3, 4, 2), (-2,), sets=-3), BATCH) == -2
    assert _row_dim(output(zeros(3, 4, 2), sets=-3), BATCH) == -2
    assert _row_dim(output(zeros(3, 7, 2), (-2,), sets=-3), BATCH) is None
    assert _row_dim(output(zeros(3, 1, 2), sets=-3), BATCH) is None
    assert _row_dim(output(zeros(3, 2), sets=-2), BATCH) is None
    assert _row_dim(output(zeros(4)), ONE) is None
    assert _row_dim(output(zeros(4, 2).long()), ONE) is None
    assert _row_dim(output(zeros(4, 2), role=Role(Kind.TOKENS)), ONE) is None
    assert _row_dim(output(zeros(4, 2, dtype=torch.complex64)), ONE) is None
    assert _row_dim(output(zeros(4, 2)), ONE) == -2


@pytest.mark.parametrize(
    ("shape", "tokens", "rows", "expected"),
    [
        ((7, 2), (), None, [Invariant()]),
        ((7, 2), (-2,), None, [Permute(-2), Invariant()]),
        ((7, 7), (-2, -1), None, [Conjugate((-2, -1)), Invariant()]),
        ((4, 2), (-2,), -2, [Invariant(), AsSet(-2)]),
        ((21, 2), (-2,), None, [PermutePart(-2, 7, 0, 3), Invariant()]),
        ((8, 2), (-2,), None, [PermutePart(-2, 7, 1), PermutePart(-2, 7, 0), Invariant()]),
        (
            (9, 2), (-2,), None,
            [PermutePart(-2, 7, 2), PermutePart(-2, 7, 0), PermutePart(-2, 7, 1), Invariant()],
        ),
        ((15, 2), (-2,), None, [PermutePart(-2, 7, 8), PermutePart(-2, 7, 0), Invariant()]),
    ],
)  # fmt: skip
def test_actions_that_a_shape_allows(shape, tokens, rows, expected):
    assert _candidates(zeros(shape), Layout(tokens), 7, rows) == expected


def test_parts_of_layouts():
    y = torch.arange(12).view(6, 2)
    assert Layout((-2,), before=1).of_tokens(y, tensor([0, 3]))[:, 0].tolist() == [2, 8]
    assert Layout((-2,), width=2).of_tokens(y, tensor([0, 2]))[:, 0].tolist() == [0, 2, 8, 10]
    assert Layout().of_tokens(y, tensor([0])) is y
    first, second = of_sets([y, y], [Layout(sets=-2), Layout()], 1)
    assert (first.tolist(), second is y) == ([[2, 3]], True)
    found = usual_layouts([zeros(3, 7, 4), zeros(3, 4), zeros(())], torch.Size([3, 7]))
    assert found == [Layout((-2,), sets=-3), Layout(sets=-2), Layout()]
    assert usual_layouts([zeros(7, 4)], torch.Size([7])) == [Layout((-2,))]


# Noise.


def test_noise_beside_an_intervention():
    inner = SimpleNamespace(
        apply=lambda inputs: tuple(2 * x for x in inputs), expected=lambda ys: ("e", ys),
        compared=lambda ys: ("c", ys), sizes=lambda ys: ("s", ys), can_be_followed="maybe",
        alignments=lambda before, after: [(before, after)],
    )  # fmt: skip
    beside = _Beside(inner)
    assert beside.apply((1, 2, Noise(3))) == (2, 4, Noise(3))
    assert (beside.expected(1), beside.compared(1), beside.sizes(1)) == (
        ("e", 1),
        ("c", 1),
        ("s", 1),
    )
    assert beside.can_be_followed == "maybe"
    assert beside.alignments(1, 2) == [(1, 2)]
    perm = tensor([1, 0])
    swap = PermutationIntervention(perm, (Permute(0),), (Permute(0),))
    x = tensor([1.0, 2.0])
    moved, noise = with_noise(swap, moved=True).apply((x, Noise(3)))
    assert (moved.tolist(), noise) == ([2, 1], Noise(3, (1, 0)))
    assert with_noise(swap, moved=False).apply((x, Noise(3)))[1] == Noise(3)
    assert isinstance(with_noise(inner, moved=True), _Beside)


def test_p_values():
    generator = torch.Generator().manual_seed(0)
    same = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    assert _permutation_test(same, 0) > 0.01
    shifted = same.clone()
    shifted[20:, 1] += 3
    assert _permutation_test(shifted, 0) == pytest.approx(2e-4)  # the least, twice
    wider = same.clone()
    wider[20:] *= 8
    assert _permutation_test(wider, 0) < 0.01
    assert _permutation_test(torch.ones(40, 3), 0) == 1.0


def test_rounding_of_parameters_is_by_one_epsilon_up_or_down():
    like = torch.full((1000,), 3.0, dtype=torch.float64)
    factors = _factors(like, 1e-3, torch.Generator().manual_seed(0))
    assert sorted(set(factors.tolist())) == [1 - 1e-3, 1 + 1e-3]
    assert 400 < (factors > 1).sum() < 600


def test_rotations_in_a_plane():
    assert rotation_in_plane(2, 0, 1, 180).tolist() == [[-1.0, -0.0], [0.0, -1.0]]
    turned = rotation_in_plane(3, 1, 2, 30)
    expected = [[1, 0, 0], [0, math.cos(math.pi / 6), -0.5], [0, 0.5, math.cos(math.pi / 6)]]
    torch.testing.assert_close(turned, tensor(expected, dtype=torch.float64))
    for parity in (1, -1):
        q = random_orthogonal(3, torch.Generator().manual_seed(0), parity)
        torch.testing.assert_close(q @ q.T, torch.eye(3, dtype=torch.float64))
        assert torch.linalg.det(q) == pytest.approx(parity)


# Representations, graphs to draw, and what is compared.


@pytest.mark.parametrize(
    ("kind", "shape", "fits"),
    [
        ("scalar", (3, 4), True),
        ("other", (), True),
        ("pseudoscalar", (3, 4), True),
        ("vector", (4, 3), True),
        ("vector", (4, 6), True),
        ("vector", (4, 4), False),
        ("vector", (4, 0), False),
        ("vector", (), False),
        ("vector", (3,), True),
        ("vector:-2", (3, 5), True),
        ("vector:-2", (5, 3), False),
        ("vector:-2", (3,), False),
        ("matrix", (5, 3, 3), True),
        ("matrix", (3, 3), True),
        ("matrix", (3,), False),
        ("matrix", (6, 6), False),
        ("matrix", (4, 3), False),
    ],
)
def test_tensors_that_may_be_of_a_kind(kind, shape, fits):
    assert Representation.parse("roles['v']", kind).fits(zeros(shape), 3) is fits


def test_integers_are_no_vectors():
    assert not Representation("vector").fits(zeros(4, 3).long(), 3)
    assert Representation("scalar").fits(zeros(4, 3).long(), 3)
    assert [Representation(name).is_still for name in ("scalar", "vector")] == [True, False]
    assert [Representation(name).has_parity for name in ("pseudovector", "vector")] == [True, False]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (3, TypeError, "roles['v'] must be a string such as 'vector', got 3"),
        ("vectr", ValueError, "did you mean vector"),
        ("vector:2", ValueError, "roles['v'] must end in a dimension such as ':-2'"),
        ("vector:-2,-1", ValueError, "roles['v'] must end in a dimension such as ':-2'"),
        ("eigenvectors:2,0", ValueError, "must list sizes of eigenspaces"),
        ("eigenvectors:a", ValueError, "must list sizes of eigenspaces"),
    ],
)
def test_what_is_no_representation(text, error, message):
    with pytest.raises(error, match=re.escape(message)):
        Representation.parse("roles['v']", text)


def test_representations_as_texts():
    for text in ("vector", "vector:-2", "eigenvectors:2,1,3", "points"):
        assert str(Representation.parse("x", text)) == text
    assert Representation.parse("x", " vector : -3 ") == Representation("vector", -3)
    assert Representation.parse("x", "eigenvectors:2,1").sizes == (2, 1)


@pytest.mark.parametrize(
    ("n", "skips", "steps"), [(10, [3], [1, 2]), (14, [3, 5], [1]), (26, [3, 5, 7, 9, 11], [1, 5])]
)
def test_families_of_symmetric_graphs(n, skips, steps, monkeypatch):
    """Generalized Petersen graphs (k, s) have all nodes alike where s * s is 1 or -1 modulo k."""
    offered, real = [], strategies.st.sampled_from
    monkeypatch.setattr(
        strategies.st, "sampled_from", lambda values: offered.append(list(values)) or real(values)
    )
    strategies._symmetric.__wrapped__(n)
    assert offered == [skips, steps]


def test_tensors_that_are_the_same():
    x = tensor([1.0, 2.0])
    assert _same(x, x.clone())
    assert not _same(x, x + 1e-12 + 1e-6)
    assert not _same(x, x[None])
    assert _close(x.double(), x.double() + 1e-13)
    assert not _close(x.double(), x.double() + 1e-6)
    assert not _close(x, x[None])
    assert _close(tensor([1]), tensor([1]))
    assert not _close(tensor([1]), tensor([2]))
    assert _close(tensor([torch.nan]), tensor([torch.nan]))


def test_what_a_function_of_torch_was_handed():
    mask = torch.ones(3, 3).tril().bool()

    def handed(given, is_sdpa=True):
        layers = _Layers(None, mask)
        layers._compare(given, mask, is_sdpa)
        return layers.handed

    assert handed(mask) == {VISIBLE}
    assert handed(~mask) == {HIDDEN}
    assert handed(mask.T) == {"another mask"}
    assert handed(~mask, is_sdpa=False) == {VISIBLE}
    assert handed(mask.expand(2, 4, 3, 3)) == {VISIBLE}
    assert handed(torch.where(mask, 0.0, -torch.inf)) == {VISIBLE}
    assert handed(torch.ones(4, 4).bool()) == set()
    layers = _Layers(Causal(3))
    layers.record(None, (Tokens(zeros(3, 1), Causal(3)),), {})
    assert (layers.mixers, layers.on_graph) == (1, True)
    layers.record(None, (Tokens(zeros(3, 1)),), {})
    assert (layers.mixers, layers.on_graph) == (2, False)
    other = _Layers(Causal(3))
    other.record(None, (Tokens(zeros(3, 1), Causal(3)),), {"source": zeros(2, 1)})
    assert not other.on_graph
