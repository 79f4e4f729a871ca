"""Nets with weights for each patch refuse another grid; tables of positions are resampled."""

import pytest
import torch
from torch import nn

from tests.peers_timm import timm
from tokennet import Full, Grid, Tokens, Window
from tokennet.models import clip, encoder, mlp_mixer, resample_positions, resmlp, vit
from tokennet.nets import IOSpec, build_net
from tokennet.positional import LearnedEncoding
from tokennet.tokenizers import Patches

SIZES = {"in_features": 12, "out_features": 3, "dim": 16, "depth": 1}


NETS = {
    "vit": lambda num_tokens: vit(num_tokens=num_tokens, num_heads=2, **SIZES),
    "mlp_mixer": lambda num_tokens: mlp_mixer(num_tokens=num_tokens, **SIZES),
    "resmlp": lambda num_tokens: resmlp(num_tokens=num_tokens, **SIZES),
}


def patches(height, width):
    return Patches(2)(torch.randn(1, 3, 2 * height, 2 * width))


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("made_for", [16, (4, 4)], ids=str)
def test_another_grid_is_refused(net, made_for):
    model = NETS[net](made_for)
    assert model(patches(4, 4)).shape == (1, 3)
    for sides in ((1, 16), (16, 1), (2, 8)):
        with pytest.raises(ValueError, match=r"on a grid of 4 x 4, .* got \d+ x \d+; see resample"):
            model(patches(*sides))
    for sides in ((3, 3), (8, 8), (2, 4)):
        with pytest.raises(ValueError, match=r"must be the 4 x 4 patches .*, got \d+ x \d+"):
            model(patches(*sides))


@pytest.mark.parametrize("make", ["encoder", "build_net"])
def test_a_table_by_index_is_for_one_grid(make):
    def net(num_tokens, grid=None):
        if make == "build_net":
            spec = IOSpec(12, 3, num_tokens=num_tokens, grid=grid)
            return build_net("attention", spec, 16, depth=1, positions="index")
        return encoder(12, 3, 16, 1, 2, positions="index", num_tokens=grid or num_tokens)

    square, wide = net(16), net(8, (2, 4))
    series = Tokens(torch.randn(1, 16, 12), Grid(16))
    for tokens in (patches(4, 4), series, series.z, series.z[:, :5]):
        assert square(tokens).shape == (1, 3)
    assert wide(patches(2, 4)).shape == (1, 3)
    for model, sides in ((square, (2, 8)), (square, (3, 3)), (wide, (4, 2)), (net(8), (2, 4))):
        with pytest.raises(ValueError, match=r"on a grid of \d.*, got \d x \d; make it with grid="):
            model(patches(*sides))
    sets = [Tokens(p.z[0], p.graph, p.pos) for p in (patches(4, 4), patches(2, 8))]
    with pytest.raises(ValueError, match="grid of 4 x 4, .* got 2 x 8"):
        square(Tokens.batch(sets))


def test_the_grid_of_a_spec_has_its_tokens():
    with pytest.raises(ValueError, match=r"grid must have num_tokens = 8, got \(3, 3\)"):
        IOSpec(12, 3, num_tokens=8, grid=(3, 3))


@pytest.mark.parametrize("net", NETS)
def test_every_set_of_a_ragged_batch_is_examined(net):
    model = NETS[net](16)
    fitting, other = (Tokens(p.z[0], p.graph, p.pos) for p in (patches(4, 4), patches(2, 8)))
    assert model(Tokens.batch([fitting, fitting])).shape == (2, 3)
    with pytest.raises(ValueError, match="grid of 4 x 4, .* got 2 x 8"):
        model(Tokens.batch([fitting, other]))


def test_tokens_without_a_grid_are_counted():
    model, z = NETS["vit"](16), torch.randn(1, 16, 12)
    assert model(z).shape == model(Tokens(z, Window(16, 1))).shape == (1, 3)
    assert model(Tokens(z, Grid(16))).shape == (1, 3)  # a series
    with pytest.raises(ValueError, match="must be the 4 x 4 patches .*, got 9 tokens"):
        model(z[:, :9])


def test_a_number_that_is_no_square_names_no_grid():
    model = NETS["vit"](8)
    assert model(torch.randn(1, 8, 12)).shape == (1, 3)
    with pytest.raises(ValueError, match=r"make the net with num_tokens=\(2, 4\), got 8"):
        model(patches(2, 4))
    assert NETS["vit"]((2, 4))(patches(2, 4)).shape == (1, 3)


def test_the_graph_of_attention_is_still_that_of_the_patches():
    net = vit(num_tokens=16, num_heads=2, graph=lambda grid: grid.reach(1), **SIZES)
    assert net.layers[0](patches(4, 4)).graph.grid_shape == (4, 4)
    assert NETS["vit"](16).layers[0](patches(4, 4)).graph.is_full


def test_positions_by_content_read_any_grid():
    net = vit(num_tokens=None, num_heads=2, **SIZES)
    assert net(patches(2, 8)).shape == net(patches(3, 3)).shape == (1, 3)


@pytest.mark.parametrize("grid", [(3, 3), (2, 8), (1, 1), (7, 5), (4, 6)], ids=str)
def test_the_table_is_that_of_timm(grid):
    net = NETS["vit"]((4, 6))
    got = resample_positions(net, grid).layers[3].tables[0].weight
    want = timm.layers.resample_abs_pos_embed(
        net.layers[3].tables[0].weight[None], list(grid), [4, 6], num_prefix_tokens=1
    )[0]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)


def test_resampling_makes_a_copy():
    net = NETS["vit"](16).double()
    net.layers[3].tables[0].weight.requires_grad_(False)
    before = net.layers[3].tables[0].weight.clone()
    wide = resample_positions(net, (2, 8))
    assert torch.equal(net.layers[3].tables[0].weight, before)
    assert net(patches(4, 4).to(torch.float64)).shape == (1, 3)
    table = wide.layers[3].tables[0].weight
    assert (table.dtype, table.requires_grad) == (torch.float64, False)
    assert torch.equal(table[0], before[0])
    assert wide(patches(2, 8).to(torch.float64)).shape == (1, 3)
    with pytest.raises(ValueError, match="grid of 2 x 8, .* got 4 x 4"):
        wide(patches(4, 4).to(torch.float64))
    same = resample_positions(wide, (2, 8), antialias=False)
    assert torch.equal(same.layers[3].tables[0].weight, table)
    table = resample_positions(NETS["vit"](16), (2, 8)).layers[3].tables[0].weight
    assert isinstance(table, nn.Parameter)
    assert table.requires_grad


def test_a_half_precision_table_is_resampled_in_float32():
    net = NETS["vit"](16)
    want = resample_positions(net, (3, 5)).layers[3].tables[0].weight
    got = resample_positions(net.bfloat16(), (3, 5)).layers[3].tables[0].weight
    torch.testing.assert_close(got.float(), want, rtol=2e-2, atol=1e-3)


def test_the_image_tower_of_clip():
    sizes = {"dim": 8, "depth": 1, "num_heads": 2, "image_dim": 16, "image_heads": 2}
    net = clip(12, vocab=5, num_tokens=16, **sizes)
    with pytest.raises(ValueError, match="grid of 4 x 4, .* got 2 x 8"):
        net(patches(2, 8), [[1, 2]])
    net.image = resample_positions(net.image, (2, 8))
    assert net(patches(2, 8), [[1, 2]]).shape == (1, 1)


def test_what_cannot_be_resampled_is_refused():
    others = [NETS["mlp_mixer"](16), NETS["vit"](8), encoder(12, 3, dim=8), nn.Linear(2, 2)]
    others += [vit(num_tokens=None, num_heads=2, **SIZES), NETS["vit"]((2, 2, 4))]
    for net in others:
        with pytest.raises(ValueError, match="net must be a vit with a learned table"):
            resample_positions(net, (2, 8))
    for grid in ((2, 2, 2), 8, 16.0, (0, 2), (2,)):
        with pytest.raises((ValueError, TypeError), match="grid"):
            resample_positions(NETS["vit"](16), grid)


def test_sequences_may_be_shorter_than_their_table():
    assert LearnedEncoding(8, 16)(Tokens(torch.zeros(5, 8), Full(5))).num_tokens == 5
