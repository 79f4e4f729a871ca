"""The coordinate itself, and its share of the set's extent; what every code by place must do."""

import pytest
import torch
from torch_geometric.nn import PositionalEncoding as PyGPositionalEncoding

from tokennet import Causal, Full, Tokens
from tokennet.positional import (
    IntegerEncoding,
    LearnedEncoding,
    SinusoidalEncoding,
    UnitIntervalEncoding,
)
from tokennet.testing import check_declared

POS = torch.tensor([[0.0, 2.0], [1.0, 0.0], [4.0, 1.0]])
LAYERS = {
    "integer by index": lambda: IntegerEncoding(8),
    "integer by pos": lambda: IntegerEncoding(8, "pos", num_coordinates=2),
    "unit interval by index": lambda: UnitIntervalEncoding(8),
    "unit interval by pos": lambda: UnitIntervalEncoding(8, "pos", num_coordinates=2),
}


def example():
    return Tokens(torch.randn(3, 8), pos=POS)


@pytest.mark.parametrize("name", LAYERS)
def test_symmetry_is_declared_truly(name):
    layer = LAYERS[name]()
    reads = "index" if name.endswith("index") else "pos"
    assert layer.symmetry.reads == {reads}
    report = check_declared(layer, example(), discover=False)
    assert report.holds, report


@pytest.mark.parametrize("name", LAYERS)
def test_sets_of_a_ragged_batch_are_encoded_alone(name):
    layer = LAYERS[name]()
    sets = [Tokens(torch.randn(2, n, 8), Full(n), 5 * torch.rand(n, 2)) for n in (3, 1, 5, 0)]
    for alone, part in zip(sets, layer(Tokens.batch(sets)).unbatch(), strict=True):
        torch.testing.assert_close(part.z, layer(alone).z)


def test_integer_by_formula():
    layer = IntegerEncoding(8, "pos", num_coordinates=2)
    torch.testing.assert_close(layer.encode(POS), POS @ layer.linear.weight.T)
    assert IntegerEncoding(8).linear.weight.shape == (8, 1)


def test_unit_interval_by_formula():
    layer = UnitIntervalEncoding(2, "pos", num_coordinates=2)
    torch.nn.init.eye_(layer.linear.weight)
    pos = torch.tensor([[0.0, 2.0], [1.0, 0.0], [4.0, 1.0]]) + torch.tensor([-7.0, 3.0])
    code = layer(Tokens(torch.zeros(2, 3, 2), pos=torch.stack([pos, 10 * pos]))).z
    want = torch.tensor([[0.0, 1.0], [0.25, 0.0], [1.0, 0.5]])
    torch.testing.assert_close(code, want.expand(2, 3, 2))


def test_a_coordinate_without_extent_has_the_code_0_and_finite_gradients():
    layer = UnitIntervalEncoding(4, "pos", num_coordinates=2)
    pos = torch.tensor([[3.0, 0.0], [3.0, 1.0]], requires_grad=True)
    out = layer(Tokens(torch.zeros(2, 4), pos=pos)).z
    torch.testing.assert_close(out[1], layer.linear.weight[:, 1])
    out.sum().backward()
    assert pos.grad.isfinite().all()


@pytest.mark.parametrize("make", [IntegerEncoding, lambda dim: SinusoidalEncoding(dim, "index")])
def test_steps_are_the_whole(make):
    layer, z, steps = make(8), torch.randn(2, 7, 8), []
    for start, stop in ((0, 3), (3, 4), (4, 7)):
        steps.append(layer.step(Tokens(z[:, start:stop]), Causal(stop).last(stop - start))[0].z)
    torch.testing.assert_close(torch.cat(steps, dim=1), layer(z))


def test_shares_of_a_growing_set_are_refused():
    with pytest.raises(TypeError, match="each new token changes all encodings"):
        UnitIntervalEncoding(8).step(Tokens(torch.zeros(1, 8)), Full(1))


def test_sinusoidal_is_that_of_pyg():
    dim, base = 16, 10_000.0
    half = dim // 2
    peer = PyGPositionalEncoding(dim, base_freq=base ** (-(half - 1) / half)).double()
    x = torch.arange(50, dtype=torch.float64)
    code = SinusoidalEncoding(dim, base=base).encode(x[:, None])
    sines_then_cosines = torch.cat([code[:, 0::2], code[:, 1::2]], dim=-1)
    torch.testing.assert_close(sines_then_cosines, peer(x), atol=1e-5, rtol=0)


def test_sinusoidal_in_two_dimensions_is_one_code_beside_the_other():
    pos = torch.cartesian_prod(torch.arange(3.0), torch.arange(4.0))
    rows, columns = (SinusoidalEncoding(6).encode(pos[:, [axis]]) for axis in (0, 1))
    both = SinusoidalEncoding(12, num_coordinates=2).encode(pos)
    torch.testing.assert_close(both, torch.cat([rows, columns], dim=-1))


def test_learned_starts_as_normal_numbers_of_small_scale():
    assert LearnedEncoding(64, 1000).tables[0].weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: IntegerEncoding(8, num_coordinates=2), "num_coordinates must be 1 .* got 2"),
        (lambda: IntegerEncoding(8, "pos")(example()), "pos must have 1 columns .* got 2"),
        (lambda: UnitIntervalEncoding(8, "pos")(torch.zeros(3, 8)), r"tokens\.pos must hold"),
        (lambda: UnitIntervalEncoding(4)(example()), "tokens must have 4 channels, got shape"),
    ],
)
def test_bad_positions_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
