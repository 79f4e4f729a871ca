"""Patches as others cut them; what blur is for; superpixels."""

import numpy as np
import pytest
import torch
from skimage.graph import RAG
from skimage.segmentation import slic
from torch.nn import functional as F

from tokennet import Full, Tokens
from tokennet.tokenizers import Patches, Pixels, Superpixels
from tokennet.tokenizers.image import blurred
from tokennet.tokenizers.superpixels import adjacent


@pytest.mark.parametrize(("size", "stride"), [(4, 4), (4, 2), (3, 1), ((2, 4), (1, 3))])
def test_a_linear_map_of_patches_is_a_convolution(size, stride):
    conv = torch.nn.Conv2d(3, 5, size, stride).double()
    images = torch.randn(2, 3, 10, 13, dtype=torch.float64)
    images = images[..., :8, :12] if size == 4 else images
    results = []
    for way in ("patches", "convolution"):
        x = images.clone().requires_grad_()
        if way == "patches":
            z = Patches(size, stride)(x).z
            out = F.linear(z, conv.weight.flatten(1), conv.bias)  # (B, N, 5)
        else:
            out = conv(x).flatten(2).mT
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
        gradients = torch.autograd.grad((out * weight).sum(), [x, conv.weight, conv.bias])
        results.append([out, *gradients])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("size", "stride"), [(4, 2), (3, 1), (4, 4)])
def test_cutting_and_averaging_are_unfold_and_fold(size, stride):
    image = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    if size == 3:
        image = image[..., :7]
    patches = Patches(size, stride)
    tokens = patches(image)
    assert torch.equal(tokens.z, F.unfold(image, size, stride=stride).mT)
    changed = torch.randn_like(tokens.z)  # patches that do not agree where they overlap
    shape = image.shape[-2:]
    total = F.fold(changed.mT, shape, size, stride=stride)
    count = F.fold(torch.ones_like(changed.mT), shape, size, stride=stride)
    got = patches.inverse(tokens.replace(z=changed))
    torch.testing.assert_close(got, total / count, rtol=1e-13, atol=1e-13)


def test_moving_an_image_by_a_stride_moves_its_tokens():
    image = torch.randn(3, 12, 16)
    patches = Patches(4)
    tokens, moved = patches(image), patches(image.roll((4, -8), (-2, -1)))
    rows = torch.arange(12).view(3, 4).roll((1, -2), (0, 1)).flatten()
    assert torch.equal(moved.z, tokens.z[rows])


def test_positions_are_rows_and_columns_of_the_grid():
    tokens = Patches(2, stride=1)(torch.zeros(1, 3, 4))
    assert tokens.pos.tolist() == [[r, c] for r in range(2) for c in range(3)]
    assert tokens.graph.grid_shape == (2, 3)
    target, source = tokens.pos[tokens.graph.edge_index().flip(0)]
    assert ((target - source).abs().amax(-1) <= 1).all()


def test_pixels_are_patches_of_one():
    image = torch.randn(2, 3, 4, 5)
    assert torch.equal(Pixels()(image).z, image.flatten(2).mT)


def test_some_patches_make_an_image_with_holes():
    image = torch.ones(1, 4, 6)
    tokens = Patches(2)(image)
    kept = Tokens(tokens.z[[0, 5]], Full(2), tokens.pos[[0, 5]])
    restored = Patches(2).inverse(kept)
    assert restored[0, :2, :2].eq(1).all()
    assert restored[0, 2:, 4:].eq(1).all()
    assert restored.sum() == 8


def test_padding_is_below_and_on_the_right():
    image = torch.rand(3, 7, 9) + 1
    patches = Patches(4, stride=3, pad=True)
    tokens = patches(image)
    back = patches.inverse(tokens)
    assert back.shape == (3, 7, 10)
    assert torch.equal(back[..., :9], image)
    assert (back[..., 9:] == 0).all()
    assert torch.equal(Patches(4, pad=True)(torch.ones(1, 2, 3)).z.sum(), torch.tensor(6.0))


def test_blur_is_a_convolution_blurred_then_subsampled():
    """Zhang, 2019: dense convolution, filter, subsampling; all borders circular."""
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    weight = torch.randn(5, 3, 2, 2, dtype=torch.float64)
    tokens = Patches(2, blur=5, border="circular")(images)
    dense = F.conv2d(F.pad(images, (0, 1, 0, 1), mode="circular"), weight)  # (2, 5, 8, 8)
    taps = torch.tensor([1.0, 4, 6, 4, 1], dtype=torch.float64) / 16
    kernel = torch.outer(taps, taps).expand(5, 1, 5, 5)
    smooth = F.conv2d(F.pad(dense, 4 * [2], mode="circular"), kernel, groups=5)
    want = smooth[..., ::2, ::2].flatten(2).mT
    torch.testing.assert_close(tokens.z @ weight.flatten(1).T, want, rtol=1e-12, atol=1e-12)


def test_blur_makes_tokens_move_less_with_the_image():
    image = torch.randn(1, 32, 32)

    def change(taps):
        patches = Patches(1, blur=taps, border="circular")
        z = patches(image).z.view(32, 32)[::2, ::2]
        moved = patches(image.roll(1, -1)).z.view(32, 32)[::2, ::2]
        return float((moved - z).norm() / z.norm())

    assert change(5) < change(3) < 0.8 * change(1)


def test_inverse_of_blurred_patches_is_the_blurred_image():
    image = torch.rand(3, 8, 8)
    patches = Patches(4, blur=3)
    assert torch.equal(patches.inverse(patches(image)), blurred(image, 3))
    checkers = (torch.arange(8)[:, None] + torch.arange(8)) % 2  # the highest frequency
    assert blurred(checkers[None].double(), 3, "circular").unique().tolist() == [0.5]


@pytest.mark.parametrize(
    ("image", "error"),
    [(torch.zeros(1, 8, 8, dtype=torch.uint8), TypeError), (torch.zeros(1, 2, 8), ValueError)],
)
def test_blur_names_the_image(image, error):
    with pytest.raises(error, match="image must"):
        blurred(image, 5)


def test_digits_come_back():
    from sklearn.datasets import load_digits

    images = torch.tensor(load_digits().images[:200])[:, None]
    for patches in (Patches(2), Patches(4, stride=2), Patches(4, stride=1), Pixels()):
        assert torch.equal(patches.inverse(patches(images)).round(), images)
    assert torch.equal(Patches(2).inverse(Patches(2)(images)), images)


def test_superpixels_of_four_squares():
    colors = torch.tensor([[1.0, 0.2], [0.5, 0.0]])
    image = colors.repeat_interleave(6, 0).repeat_interleave(6, 1).expand(3, -1, -1)
    superpixels = Superpixels(4)
    tokens = superpixels(image)
    assert torch.equal(tokens.z[:, 0], colors.flatten())
    assert tokens.pos.tolist() == [[2.5, 2.5], [2.5, 8.5], [8.5, 2.5], [8.5, 8.5]]
    ring = [[1, 2, 0, 3, 0, 3, 1, 2], [0, 0, 1, 1, 2, 2, 3, 3]]
    assert tokens.graph.edge_index().tolist() == ring
    assert torch.equal(superpixels.paint(tokens, superpixels.segments(image)), image)


@pytest.mark.parametrize("channels", [1, 3])
def test_superpixels_are_those_of_scikit_image(channels):
    y, x = torch.meshgrid(torch.linspace(0, 6, 24), torch.linspace(0, 6, 24), indexing="ij")
    image = torch.stack([x.sin() * y.cos(), (x + y).cos(), x.cos()])[:channels].double() / 2 + 0.5
    superpixels = Superpixels(20, compactness=1.0)
    segments = superpixels.segments(image)
    array = image.movedim(0, -1).numpy()
    assert np.array_equal(segments, slic(array, 20, 1.0, start_label=0, channel_axis=-1))
    tokens = superpixels(image)
    assert tokens.num_tokens > 8
    for region in range(tokens.num_tokens):
        inside = segments == region
        torch.testing.assert_close(tokens.z[region], image[:, inside].mean(1))
        torch.testing.assert_close(tokens.pos[region], inside.nonzero().float().mean(0))
    edges = {frozenset(edge) for edge in RAG(segments.numpy(), connectivity=1).edges}
    found = tokens.graph.edge_index().T.tolist()
    assert {frozenset(edge) for edge in found} == edges
    assert len(found) == 2 * len(edges)


def test_regions_do_not_touch_at_corners_or_themselves():
    segments = torch.tensor([[0, 1, 1], [2, 3, 3]])
    pairs = {tuple(pair) for pair in adjacent(segments).T.tolist()}
    assert pairs == {(0, 1), (1, 0), (0, 2), (2, 0), (1, 3), (3, 1), (2, 3), (3, 2)}


def test_without_scikit_image_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "skimage.segmentation", None)
    with pytest.raises(ImportError, match=r"tokennet\[superpixels\]"):
        Superpixels()(torch.zeros(3, 4, 4))


def test_images_of_other_shapes_keep_their_own_places():
    for tokenizer, shapes in (
        (Patches(4), [(1, 4, 8), (1, 8, 4)]),
        (Pixels(), [(1, 2, 8), (1, 4, 4)]),
    ):
        images = [torch.rand(*shape) for shape in shapes]
        together = tokenizer(images)
        for part, image in zip(together.unbatch(), images, strict=True):
            alone = tokenizer(image)
            assert torch.equal(part.pos, alone.pos)
            assert torch.equal(part.graph.edge_index(), alone.graph.edge_index())
            assert repr(part.graph) == repr(alone.graph)
        assert tokenizer([images[0]] * 2).z.shape == (2, *tokenizer(images[0]).z.shape)
