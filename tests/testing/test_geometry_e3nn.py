"""Laws of space on modules of e3nn, beside what e3nn measures itself, and on broken variants."""

import pytest
import torch
from torch import nn
from torch_geometric.nn.models import SchNet

from tokennet.testing import check

pytestmark = pytest.mark.sweep
POINTS = "cartesian_points"
"""What e3nn calls points, in its own check."""


def convolution(broken=""):
    """A convolution with spherical harmonics, (z, pos) to irreps; `broken` names its fault."""
    from e3nn import nn as e3nn_nn
    from e3nn import o3

    class Convolution(nn.Module):
        def __init__(self):
            super().__init__()
            self.irreps_sh = o3.Irreps.spherical_harmonics(2)
            inner = "4x0e + 2x1o + 1x2e"
            self.product = o3.FullyConnectedTensorProduct(
                "4x0e", self.irreps_sh, inner, shared_weights=False
            )
            self.radial = nn.Sequential(
                nn.Linear(1, 16), nn.SiLU(), nn.Linear(16, self.product.weight_numel)
            )
            self.embedding = nn.Embedding(3, 4)
            gates = "2x0e", [torch.tanh], "2x0e", [torch.sigmoid], "1x1o + 1x2e"
            self.gate = e3nn_nn.Gate(*gates)
            self.linear = o3.Linear(inner, self.gate.irreps_in)
            self.irreps_out = self.gate.irreps_out

        def forward(self, z, pos):
            i, j = torch.ones(len(z), len(z)).fill_diagonal_(0).nonzero().T
            difference = pos[j] - pos[i]
            y = o3.spherical_harmonics(self.irreps_sh, difference, normalize=True)
            if broken == "harmonics":
                y = y + 0.1
            weight = self.radial(difference.norm(dim=-1, keepdim=True))
            messages = self.product(self.embedding(z)[j], y, weight)
            h = messages.new_zeros(len(z), messages.shape[1]).index_add(0, i, messages)
            if broken == "activation":
                h = torch.relu(h)
            h = self.linear(h)
            if broken == "bias":
                h = h + 1e-4
            return self.gate(h)

    return Convolution()


def everyone(pos, batch):
    """All pairs of a molecule, and their distances: the graph of SchNet without pyg-lib."""
    i, j = (batch[:, None] == batch).fill_diagonal_(False).nonzero().T
    return torch.stack([i, j]), (pos[i] - pos[j]).norm(dim=-1)


def manhattan(pos, batch):
    """The same with distances by absolute values."""
    (i, j), _ = everyone(pos, batch)
    return torch.stack([i, j]), (pos[i] - pos[j]).abs().sum(-1)


def schnet(graph):
    return SchNet(16, 16, 2, 10, interaction_graph=graph)


def modules():
    """Module, inputs, and the kinds that e3nn's own check needs, None where it finds them."""
    from e3nn import nn as e3nn_nn
    from e3nn import o3

    irreps = "8x0e + 4x1o + 2x2e"
    product = o3.FullyConnectedTensorProduct("2x0e+2x1o", "1x0e+1x1o+1x2e", "2x0e+2x1o+1x1e")
    gate = e3nn_nn.Gate("8x0e", [torch.tanh], "3x0e", [torch.sigmoid], "2x1o+1x2e")
    z, pos = torch.tensor([0, 1, 2, 1, 0, 2]), torch.randn(6, 3)
    batch = torch.tensor([0, 0, 0, 0, 1, 1])
    return {
        "Linear": (o3.Linear(irreps, irreps), (torch.randn(5, 30),), None, None),
        "product": (product, (torch.randn(5, 8), torch.randn(5, 9)), None, None),
        "gate": (gate, (torch.randn(5, gate.irreps_in.dim),), None, None),
        "norm": (e3nn_nn.NormActivation("4x0e+4x1o", torch.tanh), (torch.randn(5, 16),), None,
                 None),
        "harmonics": (o3.SphericalHarmonics("0e+1o+2e+3o", True), (torch.randn(5, 3),), None, None),
        "convolution": (convolution(), (z, pos), [None, POINTS], None),
        "SchNet": (schnet(everyone), (z, pos, batch), [None, POINTS, None], ["1x0e"]),
    }  # fmt: skip


NAMES = ["Linear", "product", "gate", "norm", "harmonics", "convolution", "SchNet"]


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def precision(request):
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", NAMES)
def test_the_verdict_agrees_with_e3nn(name, precision):
    from e3nn.util.test import equivariance_error

    model, inputs, ins, outs = modules()[name]
    theirs = equivariance_error(model.eval(), list(inputs), ins, outs, ntrials=3)
    assert max(float(error.max()) for error in theirs.values()) < 1e-5
    report = check(model, inputs, group="O(3)" if ins is None else "E(3)")
    for law, found in report.reports.items():
        assert found.verdict == "PASS", report
        rounded = name == "product" and precision == torch.float32  # its coefficients are
        assert found.error < (1e-6 if rounded else 1e-13), (law, found)
        assert found.dtype == ("float32" if rounded else "float64")


class BiasOnVectors(nn.Module):
    def __init__(self):
        from e3nn import o3

        super().__init__()
        self.linear = o3.Linear("8x0e+4x1o", "8x0e+4x1o")
        self.irreps_in = self.irreps_out = self.linear.irreps_in

    def forward(self, x):
        return self.linear(x) + 1e-3


class SiLUOnVectors(nn.Module):
    def __init__(self):
        from e3nn import o3

        super().__init__()
        self.irreps_in = self.irreps_out = o3.Irreps("8x0e+2x1o")

    def forward(self, x):
        return torch.nn.functional.silu(x)


class ReversedInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.product = modules()["product"][0]
        self.irreps_in1, self.irreps_in2 = self.product.irreps_in1, self.product.irreps_in2
        self.irreps_out = self.product.irreps_out

    def forward(self, x, y):
        return self.product(x, y.flip(-1))


def broken_variants():
    z, pos = torch.tensor([0, 1, 2, 1, 0, 2]), torch.randn(6, 3)
    batch = torch.tensor([0, 0, 0, 0, 1, 1])
    return {
        "bias": (BiasOnVectors(), (torch.randn(5, 20),), "self.linear(x) + 1e-3"),
        "silu": (SiLUOnVectors(), (torch.randn(5, 14),), "silu(x)"),
        "reversed": (ReversedInput(), (torch.randn(5, 8), torch.randn(5, 9)), "y.flip(-1)"),
        "harmonics": (convolution("harmonics"), (z, pos), "y = y + 0.1"),
        "activation": (convolution("activation"), (z, pos), "h = torch.relu(h)"),
        "small bias": (convolution("bias"), (z, pos), "h = h + 1e-4"),
        "Manhattan": (schnet(manhattan), (z, pos, batch), "abs().sum(-1)"),
    }


@pytest.mark.parametrize(
    "name", ["bias", "silu", "reversed", "harmonics", "activation", "small bias", "Manhattan"]
)
def test_the_line_of_a_broken_variant_is_named(name):
    model, inputs, line = broken_variants()[name]
    report = check(model, inputs, group="O(3)")
    assert report.broken == ("rotations", "reflections")
    location = report.reports["rotations"].location
    assert line in location.source, location
    assert report.reports["rotations"].counterexample.words.endswith(
        ("about x", "about y", "about z")
    )


def test_roles_of_irreps_and_wrong_irreps():
    from e3nn import o3

    linear = o3.Linear("4x0e+2x1o", "2x1o")
    bare = lambda x: linear(x)  # noqa: E731
    said = {"roles": {"x": "4x0e + 2x1o"}, "outputs": {"0": "2x1o"}}
    assert not check(bare, torch.randn(5, 10), group="O(3)", **said).broken
    said["outputs"] = {"0": "2x1e"}
    assert check(bare, torch.randn(5, 10), group="O(3)", **said).broken == ("reflections",)
    with pytest.raises(ValueError, match="is no 3x1o"):
        check(bare, torch.randn(5, 10), group="O(3)", **{**said, "outputs": {"0": "3x1o"}})


def test_matrices_of_irreps_are_exact():
    """e3nn's own `D_from_matrix` is off by 3e-7; a representation obeys D(g) D(h) = D(g h)."""
    from e3nn import o3

    from tokennet.testing.geometry.motions import linear, random_orthogonal
    from tokennet.testing.geometry.representations import irreps_matrix

    generator, irreps = torch.Generator().manual_seed(0), "1x0o + 2x1o + 1x1e + 1x2e + 1x3o"
    g, h = (random_orthogonal(3, generator, parity) for parity in (-1, 1))
    of = [irreps_matrix(irreps, linear(matrix, "")) for matrix in (g, h, g @ h)]
    assert torch.allclose(of[0] @ of[1], of[2], atol=1e-13)
    theirs = o3.Irreps(irreps).D_from_matrix(g)
    assert torch.allclose(of[0], theirs.to(of[0]), atol=1e-5)
