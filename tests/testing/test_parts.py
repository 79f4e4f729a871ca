"""The standard form of examples, and smaller examples made of them, by hand."""

import re

import pytest
import torch
from torch import tensor
from torch.nn.utils.rnn import pack_sequence

from tokennet import Cycle, Tokens
from tokennet.testing.example.forms import (
    Form,
    Leaf,
    Slot,
    bounds_of,
    contained,
    flat_sets,
    leaves_of,
    members_of,
)
from tokennet.testing.example.parts import (
    beyond_zero,
    keep_edges,
    keep_tokens,
    last_token_isolated,
    one_set,
    one_set_less,
    one_token_less,
    rows,
    with_more_padding,
    without_neighbors,
)
from tokennet.testing.example.reading import read_example
from tokennet.testing.example.roles import Kind, Role, counted_from_end, parse_role, parse_roles
from tokennet.testing.example.values import cast, describe, map_tensors, named_tensors_of

X = torch.arange(24.0).view(2, 4, 3)
LIST = torch.arange(15.0).view(5, 3)


def example_of(*values, **roles):
    """An example with the names of the arguments, first x."""
    names = list(roles)
    said = {name: role for name, role in roles.items() if role}
    return read_example(values, names, said).example


def lists(inputs):
    return [x.tolist() for x in inputs[1:]]


# Where sets begin, and containers of sets.


@pytest.mark.parametrize(
    ("kind", "expected"), [("lengths", [2, 0, 1]), ("ptr", [0, 2, 2, 3]), ("starts", [0, 2, 2])]
)
def test_bounds_and_members(kind, expected):
    members = tensor([0, 0, 2], dtype=torch.int32)
    bounds = bounds_of(members, kind)
    assert (bounds.tolist(), bounds.dtype) == (expected, torch.int32)
    back = members_of(bounds, kind, 3)
    assert (back.tolist(), back.dtype) == ([0, 0, 2], torch.int32)


@pytest.mark.parametrize(
    ("slot", "standard", "own"),
    [
        (Slot((0,)), (2, 4, 6), (2, 4, 6)),
        (Slot((0,), features=(2, 3)), (2, 4, 6), (2, 4, 2, 3)),
        (Slot((0,), tokens=(2, 2), features=(6,)), (2, 4, 6), (2, 2, 2, 6)),
        (Slot((0,), tokens=(2, 2)), (3, 4), (3, 2, 2)),
        (Slot((0,), tokens=(2, 2), features=(2, 3)), (2, 4, 6), (2, 2, 2, 2, 3)),
        (Slot((0,), order=(1, 0, 2)), (2, 4, 6), (4, 2, 6)),
        (Slot((0,), order=(2, 0, 1)), (2, 4, 6), (6, 2, 4)),
        (Slot((0,), ones=(1, 2)), (2, 4), (2, 1, 1, 4)),
        (Slot((0,), merged=True), (2, 3, 4, 4), (6, 4, 4)),
        (Slot((0,), order=(2, 0, 1), tokens=(2, 2), ones=(0,)), (3, 4), (1, 2, 3, 2)),
        (Slot((0,), (0, 3, 1, 2), (2, 2), (6,)), (3, 4, 6), (3, 6, 2, 2)),
    ],
)
def test_a_slot_makes_the_form_of_the_model_and_back(slot, standard, own):
    value = torch.randn(standard)
    made = slot.own(value)
    assert made.shape == own
    torch.testing.assert_close(slot.standard(made, num_heads=3), value)


def test_plain_slots():
    assert Slot((0,)).is_plain
    assert Slot(("x",), at=3).is_plain
    assert not Slot((0, "x")).is_plain
    assert not Slot((0,), ones=(1,)).is_plain
    assert Slot((0,), bounds="ptr").own(tensor([0, 0, 1])).tolist() == [0, 2, 3]
    assert Slot((0,), bounds="ptr").standard(tensor([0, 2, 3]), 1, 3).tolist() == [0, 0, 1]
    assert Slot((0,), ones=(0,)).own("text") == "text"


def test_containers():
    sets = [torch.ones(1, 2), torch.zeros(2, 2)]
    assert contained("list", sets) is sets
    assert contained("tuple", sets) == tuple(sets)
    assert contained("packed", sets).batch_sizes.tolist() == [2, 1]
    assert contained("jagged", sets).layout == torch.jagged
    assert contained("strided", sets).layout == torch.strided


ONE, TWO = torch.ones(1, 2), torch.zeros(2, 2)


def test_outputs_of_a_tensor_for_each_set():
    sizes = [1, 2]
    joined = [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
    for given in ([ONE, TWO], (ONE, TWO), pack_sequence([TWO, ONE])):
        found = flat_sets(given, sizes if isinstance(given, list | tuple) else [2, 1])
        assert sorted(found.tolist(), reverse=True) == joined
    nested = torch.nested.as_nested_tensor([ONE, TWO])
    assert flat_sets(nested, sizes).tolist() == joined
    assert flat_sets(ONE, sizes) is ONE
    assert flat_sets("text", sizes) == "text"
    assert flat_sets({"a": [ONE, TWO]}, sizes)["a"].tolist() == joined
    assert flat_sets([{"a": ONE, "b": ONE}, {"a": TWO, "b": TWO}], sizes)["b"].tolist() == joined
    assert flat_sets([(ONE, ONE), (TWO, TWO)], sizes)[1].tolist() == joined
    unlike = flat_sets([{"a": ONE}, {"b": TWO}], sizes)
    assert [list(part) for part in unlike] == [["a"], ["b"]]


def test_pairs_of_each_set_become_blocks():
    found = flat_sets([torch.full((1, 1), 5.0), torch.full((2, 2), 7.0)], [1, 2])
    assert found.tolist() == [[5.0, 0, 0], [0, 7.0, 7.0], [0, 7.0, 7.0]]
    heads = flat_sets([torch.ones(1, 1, 4), torch.ones(2, 2, 4)], [1, 2])
    assert heads.shape == (3, 3, 4)


def test_one_entry_a_set_is_stacked_of_lists_alone():
    parts = [torch.zeros(3), torch.ones(3)]
    assert flat_sets(parts, [1, 2]).shape == (2, 3)
    assert [part.shape for part in flat_sets(tuple(parts), [1, 2])] == [(3,), (3,)]
    assert [part.shape for part in flat_sets([*parts, ONE], [1, 2])] == [(3,), (3,), (1, 2)]


def test_sizes_that_follow_the_sets_in_another_way_are_refused():
    message = r"one tensor a set, of shapes \[\(2,\), \(4,\)\], which follow the sets of \[1, 2\]"
    with pytest.raises(ValueError, match=message):
        flat_sets([torch.ones(2), torch.ones(4)], [1, 2])
    kept = flat_sets([torch.ones(2), torch.ones(4)], [2, 2])
    assert [part.shape for part in kept] == [(2,), (4,)]


# The parts of an example.


def named(leaves):
    return [(leaf.name, leaf.path, leaf.ragged) for leaf in leaves]


def test_parts_of_calls():
    assert named(leaves_of(X, ["z"])) == [("z", (0,), "")]
    assert named(leaves_of((X, 3), ["z"])) == [("z", (0,), ""), ("1", (1,), "")]
    assert named(leaves_of({"a": X, "b": None}, ["a"])) == [("a", ("a",), "")]
    inside = {"x": {"u": X, ("u", "to", "v"): X}}
    assert named(leaves_of(inside, ["x"])) == [
        ("x.u", ("x", "u"), ""), ("x.u,to,v", ("x", ("u", "to", "v")), ""),
    ]  # fmt: skip
    assert named(leaves_of(((X, X),), ["x"])) == [("x.0", (0, 0), ""), ("x.1", (0, 1), "")]


def test_parts_that_hold_sets():
    sets = [LIST[:2], LIST[2:]]
    found = leaves_of([sets], ["x"])
    assert named(found) == [("x", (0,), "list"), ("sets of x", ("sets", 0), "")]
    assert found[1].value.tolist() == [0, 0, 1, 1, 1]
    torch.testing.assert_close(found[0].value, LIST)
    assert leaves_of(sets, ["x"])[0].ragged == "list"  # more than the arguments
    assert leaves_of(sets, ["x", "y"])[0].ragged == ""
    assert leaves_of(sets, ["x"], takes_any_number=True)[0].ragged == ""
    assert leaves_of([tuple(sets)], ["x"])[0].ragged == "tuple"
    same = (LIST[:2], LIST[2:4])
    assert named(leaves_of([same], ["x"]))[0] == ("x.0", (0, 0), "")
    assert leaves_of([list(same)], ["x"])[0].ragged == "list"
    edges = tensor([[0, 1], [1, 0]])
    assert named(leaves_of((tuple(sets), edges), ["x", "e"]))[0] == ("x.0", (0, 0), "")
    assert leaves_of(pack_sequence(sets, False), ["x"])[0].ragged == "packed"
    assert leaves_of(torch.nested.as_nested_tensor(sets), ["x"])[0].ragged == "strided"
    other_width = [LIST[:2], LIST[2:, :2]]
    assert leaves_of([other_width], ["x"])[0].ragged == ""
    ids = [tensor([1, 2]), tensor([3])]
    assert leaves_of([ids], ["x"])[0].ragged == "list"


def test_a_form_calls_the_model_with_its_own_inputs():
    seen = []

    def model(*args, **kwargs):
        seen.append((args, kwargs))
        return args[0]

    slots = [Slot((0,), ragged="list"), Slot(("sets", 0)), Slot(("flag",), at=1)]
    slots += [Slot((1, "b"), at=3), Slot((1, "a"), at=2)]
    out = Form(model, tuple(slots))(LIST, tensor([0, 0, 1, 1, 1]), 7, "b", "a")
    ((sets, options), named_ones) = seen[0]
    assert [part.shape for part in sets] == [(2, 3), (3, 3)]
    assert (list(options.items()), named_ones) == ([("a", "a"), ("b", "b")], {"flag": 7})
    torch.testing.assert_close(out, LIST)


# Smaller examples.


def test_fewer_tokens():
    mask = tensor([[True, True, True, False], [True, True, False, False]])
    pairs = torch.arange(32).view(2, 4, 4)
    given = (X, mask, pairs, tensor([3, 4]), tensor([4, 2]))
    example = example_of(*given, x="", mask="", pairs="pairs", y="per_set", size="lengths")
    x, *others = keep_tokens(example, tensor([0, 2, 3]))
    torch.testing.assert_close(x, X[:, [0, 2, 3]])
    assert [x.tolist() for x in others] == [
        [[True, True, False], [True, False, False]],
        [[[0, 2, 3], [8, 10, 11], [12, 14, 15]], [[16, 18, 19], [24, 26, 27], [28, 30, 31]]],
        [3, 4],
        [3, 1],  # of the tokens 0, 2 and 3
    ]
    assert one_token_less(example)[0].shape == (2, 3, 3)
    assert lists(one_set_less(example))[2:] == [[3], [4]]
    assert lists(rows(example, slice(1, 2)))[2:] == [[4], [2]]


EDGES = tensor([[0, 1, 2, 3, 4], [1, 2, 0, 4, 3]])
MEMBERS = tensor([0, 0, 0, 1, 1])


def test_fewer_tokens_and_edges_of_graphs():
    weight, y = torch.arange(5.0), tensor([8, 9])
    given = (LIST, EDGES, weight, y, MEMBERS)
    example = example_of(*given, x="", edge_index="", edge_weight="", y="", batch="")
    assert lists(keep_tokens(example, tensor([1, 2, 3]))) == [[[0], [1]], [1.0], [8, 9], [0, 0, 1]]
    assert lists(keep_edges(example, tensor([0, 1, 0, 0, 1]).bool()))[:2] == [
        [[1, 4], [2, 3]],
        [1, 4],
    ]
    torch.testing.assert_close(one_token_less(example)[0], LIST[[0, 1, 3, 4]])
    assert lists(one_set_less(example)) == [
        [[0, 1, 2], [1, 2, 0]], [0, 1, 2], [8], [0, 0, 0],
    ]  # fmt: skip
    assert lists(one_set(example, 1)) == [[[0, 1], [1, 0]], [3, 4], [9], [0, 0]]
    without, none = without_neighbors(example)
    assert lists(without)[0] == [[1, 2, 3, 4], [2, 0, 4, 3]]
    assert lists(none)[0] == [[], []]
    assert lists(last_token_isolated(example))[:2] == [[[0, 1, 2], [1, 2, 0]], [0, 1, 2]]


def test_the_last_token_of_a_ragged_batch_without_edges():
    example = example_of(LIST, MEMBERS, x="", batch="")
    assert last_token_isolated(example) is None
    ((x, members),) = without_neighbors(example)
    assert members.tolist() == [1, 1, 1, 2, 2]
    assert x is LIST
    assert lists(one_token_less(example)) == [[0, 0, 1, 1]]
    per_set = example_of(LIST, tensor([8, 9]), MEMBERS, x="", y="per_set", batch="")
    assert lists(without_neighbors(per_set)[0]) == [[8, 8, 9], [1, 1, 1, 2, 2]]


def test_a_set_of_padding_alone():
    keep = tensor([[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    for role, mask, hidden in (
        ("padding:True=keep", keep.bool(), False), ("padding:True=pad", keep.bool(), True),
        ("padding", (1 - keep) * -1e9, -1e9), ("lengths", tensor([3, 2]), 0),
    ):  # fmt: skip
        example = example_of(X, mask, x="", mask=role)
        ((_, empty),) = without_neighbors(example)
        assert (empty[0] == hidden).all()
        assert torch.equal(empty[1], mask[1])
        x, longer = with_more_padding(example)
        torch.testing.assert_close(x, X[:, [0, 1, 2, 3, 0, 1]])
        if role == "lengths":
            assert torch.equal(longer, mask)
        else:
            assert longer.shape == (2, 6)
            assert torch.equal(longer[:, :4], mask)
            assert (longer[:, 4:] == hidden).all()


def test_no_entry_of_an_adjacency():
    adjacency = torch.ones(4, 4)
    one, none = without_neighbors(example_of(X[0], adjacency, x="", adj=""))
    assert one[1].tolist() == [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1]]
    assert none[1].sum() == 0
    assert without_neighbors(example_of(X[0], x="")) == []


def test_features_of_one_sign():
    (x,) = beyond_zero(example_of(X - 12, x=""))
    assert ((x > 0).all((0, 1)) | (x < 0).all((0, 1))).all()
    assert (x[..., 0] < 0).all()
    assert beyond_zero(example_of(tensor([[1, 2], [3, 4]]), x="")) is None


def test_smaller_tokens():
    tokens = Tokens.batch([Tokens(LIST[:2], Cycle(2)), Tokens(LIST[2:], Cycle(3, 1))])
    example = read_example(tokens, ["t"], {}).example
    (less,) = one_token_less(example)
    assert list(less.graph.sizes) == [2, 2]
    (first,) = one_set_less(example)
    torch.testing.assert_close(first.z, LIST[:2])
    torch.testing.assert_close(one_set(example, 1)[0].z, LIST[2:])
    dense = Tokens(X, Cycle(4), torch.arange(8.0).view(2, 4, 1))
    batch = read_example(dense, ["t"], {}).example
    (row,) = rows(batch, slice(1, 2))
    assert (row.z.shape, row.pos.flatten().tolist()) == ((1, 4, 3), [4, 5, 6, 7])


# Roles and values.


@pytest.mark.parametrize(
    ("text", "role"),
    [
        ("tokens", Role(Kind.TOKENS)),
        ("tokens:-2,-1", Role(Kind.TOKENS, (-2, -1))),
        (" tokens : -2 , -1 : image ", Role(Kind.TOKENS, (-2, -1), ("image",))),
        ("padding:True=pad", Role(Kind.PADDING, keeps=False)),
        ("pairs:True=hide", Role(Kind.PAIRS, keeps=False)),
        ("pairs:-3,-2:a,b:True=keep", Role(Kind.PAIRS, (-3, -2), ("a", "b"), True)),
        ("per_set:0", Role(Kind.PER_SET, (0,))),
    ],
)
def test_roles_as_texts(text, role):
    assert parse_role("x", text) == role
    assert parse_role("x", str(role)) == role


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("positions:-2,-1", "roles['x']: positions has one dimension, got"),
        ("pairs:-2", "roles['x']: pairs has two dimensions, got"),
        ("padding:-1", "roles['x']: padding has no dimensions, got"),
        ("tokens:1,2,3,4", "roles['x']: tokens has one or more dimensions, got"),
        ("tokens:True=keep", "roles['x']: only padding and pairs say what True is"),
        ("padding:True=hide", "roles['x'] must be one of True=keep, True=pad"),
        ("other:x", "roles['x']: 'x' is no part of other"),
        ("per_set:x", "roles['x']: 'x' is no part of per_set"),
        ("tokens::-1", "roles['x']: '' is no part of tokens"),
        ("scalar", "roles['x'] must be one of tokens, positions"),
    ],
)
def test_what_is_no_role(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_role("x", text)


def test_roles_of_many():
    assert parse_roles(None) == {}
    assert parse_roles({0: "tokens"}) == {"0": Role(Kind.TOKENS)}
    with pytest.raises(TypeError, match="roles must be a dict"):
        parse_roles(["tokens"])
    with pytest.raises(TypeError, match=r"roles\['x'\] must be a string"):
        parse_roles({"x": 3})
    assert counted_from_end("x", (0, -1, 2), 3) == (-3, -1, -1)
    for dim in (3, -4):
        with pytest.raises(ValueError, match=f"x: there is no dimension {dim} in 3 dimensions"):
            counted_from_end("x", (dim,), 3)


def test_copies_in_another_type():
    given = {"a": X, "b": (tensor([1]), tensor([1j])), "c": "text"}
    found = cast(given, torch.float64)
    assert found["a"].dtype == torch.float64
    assert [x.dtype for x in found["b"]] == [torch.int64, torch.complex128]
    assert found["c"] == "text"
    assert cast(tensor([1j]), torch.float32).dtype == torch.complex64
    assert cast(tensor([1j]), torch.bfloat16).dtype == torch.complex64  # as it was
    same = cast(X, torch.float32)
    assert same is not X
    assert same.data_ptr() != X.data_ptr()


def test_tensors_of_nests():
    nested = {"states": (ONE, [TWO]), "n": 3, ("a", 1): ONE}
    assert [name for name, _ in named_tensors_of(nested)] == ["states.0", "states.1.0", "a,1"]
    assert [name for name, _ in named_tensors_of(ONE)] == ["0"]
    assert [name for name, _ in named_tensors_of({"t": Tokens(ONE)})] == ["t"]
    assert [name for name, _ in named_tensors_of(Tokens(ONE))] == ["z"]
    with pytest.raises(TypeError, match="must return tensors, Tokens or Data, got str"):
        named_tensors_of("text")
    doubled = map_tensors(lambda x: 2 * x, [ONE, (TWO, "text"), {"k": ONE}])
    assert doubled[2]["k"].tolist() == [[2.0, 2.0]]
    assert isinstance(doubled[1], tuple)
    assert doubled[1][1] == "text"


def test_descriptions():
    assert describe((X, {"a": ONE, "b": 3}, "text", None)) == (
        "(tensor (2, 4, 3), {a: tensor (1, 2), b: 3}, 'text', None)"
    )
    assert describe(torch.nested.as_nested_tensor([ONE, TWO])) == "nested tensor of 2 sets"
    assert describe(pack_sequence([TWO, ONE])) == "packed sequence of 2 sets"
    assert describe(X.numpy()) == "ndarray (2, 4, 3)"
    assert describe(Leaf) == "type"
