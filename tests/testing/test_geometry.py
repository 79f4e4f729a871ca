"""Rotations, reflections, translations, scale, signs of eigenvectors and shifts of grids."""

import pytest
import torch
from torch import nn
from torch_geometric.data import Data

from tests.testing.cases import space
from tokennet.graphs import Full
from tokennet.testing import check, parametrize_with_checks
from tokennet.testing.diagnose.localize import UNWRITTEN
from tokennet.testing.geometry import check_group, discover_geometry, laws_of_group
from tokennet.testing.geometry.motions import bases, random_orthogonal
from tokennet.testing.geometry.representations import Representation
from tokennet.tokens import Tokens


def points(*lead, seed=0):
    return torch.randn(*lead, 3, generator=torch.Generator().manual_seed(seed))


def molecules():
    return {
        "z": torch.tensor([0, 1, 2, 1, 4, 3, 0]),
        "pos": points(7),
        "batch": torch.tensor([0, 0, 0, 0, 1, 1, 1]),
    }


def verdicts(report):
    return {law: str(found.verdict) for law, found in report.reports.items()}


def broken_line(report, law):
    location = report.reports[law].location
    assert location is not None, report.reports[law].notes
    return location.source + " # the break" * ("# the break" in line_of(location))


def line_of(location):
    with open(location.file) as file:
        return file.read().splitlines()[location.line - 1]


def wide(pos, vel):
    """Points, a pseudovector, a matrix, a pseudoscalar and a scalar."""
    centered = pos - pos.mean(-2, keepdim=True)
    spin = torch.linalg.cross(centered, vel)
    volume = torch.linalg.cross(centered, vel.roll(1, -2)).mul(vel).sum(-1)
    return pos + vel, spin, vel[..., None] * vel[..., None, :], volume, vel.norm(dim=-1)


PASSING = {
    "points": (space.Points(), points(2, 5), "E(3)"),
    "far from the origin": (space.Points(), points(5) + 1e4, "E(3)"),
    "vectors": (space.Points("vectors"), points(5), "E(3)"),
    "features": (space.Points("features"), points(2, 5), "E(3)"),
    "two coordinates": (space.Points(), torch.randn(5, 2), "E(2)"),
    "of tokens": (space.OfTokens(), Tokens(torch.randn(5, 4), Full(5), pos=points(5)), "SE(3)"),
    "molecules": (space.Energy(), molecules(), "E(3)"),
    "molecules by index": (space.Energy(), tuple(molecules().values()), "E(3)"),
    "molecules as Data": (space.Energy(), Data(**molecules()), "E(3)"),
    "one Data": (space.sizes_of, Data(pos=points(6)), "E(3)"),
    "all kinds": (wide, (points(5), points(5, seed=1)), "E(3)"),
    "handed": (space.Handed(), points(6), "SE(3)"),
    "directions": (lambda pos: nn.functional.normalize(pos, dim=-1), points(5), "scale"),
    "homogeneous": (lambda pos: pos * pos.norm(dim=-1, keepdim=True) / pos.norm(), points(5),
                    "scale"),
    "signs": (space.SignNet(), torch.randn(6, 3), "signs"),
    "bases": (space.projectors, (torch.randn(6, 4), torch.tensor([0.0, 1, 1, 2])), "bases"),
    "circular": (space.Images(), torch.randn(2, 3, 16, 16), "circular_shifts"),
    "interior": (space.Images("zeros"), torch.randn(2, 3, 16, 16), "shifts"),
    "unpadded": (nn.Conv1d(2, 4, 3), torch.randn(2, 2, 16), "shifts"),
    "channels last": (nn.TransformerEncoderLayer(8, 2, batch_first=True), torch.randn(2, 9, 8),
                      "circular_shifts"),
    "a ring": (lambda x: x + x.roll(1, -2), torch.randn(6, 2), "C_n"),
}  # fmt: skip


SLOW = {"molecules by index", "molecules as Data", "features", "two coordinates", "homogeneous"}
SLOW |= {"unpadded", "channels last", "handed"}


def marked(names, slow):
    return [pytest.param(name, marks=pytest.mark.sweep if name in slow else ()) for name in names]


@pytest.mark.parametrize("name", marked(PASSING, SLOW))
def test_models_that_obey(name):
    vectors = {"all kinds": {"vel": "vector"}}
    model, example, group = PASSING[name]
    report = check(model, example, group=group, roles=vectors.get(name))
    assert set(verdicts(report).values()) == {"PASS"}, report


@pytest.mark.parametrize(
    ("model", "example", "group", "laws", "words"),
    [
        (space.Stretched(), points(2, 5), "E(3)", {"rotations", "reflections"}, "90 degrees about"),
        (space.Manhattan(), points(5), "SE(3)", {"rotations"}, "45 degrees about z"),
        (space.Handed(), points(6), "E(3)", {"reflections"}, "sign of x"),
        (space.Anchored(1e-8), points(5), "E(3)", {"translations"}, "moving by 1 along x"),
        (space.Drifting(), points(5), "translations", {"translations"}, "moving by 1 along x"),
        (space.PerComponent(), points(5), "SO(3)", {"rotations"}, ""),
        (space.Energy(0.1), molecules(), "SO(3)", {"rotations"}, ""),
        (space.Normalized(), points(6), "SO(3)", {"rotations"}, "90 degrees about z"),
        (space.SignNet(False), torch.randn(6, 3), "signs", {"signs"}, "sign of eigenvector"),
        (space.Images("circular", True), torch.randn(1, 3, 16, 16), "circular_shifts",
         {"circular_shifts"}, "shifting by 2 along dimension -2"),
        (space.Images("zeros", True), torch.randn(1, 3, 16, 16), "shifts", {"shifts"},
         "shifting by 2 along dimension -2"),
    ],
)  # fmt: skip
def test_breaks_are_found_and_localized(model, example, group, laws, words):
    report = check(model, example, group=group)
    assert set(report.broken) == laws, report
    law = next(law for law in report.reports if law in laws)
    assert "# the break" in broken_line(report, law)
    assert words in str(report.reports[law].counterexample)


def test_a_zero_padded_convolution_breaks_circular_shifts_in_its_own_layer():
    report = check(space.Images("zeros"), torch.randn(2, 3, 16, 16), group="circular_shifts")
    assert report.broken == ("circular_shifts",)
    assert report.reports["circular_shifts"].location.module == "first (Conv2d)"


def test_a_stride_breaks_invariance_under_shifts_by_one():
    model = nn.Sequential(space.Images(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    report = check(model, torch.randn(1, 3, 16, 16), group="circular_shifts")
    assert report.broken == ("circular_shifts",)
    location = report.reports["circular_shifts"].location
    assert location.module == "0.second (Conv2d)"
    assert location.operation not in UNWRITTEN


STRIDES = {
    "two": (nn.Conv2d(3, 4, 3, 2, 1, padding_mode="circular"), (1, 3, 8, 8), "multiples of 2 are"),
    "pooled by two": (nn.MaxPool2d(2), (1, 3, 16, 16), "multiples of 2 are"),
    "series": (nn.Conv1d(3, 4, 3, 3, 1, padding_mode="circular"), (1, 3, 12), "multiples of 3 are"),
    "one side": (nn.MaxPool2d((1, 2)), (1, 3, 8, 16), "multiples of 2 along dimension -1 are"),
    "none": (nn.Conv2d(3, 4, 3, 1, 1, padding_mode="circular"), (1, 3, 8, 8), ""),
    "all pooled": (nn.AdaptiveAvgPool2d(1), (1, 3, 8, 8), ""),
}  # fmt: skip


@pytest.mark.parametrize("name", STRIDES)
def test_a_coarser_output_says_which_shifts_are_asked(name):
    model, shape, told = STRIDES[name]
    report = check(model, torch.randn(shape), group="circular_shifts")
    notes = [n for n in report.reports["circular_shifts"].notes if n.startswith("only shifts")]
    assert report.passed
    assert notes == [line.hint for line in report.reading if line.hint]
    assert told in "".join(notes)
    assert bool(notes) == bool(told)
    assert all(note in report.read_as for note in notes)


def test_shifts_without_an_interior_are_inconclusive():
    pooled = nn.Sequential(space.Images("zeros"), nn.AdaptiveAvgPool2d(1))
    for model in (pooled, nn.Sequential(nn.Conv2d(3, 3, 15, padding=7))):
        report = check(model, torch.randn(1, 3, 16, 16), group="shifts").reports["shifts"]
        assert report.verdict == "INCONCLUSIVE", report
    report = check(nn.Conv1d(2, 2, 3), torch.randn(1, 2, 16), group="circular_shifts")
    assert verdicts(report) == {"circular_shifts": "INCONCLUSIVE"}


def test_rounded_constants_are_said_and_a_break_of_their_size_is_found():
    report = check(space.StoredBasis(), points(6), group="SO(3)").reports["rotations"]
    assert report.dtype == "float32"
    assert any("constants" in note for note in report.notes)
    report = check(space.Normalized(), points(6), group="SO(3)").reports["rotations"]
    assert (report.dtype, str(report.verdict)) == ("float64", "BROKEN")
    assert report.error < 1e-6


def test_the_reading_is_said():
    report = check_group(wide, (points(5), points(5, seed=1)), "O(3)", roles={"vel": "vector"})
    read = report["rotations"].notes[0]
    assert read == (
        "read as pos: points, vel: vector -> 0: vector, 1: pseudovector, 2: matrix, "
        "3: pseudoscalar, 4: scalar"
    )
    report = check_group(space.Energy(), molecules(), "E(3)")
    assert report["rotations"].notes[0].endswith("-> energy: scalar, forces: vector")
    pointnet = nn.Conv1d(3, 4, 1)
    assert (
        "input: points:-2" in check_group(pointnet, points(2, 9).mT, "SO(3)")["rotations"].notes[0]
    )


def test_roles_decide_what_inputs_and_outputs_are():
    spin = lambda pos: torch.linalg.cross(pos, pos.roll(1, -2))  # noqa: E731
    assert not check(spin, points(5), group="O(3)").broken
    said = check(spin, points(5), group="O(3)", outputs={"0": "vector"})
    assert said.broken == ("reflections",)
    both = lambda a, b: a + b  # noqa: E731
    assert not check(
        both, (points(5), points(5)), group="E(3)", roles={"a": "points", "b": "vector"}
    ).broken
    held = check(both, (points(5), points(5)), group="O(3)", roles={"a": "points", "b": "scalar"})
    assert held.broken == ("rotations", "reflections")
    two = lambda pos: {"good": pos.norm(dim=-1), "bad": pos[..., 0]}  # noqa: E731
    assert not check(two, points(5), group="O(3)", outputs="good").broken
    assert check(two, points(5), group="O(3)").broken


@pytest.mark.parametrize(
    ("example", "options", "message"),
    [
        (torch.randn(6, 4), {}, "none may"),
        ((points(5), points(5)), {}, "a, b may"),
        (points(5), {"roles": {"b": "points"}}, "roles must be one of a"),
        (points(5), {"roles": {"a": "vectr"}}, "did you mean vector"),
        (points(5), {"roles": {"a": "vector:1"}}, "a dimension such as"),
        (points(5), {"outputs": {"1": "vector"}}, "outputs must be one of 0"),
        (torch.randn(5, 4), {"roles": {"a": "points"}}, "input a must"),
        (points(5), {"outputs": {"0": "other"}}, "at least one output"),
        (points(5), {"laws": ["scale"]}, "laws must be one of rotations"),
        (points(5), {"group": "SO3"}, r"did you mean SO\(3\)"),
        (points(5), {"group": "bases"}, "eigenvalues"),
        (points(5), {"group": "shifts", "outputs": "1"}, "outputs must be one of 0"),
        (points(5), {"group": "shifts", "roles": {"c": "grid:-1"}}, "roles must be one of a"),
        (points(5), {"group": "shifts", "roles": {"a": "grid:-9"}}, "as 'grid:-2,-1', got"),
        (points(5), {"group": "shifts", "roles": {"a": "grid:x"}}, "as 'grid:-2,-1', got"),
        (points(5), {"group": "shifts", "roles": {"a": "points"}}, "must be one of grid"),
        (points(5), {"group": "C_n", "roles": {"a": "points"}}, "must be one of tokens"),
        (points(5), {"group": "C_n", "laws": ["rotations"]}, "must be one of permutations"),
        (points(5), {"group": "C_n", "outputs": "1"}, "outputs must be one of 0"),
        (points(2), {"group": "A_n"}, "moves none of the 2 tokens"),
        (points(1), {"group": "C_n"}, "does not apply"),
        (points(5), {"group": [[0, 1, 2, 3, 4]]}, "got the identity"),
        (
            (points(2, 5), torch.tensor([5, 3])),
            {"group": "C_n", "roles": {"b": "lengths"}},
            "fixed by lengths",
        ),
        (points(5), {"causal": True}, "causal"),
    ],
)
def test_what_cannot_be_read_is_refused(example, options, message):
    with pytest.raises(ValueError, match=message):
        check(lambda a, b=None: a, example, **{"group": "E(3)", **options})


def test_permutation_groups_are_required_at_least():
    ring = PASSING["a ring"]
    assert check(ring[0], ring[1], group="S_n").broken == ("permutations",)
    assert check(ring[0], ring[1], group="D_n").broken == ("permutations",)
    assert not check(ring[0], ring[1], group=[[2, 3, 4, 5, 0, 1]]).broken
    assert not check(lambda x: x - x.mean(-2, keepdim=True), ring[1], group="A_n").broken


@pytest.mark.parametrize("group", ["E(3)", "circular_shifts", "S_n", None])
@pytest.mark.parametrize("options", [{"roles": ["a"]}, {"outputs": 5}])
def test_roles_and_outputs_of_another_type_are_refused(group, options):
    with pytest.raises(TypeError, match="roles must be a dict|outputs must be a"):
        check(lambda a: a, points(2, 5), group=group, **options)


def test_the_grid_and_the_outputs_of_shifts_are_chosen():
    def model(scale, image):
        return {"rolled": image + image.roll(1, -1), "pinned": image * torch.arange(8).to(image)}

    example = {"scale": torch.randn(2), "image": torch.randn(2, 3, 8)}
    options = {"group": "circular_shifts", "roles": {"image": "grid:-1"}}
    found = check(model, example, outputs="rolled", **options)
    assert found.passed
    assert "grid of 8" in found.read_as
    report = check(model, example, **options)
    assert report.broken == ("circular_shifts",)
    assert "pinned" in report.reports["circular_shifts"].location.source
    exec(report.reports["circular_shifts"].counterexample.script, {"model": model})


def single(x):
    """Refuses float64, as a kernel in float32 does."""
    if x.dtype != torch.float32:
        raise TypeError("float32 only")
    return x


@pytest.mark.parametrize(
    ("model", "example", "group", "broken"),
    [
        (space.Points(), points(5), "E(3)", ()),
        (space.Stretched(), points(5), "SO(3)", ("rotations",)),
        (lambda pos: pos.norm(dim=-1), points(5), "O(3)", ()),
        (nn.Conv1d(2, 4, 3), torch.randn(2, 2, 16), "shifts", ()),
        (lambda x: x.cumsum(-2), torch.randn(2, 8, 3), "circular_shifts", ("circular_shifts",)),
    ],
)
def test_models_in_float32_alone_get_a_verdict(model, example, group, broken):
    report = check(lambda pos: model(single(pos)), example, group=group)
    assert report.broken == broken
    assert {found.dtype for found in report.reports.values()} == {"float32"}
    assert all(v in ("PASS", "BROKEN") for v in verdicts(report).values()), report


def test_discovery_in_float32_alone():
    model = space.Points()
    found = discover_geometry(lambda pos: model(single(pos)), points(6))
    assert (found.name, found.signed_order) == ("E(3)", 48)
    amplified = lambda pos: (100 * single(pos).square().sum(-1)).sin()  # noqa: E731
    assert discover_geometry(amplified, points(6)).signed_order == 48
    constants = nn.BatchNorm1d(3, affine=False).eval()  # buffers in float32
    constants.running_var[2] = 1.0006
    stretched = lambda pos: constants(single(pos)).norm(dim=-1)  # noqa: E731
    assert discover_geometry(stretched, points(6)).holds["rotations"] is not True


def test_discovery_says_what_a_model_raises_on_moved_points():
    def refusing(pos):
        if bool((pos < 0).any()):
            raise ValueError("points must lie ahead")
        return pos.norm(dim=-1)

    report = discover_geometry(refusing, points(6).abs() + 1)
    assert report.holds["reflections"] is False
    assert "broken: raises ValueError: points must lie ahead" in str(report)
    assert "the first of others raises ValueError: points must lie ahead" in str(report)
    assert report.signed_order == 6

    def broken(pos):
        raise ValueError("never runs")

    with pytest.raises(ValueError, match="never runs"):
        discover_geometry(broken, points(6))


@pytest.mark.parametrize("group", [None, "E(3)", "C_n"])
@pytest.mark.parametrize(
    ("laws", "error", "message"),
    [
        ([], ValueError, "laws must hold at least one name"),
        ("padding", TypeError, "laws must be a list of names"),
        (["no_law"], ValueError, "laws must be one of"),
    ],
)
def test_laws_are_named_alike_with_and_without_a_group(group, laws, error, message):
    with pytest.raises(error, match=message):
        check(space.Points(), points(5), group=group, laws=laws)
    with pytest.raises(error, match=message):
        parametrize_with_checks([(space.Points(), points(5))], group=group, laws=laws)


def test_roles_and_outputs_are_for_groups_of_tokens_too():
    ring = lambda x: {"good": x + x.roll(1, 0), "bad": x.cumsum(0)}  # noqa: E731
    options = {"group": "C_n", "roles": {"x": "tokens:0"}, "laws": ["permutations"]}
    assert check(ring, torch.randn(5, 4, 3), outputs="good", **options).passed
    broken = check(ring, torch.randn(5, 4, 3), **options)
    assert broken.broken == ("permutations",)
    assert "tokens along dimension -3" in broken.read_as
    assert "cumsum" in broken.reports["permutations"].location.source


def test_a_group_is_asked_of_each_set_of_tokens():
    def weighted(x, context):
        return x + (context * torch.arange(4.0)[:, None].to(x)).sum(1, keepdim=True)

    report = check(weighted, (torch.randn(3, 7, 5), torch.randn(3, 4, 5)), group="S_n")
    assert report.broken == ("permutations",)
    assert report.reports["permutations"].reason.startswith("in context: ")


def rings(x, batch):
    return torch.cat([x[batch == n] + x[batch == n].roll(1, 0) for n in batch.unique()])


def test_each_set_of_a_ragged_batch_is_a_ring_of_its_own():
    batch = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    assert check(rings, (torch.randn(7, 3), batch), group="C_n").passed
    assert check(rings, (torch.randn(7, 3), batch), group="D_n").broken == ("permutations",)


def test_a_group_of_tokens_is_asked_of_gradients():
    class Detached(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, grad):
            return grad.cumsum(-2)

    report = check(lambda x: Detached.apply(x), torch.randn(6, 2), group="C_n")
    assert report.broken == ("permutations",)
    assert "the gradient" in report.reports["permutations"].reason


@parametrize_with_checks({"points": (space.Points(), points(5))}, group="E(3)")
def test_groups_as_a_test_suite(model, law):
    law(model)


def test_the_suite_has_a_test_for_each_law_of_the_group():
    ids = [
        case.id
        for case in parametrize_with_checks(
            {"p": (space.Handed(), points(6))},
            group="E(3)",
            expected_failures={"reflections": "by design"},
        ).args[1]
    ]
    assert ids == [f"p-{law}" for law in laws_of_group("E(3)")]


def test_the_script_shows_the_break(capsys):
    model = space.Stretched()
    report = check(model, points(2, 5), group="O(3)").reports["rotations"]
    exec(report.counterexample.script, {"model": model})
    assert float(capsys.readouterr().out) > 1e-4


def test_gradients_are_asked_too():
    class Detached(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.square().sum(-1)

        @staticmethod
        def backward(ctx, grad):
            return grad[..., None] * torch.tensor([1.0, 2.0, 3.0]).to(grad)

    report = check(Detached.apply, (points(5),), group="SO(3)", roles={"0": "points"})
    assert report.broken == ("rotations",)
    assert "gradient" in report.reports["rotations"].reason


def test_tuples_without_a_length_are_no_error():
    model = space.Points()
    model.layout = space.NoLength((1, 2))
    assert not check(model, points(5), group="SO(3)").broken


def test_drawn_matrices_are_orthogonal():
    generator = torch.Generator().manual_seed(0)
    for parity in (1, -1):
        g = random_orthogonal(3, generator, parity)
        assert torch.allclose(g @ g.T, torch.eye(3, dtype=g.dtype))
        assert torch.linalg.det(g) * parity > 0
    g = next(bases((2, 1, 3), generator)).matrix
    assert torch.allclose(g @ g.T, torch.eye(6, dtype=g.dtype))
    assert not g[:2, 2:].any()
    assert not g[2, 3:].any()


@pytest.mark.parametrize(
    ("model", "name", "order"),
    [
        (space.Points(), "E(3)", 48),
        pytest.param(space.Handed(), "SE(3)", 24, marks=pytest.mark.sweep),
        pytest.param(space.Anchored(), "O(3)", 48, marks=pytest.mark.sweep),
        (space.Stretched(), "translations, rotations about z, 16 signed permutations", 16),
        pytest.param(
            space.Manhattan(), "translations, 48 signed permutations", 48, marks=pytest.mark.sweep
        ),
        pytest.param(space.StoredBasis(), "O(3)", 48, marks=pytest.mark.sweep),
        (lambda pos: nn.functional.normalize(pos, dim=-1), "O(3), scale", 48),
        (lambda pos: pos @ torch.diag(torch.tensor([1.0, 2.0, 3.0])).to(pos), "8 signed", 8),
        (lambda pos: (pos * torch.tensor([1.0, 2, 3]).to(pos)).exp(), "none", 1),
    ],
)
def test_discovery_finds_the_known_group(model, name, order):
    found = discover_geometry(model, points(6), outputs={"0": "vector"} if name == "none" else None)
    assert found.name.startswith(name), found
    assert found.signed_order == order
    assert f"{order} hold" in str(found)


@pytest.mark.sweep
def test_discovery_counts_signed_permutations_of_channels():
    roles = {"x": "points"}
    pairs = lambda x: x[..., :2].square().sum(-1) + x[..., 2:].prod(-1)  # noqa: E731
    assert discover_geometry(pairs, torch.randn(6, 4), roles=roles).signed_order == 8 * 4
    softmax = discover_geometry(lambda x: x.softmax(-1), torch.randn(6, 5), roles=roles)
    assert softmax.signed_order == 120
    seven = discover_geometry(lambda x: x, torch.randn(4, 7), roles=roles)
    assert (seven.signed_order, seven.name) == (None, "E(7), scale")


def test_sizes_of_eigenspaces_are_of_the_last_dimension():
    assert Representation.parse("x", "eigenvectors:2,1") == Representation(
        "eigenvectors", -1, (2, 1)
    )
