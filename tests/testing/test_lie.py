"""Lie derivatives against what is known analytically, and exact shifts."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.conftest import DEVICES
from tokennet.mixers import Attention
from tokennet.testing.lie import (
    LieGenerator,
    lie_contributions,
    lie_derivative,
    lie_error,
    lie_errors_by_layer,
    shift_table,
)
from tokennet.testing.lie.pushforward import pushforward
from tokennet.tokens import Tokens

ALONG_T = LieGenerator.translation(dims=1)
ALONG_X = LieGenerator.translation(-1)
ALONG_Y = LieGenerator.translation(-2)
PI = math.pi


def centers(n, device="cpu"):
    """Positions of the samples in [-1, 1]."""
    return (2 * torch.arange(n, dtype=torch.float64, device=device) + 1) / n - 1


def plane(n):
    p = centers(n)
    return torch.meshgrid(p, p, indexing="ij")


def smooth(*shape, modes=3):
    """Random periodic series without frequencies above `modes`."""
    p = centers(shape[-1])
    waves = [f(PI * k * p) for k in range(modes + 1) for f in (torch.cos, torch.sin)]
    return torch.randn(*shape[:-1], len(waves), dtype=torch.float64) @ torch.stack(waves)


def smooth_image(channels, n, modes=3):
    return torch.einsum("cy,cx->cyx", smooth(channels, n, modes=modes), smooth(channels, n))[None]


def blob(n, dy=0.3, dx=-0.1, width=0.1):
    """A Gaussian away from the center that has vanished at the border, (1, 1, n, n)."""
    y, x = plane(n)
    return torch.exp(-((y - dy) ** 2 + (x - dx) ** 2) / (2 * width**2))[None, None]


class Rolled(nn.Module):
    """A layer without forward mode."""

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.roll(1, -1) * 3

        @staticmethod
        def backward(ctx, grad):
            return grad.roll(-1, -1) * 3

    def forward(self, x):
        return self.Function.apply(x)


# Generators


@pytest.mark.parametrize("n", [8, 9])
@pytest.mark.parametrize("device", DEVICES)
def test_translation_is_the_derivative_of_waves(n, device):
    p = centers(n, device)
    x = torch.sin(3 * PI * p + 0.4)[None]
    expected = 3 * PI * torch.cos(3 * PI * p + 0.4)[None]
    torch.testing.assert_close(ALONG_T(x), expected)


def test_the_nyquist_frequency_has_no_derivative():
    x = torch.tensor([1.0, -1.0] * 4)[None]
    assert ALONG_T(x).abs().max() < 1e-6


def test_axes_and_units_do_not_depend_on_the_size():
    for height, width in [(8, 16), (16, 8)]:
        y, x = torch.meshgrid(centers(height), centers(width), indexing="ij")
        image = (torch.sin(PI * y) * torch.cos(2 * PI * x))[None]
        along_x = -2 * PI * torch.sin(PI * y) * torch.sin(2 * PI * x)
        along_y = PI * torch.cos(PI * y) * torch.cos(2 * PI * x)
        torch.testing.assert_close(ALONG_X(image)[0], along_x)
        torch.testing.assert_close(ALONG_Y(image)[0], along_y)


@pytest.mark.parametrize(
    ("generator", "velocity"),
    [
        (LieGenerator.rotation(), lambda y, x: (-x, y)),
        (LieGenerator.rotation(aspect=2), lambda y, x: (-2 * x, y / 2)),
        (LieGenerator.scaling(), lambda y, x: (y, x)),
        (LieGenerator.hyperbolic_rotation(), lambda y, x: (x, y)),
        (LieGenerator.hyperbolic_rotation(aspect=2), lambda y, x: (2 * x, y / 2)),
        (LieGenerator.shear(), lambda y, x: (0 * y, y)),
    ],
)
def test_affine_flows_move_a_blob(generator, velocity):
    (y, x), image = plane(48), blob(48)
    down, right = velocity(y, x)
    gradient_y, gradient_x = -(y - 0.3) / 0.01 * image, -(x + 0.1) / 0.01 * image
    expected = down * gradient_y + right * gradient_x
    torch.testing.assert_close(generator(image), expected, atol=1e-8, rtol=0)
    coarse = replace(generator, periodic=False)(image)
    assert 1e-4 < (coarse - expected).norm() / expected.norm() < 0.1


def test_scaling_of_series_is_t_times_the_derivative():
    p = centers(64)
    x = torch.exp(-(p**2) / 0.02)[None]
    generator = LieGenerator.scaling(dims=1)
    torch.testing.assert_close(generator(x)[0], p * (-2 * p / 0.02) * x[0], atol=1e-8, rtol=0)


def test_differences_do_not_wrap_around():
    ramp = centers(8)[None]
    slope = torch.ones(1, 8, dtype=torch.float64)
    assert torch.equal(LieGenerator.translation(dims=1, periodic=False)(ramp).round(), slope)
    assert ALONG_T(ramp).min() < -1


@pytest.mark.parametrize("periodic", [True, False])
def test_a_single_sample_has_no_derivative(periodic):
    generator = LieGenerator.rotation(periodic=periodic)
    assert not generator(torch.randn(2, 3, 1, 1)).any()
    pool = nn.AdaptiveAvgPool2d(1)
    assert lie_error(pool, torch.randn(2, 3, 8, 8), generator).out_shape == (2, 3, 1, 1)


def test_tokens_move_as_their_grid_and_the_prefix_stays():
    image = torch.randn(2, 5, 4, 6)
    tokens = image.flatten(2).mT  # (2, 24, 5)
    prefix = torch.randn(2, 1, 5)
    for generator in (ALONG_X, ALONG_Y, LieGenerator.rotation()):
        moved = generator.on_tokens((4, 6), prefix=1)(torch.cat([prefix, tokens], 1))
        torch.testing.assert_close(moved[:, 1:], generator(image).flatten(2).mT)
        assert not moved[:, :1].any()


def test_generators_are_checked():
    with pytest.raises(ValueError, match="axis must be one of 2 dimensions, got 2"):
        LieGenerator.translation(2)
    with pytest.raises(ValueError, match="matrix must be 2 x 2"):
        LieGenerator("bent", ((0.0,),), (0.0, 0.0))
    with pytest.raises(ValueError, match=r"grid must have 2 sizes, got \(4,\)"):
        ALONG_X.on_tokens((4,))
    with pytest.raises(ValueError, match=r"more than 2 dimensions, got shape \(3, 4\)"):
        ALONG_X(torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"1 \+ 16 tokens in dimension -2, got shape \(2, 16, 3\)"):
        ALONG_X.on_tokens((4, 4), prefix=1)(torch.ones(2, 16, 3))


# The error of a map


@pytest.mark.parametrize("device", DEVICES)
def test_circular_convolution_commutes_with_translation(device):
    x = torch.randn(2, 3, 9, 8, device=device)
    f = nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular", device=device)
    for generator in (ALONG_X, ALONG_Y):
        error = lie_error(f, x, generator)
        assert error.relative < 1e-14
        assert error.lee < 1e-26
        assert (error.method, error.invariant) == ("forward mode", False)
    assert lie_error(f, x, LieGenerator.rotation()).relative > 0.01


def test_zero_padding_breaks_translation():
    f = nn.Conv2d(3, 4, 3, padding=1)
    assert lie_error(f, torch.randn(2, 3, 8, 8), ALONG_X).relative > 0.01


def test_a_pointwise_function_commutes_unless_it_aliases():
    x = smooth(2, 3, 16)
    assert lie_error(torch.square, x, ALONG_T).relative < 1e-14
    assert lie_error(lambda x: x**3, x, ALONG_T).relative > 1e-3
    assert lie_error(torch.square, torch.randn(2, 3, 16), ALONG_T).relative > 0.1


def test_a_mask_breaks_by_its_own_derivative():
    p, x = centers(16), smooth(2, 3, 16)
    mask, slope = torch.sin(PI * p), PI * torch.cos(PI * p)
    derivative = lie_derivative(lambda x: mask * x, x, ALONG_T)
    torch.testing.assert_close(derivative, -slope * x)
    error = lie_error(lambda x: mask * x, x, ALONG_T)
    assert error.lee == pytest.approx(float((slope * x).square().mean()))
    moved, expected = mask * ALONG_T(x), ALONG_T(mask * x)
    assert error.relative == pytest.approx(
        float((slope * x).norm() / (moved.norm() + expected.norm()))
    )


def test_lee_is_a_mean_over_batch_and_output():
    """E ||L||^2 / dim f(x), with 3 * 16 outputs for each of two series."""
    x, mask = smooth(2, 3, 16), torch.rand(16)
    by_hand = lie_derivative(lambda x: mask * x, x, ALONG_T).flatten(1).square().sum(1) / 48
    assert lie_error(lambda x: mask * x, x, ALONG_T).lee == pytest.approx(float(by_hand.mean()))


def test_a_finite_translation_agrees():
    """The derivative at 0 of rho(-t) f(rho(t) x), with rho(t) done in Fourier space."""

    def translated(x, t):
        k = PI * torch.arange(x.shape[-1] // 2 + 1)
        return torch.fft.irfft(torch.fft.rfft(x) * torch.exp(1j * k * t), n=x.shape[-1])

    net = nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv1d(4, 3, 5)).double()
    x, t = smooth(1, 2, 17), 1e-5
    with torch.no_grad():
        ahead, behind = (translated(net(translated(x, s)), -s) for s in (t, -t))
    torch.testing.assert_close(
        lie_derivative(net, x, ALONG_T), (ahead - behind) / (2 * t), atol=1e-7, rtol=1e-6
    )


def test_a_function_of_the_radius_is_invariant_under_rotation_only():
    y, x = plane(32)
    weights = torch.exp(-3 * (y**2 + x**2))

    def radial(image):
        return (weights * image.square()).sum((-1, -2))

    error = lie_error(radial, blob(32), LieGenerator.rotation())
    assert error.invariant
    assert error.relative < 1e-8
    assert lie_error(radial, blob(32), ALONG_X).relative > 0.1
    assert lie_error(radial, blob(32), LieGenerator.scaling()).relative > 0.1


def test_blurring_before_downsampling_aliases_less():
    x = torch.randn(2, 3, 64)
    plain = lie_error(lambda x: x[..., ::2], x, ALONG_T)
    blurred = lie_error(
        lambda x: ((x.roll(1, -1) + 2 * x + x.roll(-1, -1)) / 4)[..., ::2], x, ALONG_T
    )
    assert blurred.lee < 0.3 * plain.lee
    assert blurred.relative < 0.7 * plain.relative
    assert plain.out_shape == (2, 3, 32)
    assert lie_error(lambda x: x[..., ::2], smooth(2, 3, 64), ALONG_T).relative < 1e-13


def test_invariance_is_relative_to_incoherent_motion():
    x = torch.randn(4, 3, 32)
    nothing = lie_error(lambda x: x.mean(-1), x, ALONG_T)
    assert nothing.relative < 1e-13
    assert nothing.lee < 1e-26
    weights = torch.randn(32, dtype=torch.float64)
    generic = lie_error(lambda x: x @ weights, x, ALONG_T)
    assert generic.invariant
    assert 0.3 < generic.relative < 0.7
    scaled = lie_error(lambda x: 100 * (x @ weights) + 5, x, ALONG_T)
    assert scaled.relative == pytest.approx(generic.relative)
    assert scaled.lee == pytest.approx(1e4 * generic.lee)
    torch.manual_seed(1)
    assert lie_error(lambda x: x @ weights, x, ALONG_T) == generic
    assert lie_error(lambda x: x.mean(-1) * 0 + 1, x, ALONG_T).relative == 0
    slight = lie_error(lambda x: 1 + 1e-6 * (x @ weights), x, ALONG_T)
    assert slight.relative == pytest.approx(generic.relative)


def test_incoherent_motion_costs_one_run_each():
    runs = 0

    def counted(x):
        nonlocal runs
        runs += 1
        return x.square().sum(-1)

    lie_error(counted, torch.randn(2, 3, 8), ALONG_T)
    assert runs == 8 + 1 + 2 * 3


def test_coherent_response_is_near_one():
    ramp = torch.linspace(-1, 1, 64).expand(1, 1, 64)
    generator = LieGenerator.translation(dims=1, periodic=False)
    assert lie_error(lambda x: x.sum(-1), ramp, generator).relative > 0.8


def test_a_constant_image_shows_no_error():
    f = nn.Conv1d(3, 3, 3, padding=1, padding_mode="circular")
    assert lie_error(f, torch.full((1, 3, 17), 0.3), ALONG_T).relative == 0
    assert lie_error(lambda x: x.sum(-1), torch.full((1, 3, 17), 0.3), ALONG_T).relative == 0
    assert lie_error(f, torch.zeros(1, 3, 17), ALONG_T).relative == 0


def test_the_action_on_the_output_can_be_given():
    x = torch.randn(2, 3, 8)
    kept = lie_error(lambda x: x, x, ALONG_T, out_generator=None)
    assert kept.invariant
    assert kept.relative == pytest.approx(0.5, abs=0.01)
    back = replace(ALONG_T, offset=(-1.0,))
    assert lie_error(lambda x: x.flip(-1), x, ALONG_T, out_generator=back).relative < 1e-14
    assert lie_error(lambda x: x.flip(-1), x, ALONG_T).relative > 0.9


def test_a_patch_embedding_returns_tokens_on_a_grid():
    x = smooth_image(3, 32, modes=3)
    f = nn.Conv2d(3, 5, 2, stride=2)

    def embedding(x):
        return f(x).flatten(2).mT

    tokens = ALONG_X.on_tokens((16, 16))
    assert lie_error(embedding, x, ALONG_X, out_generator=tokens).relative < 1e-13
    assert lie_error(embedding, x, ALONG_X, out_generator=ALONG_Y.on_tokens((16, 16))).lee > 1e-3
    with pytest.raises(ValueError, match=r"output of shape \(1, 256, 5\) moves with an input"):
        lie_error(embedding, x, ALONG_X)


@pytest.mark.parametrize("device", DEVICES)
def test_attention_moves_with_smooth_tokens_unless_it_reads_the_index(device):
    layer = Attention(6, 2, backend="dense").to(device)
    grid = LieGenerator.translation(-2).on_tokens((8, 8))
    x = smooth_image(6, 8, modes=1).to(device).flatten(2).mT / 10
    index = torch.linspace(-1, 1, 64, device=device)[:, None]
    error = lie_error(lambda z: layer(Tokens(z)), x, grid)
    assert error.method == "forward mode"
    assert error.relative < 1e-2
    assert lie_error(lambda z: layer(Tokens(z * index)), x, grid).relative > 0.1


def test_torch_attention_has_a_forward_mode():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    x = torch.randn(2, 16, 8)
    error = lie_error(layer, x, LieGenerator.rotation().on_tokens((4, 4)))
    assert error.method == "forward mode"
    assert torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.parametrize("size", [1.0, 1e3])
def test_a_difference_is_as_exact_as_its_step_allows(size):
    """Of order eps^(2/3), the least that a central difference can have."""
    x, direction = size * torch.rand(50).double(), size * torch.rand(50).double()
    found = pushforward(lambda x: (x / size).exp(), x, direction, "central difference")
    exact = (x / size).exp() * direction / size
    assert float((found.change - exact).abs().max() / exact.abs().max()) < 5e-10


def test_differences_replace_a_missing_forward_mode():
    error = lie_error(Rolled(), torch.randn(2, 3, 8), ALONG_T)
    assert error.method == "central difference"
    assert error.relative < 1e-8
    mask = torch.randn(8)
    exact = lie_error(lambda x: mask * x.roll(1, -1) * 3, torch.ones(1, 1, 8) * mask, ALONG_T)
    close = lie_error(lambda x: mask * Rolled()(x), torch.ones(1, 1, 8) * mask, ALONG_T)
    assert close.lee == pytest.approx(exact.lee, rel=1e-6)
    assert lie_error(Rolled(), torch.full((1, 3, 16), 0.5), ALONG_T).relative == 0
    pooled = lie_error(lambda x: Rolled()(x).sum(-1), torch.randn(2, 3, 8), ALONG_T)
    assert pooled.relative < 1e-8


def test_differences_work_at_zero():
    class Minus(nn.Module):
        def __init__(self, values):
            super().__init__()
            self.register_buffer("values", values)

        def forward(self, x):
            return torch.arange(8) * (x - self.values)

    x = torch.randn(1, 3, 8, dtype=torch.float64)
    parts = lie_contributions(nn.Sequential(Minus(x), Rolled()), x, ALONG_T)
    expected = 3 * (torch.arange(8) * ALONG_T(x)).roll(1, -1)
    torch.testing.assert_close(parts["0"], expected)


@pytest.mark.parametrize(
    "lossy",
    [
        lambda x: x + x.detach().square(),
        lambda x: torch.from_numpy(x.numpy() ** 2),
        lambda x: x + 0.2 * x.detach(),
    ],
)
def test_code_that_detaches_is_detected(lossy):
    x, mask = torch.randn(2, 3, 16, dtype=torch.float64), torch.rand(16)
    error = lie_error(lambda x: mask * lossy(x), x, ALONG_T)
    assert error.method == "central difference"
    step = 1e-6 * ALONG_T(x)
    change = (mask * lossy(x + step) - mask * lossy(x - step)) / 2e-6
    by_hand = (change - ALONG_T(mask * lossy(x))).square().mean()
    assert error.lee == pytest.approx(float(by_hand), rel=1e-5)


def test_kinks_are_not_taken_for_lost_terms():
    net = nn.Sequential(nn.Conv1d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv1d(64, 3, 3), nn.ReLU())
    assert lie_error(net, torch.randn(8, 3, 64), ALONG_T).method == "forward mode"


def test_in_place_models_and_inputs_are_restored():
    model = nn.Sequential(nn.Conv1d(3, 3, 3), nn.BatchNorm1d(3), nn.ReLU(inplace=True)).train()
    x = torch.randn(2, 3, 8, requires_grad=True)
    model(x).sum().backward()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    parameters, grads = list(model.parameters()), [p.grad.clone() for p in model.parameters()]
    content, state = x.detach().clone(), torch.get_rng_state()

    def in_place(x):
        return model(x.mul_(1))

    for measure in (lie_error, lie_derivative, lie_errors_by_layer, lie_contributions):
        by_module = measure in (lie_errors_by_layer, lie_contributions)
        measure(model if by_module else in_place, x, ALONG_T)
    shift_table(in_place, x, [1])
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert all(torch.equal(g, p.grad) for g, p in zip(grads, parameters, strict=True))
    assert all(p.requires_grad and p.dtype == torch.float32 for p in parameters)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(x, content)
    assert torch.equal(torch.get_rng_state(), state)


def test_in_place_maps_are_measured_like_others():
    def in_place(x):
        return x.mul_(2).add_(1).sin_()

    for dtype in (torch.float32, torch.float64):
        x = torch.randn(2, 3, 8, dtype=dtype)
        before = x.clone()
        error = lie_error(in_place, x, ALONG_T)
        assert error == lie_error(lambda x: (2 * x + 1).sin(), x, ALONG_T)
        assert shift_table(in_place, x, [1, 2]).max_error == 0
        model = nn.Sequential(nn.Hardtanh(-0.1, 0.1, inplace=True), nn.Conv1d(3, 3, 3))
        lie_errors_by_layer(model, x, ALONG_T)
        assert torch.equal(x, before)


def test_it_works_in_inference_mode():
    f = nn.Conv1d(3, 3, 3, padding=1, padding_mode="circular")
    with torch.inference_mode():
        error = lie_error(f, torch.randn(1, 3, 8), ALONG_T)
    assert error.method == "forward mode"
    assert error.relative < 1e-14


def test_errors_print_readably():
    f = nn.Conv1d(3, 4, 3, padding=1, padding_mode="circular")
    shown = str(lie_error(f, torch.randn(1, 3, 8), ALONG_T))
    assert shown.startswith("equivariance under translation along -1: relative error ")
    assert shown.endswith("(output (1, 4, 8), forward mode)")
    shown = str(lie_error(lambda x: x.sum(-1), torch.randn(1, 3, 8), ALONG_T))
    assert shown.startswith("invariance under")


@pytest.mark.parametrize("measure", [lie_error, lie_derivative])
def test_bad_arguments_are_named(measure):
    x = torch.randn(1, 3, 8)
    with pytest.raises(TypeError, match=r"x must be a floating-point tensor, got torch.int64"):
        measure(lambda x: x, torch.ones(1, 3, 8, dtype=torch.int64), ALONG_T)
    with pytest.raises(TypeError, match="x must be a floating-point tensor, got list"):
        measure(lambda x: x, [1.0], ALONG_T)
    with pytest.raises(ValueError, match=r"x must have elements, got shape \(0, 3, 8\)"):
        measure(lambda x: x, x[:0], ALONG_T)
    with pytest.raises(ValueError, match=r"f must return elements, got shape \(0, 3, 8\)"):
        measure(lambda x: x[:0], x, ALONG_T)
    with pytest.raises(TypeError, match="f must return one tensor, got 2"):
        measure(lambda x: (x, x), x, ALONG_T)
    with pytest.raises(TypeError, match=r"f must return a floating-point tensor, got torch.int64"):
        measure(lambda x: x.argmax(-1), x, ALONG_T)
    with pytest.raises(ValueError, match="needs more than 3 dimensions"):
        measure(lambda x: x, x, LieGenerator.translation(dims=3))
    with pytest.raises(RuntimeError, match="channels"):
        measure(nn.Conv1d(5, 3, 3), x, ALONG_T)


# Layers


class Branched(nn.Module):
    """Uses its convolution twice, in-place activations, and a head without layout."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 3, padding=1, padding_mode="circular")
        self.act = nn.ReLU(inplace=True)
        self.padded = nn.Conv1d(3, 3, 3, padding=1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(24, 2)

    def forward(self, x):
        x = self.conv(x) + self.conv(self.act(self.conv(x)))
        return self.head(self.flatten(self.padded(x)))


def test_layers_are_measured_at_their_own_input():
    model, x = Branched(), torch.randn(2, 3, 8)
    errors = lie_errors_by_layer(model, x, ALONG_T)
    assert list(errors) == ["conv", "conv (2)", "act", "conv (3)", "padded"]
    assert all(name == error.name for name, error in errors.items())
    assert errors["conv"].relative < 1e-14
    with torch.no_grad():
        first = model.conv(x)
    expected = lie_error(torch.relu, first, ALONG_T)
    assert errors["act"].lee == pytest.approx(expected.lee, rel=1e-5)
    assert errors["padded"].relative > 0.01
    assert str(errors["padded"]).startswith("padded: equivariance under")


def test_layers_on_tokens_and_self_attention():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Conv2d(3, 8, 4, stride=4)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.mixer = Attention(8, 2, backend="dense")
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            z = self.embed(x).flatten(2).mT
            z = self.attention(z, z, z, need_weights=False)[0]
            return self.head(self.mixer(Tokens(z)).z.mean(1))

    model, x = Net(), torch.randn(2, 3, 16, 16)
    tokens = ALONG_X.on_tokens((4, 4))
    errors = lie_errors_by_layer(model, x, ALONG_X, token_generator=tokens)
    assert errors["embed"].out_shape == (2, 8, 4, 4)
    with torch.no_grad():
        z = model.embed(x).flatten(2).mT
        after = model.attention(z, z, z)[0]
    expected = lie_error(lambda z: model.attention(z, z, z)[0], z, tokens)
    assert errors["attention"].lee == pytest.approx(expected.lee, rel=1e-4)
    expected = lie_error(lambda z: model.mixer(Tokens(z)), after, tokens)
    assert errors["mixer"].lee == pytest.approx(expected.lee, rel=1e-4)
    assert "head" not in errors


def test_modules_without_a_layout_are_left_out():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(4, 8)
            self.recurrent = nn.LSTM(8, 8)
            self.conv = nn.Conv1d(3, 3, 3)
            self.drop = nn.Identity()

        def forward(self, x):
            self.drop(x[:0])
            return self.conv(self.recurrent(x + self.embed(torch.tensor([1])))[0])

    assert list(lie_errors_by_layer(Net(), torch.randn(2, 3, 8), ALONG_T)) == ["conv"]


@pytest.mark.parametrize(
    "head",
    [
        [nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 5)],
        [nn.Flatten(), nn.Linear(4 * 8, 5), nn.Softmax(-1)],
        [nn.Conv1d(4, 2, 3)],
    ],
)
def test_contributions_of_layers_add_up(head):
    circular = nn.Conv1d(3, 4, 3, stride=2, padding=1, padding_mode="circular")
    model = nn.Sequential(circular, nn.Tanh(), nn.Conv1d(4, 4, 3, padding=1), *head)
    x = torch.randn(2, 3, 16)
    parts = lie_contributions(model, x, ALONG_T)
    whole = lie_derivative(model, x, ALONG_T)
    assert list(parts) == [str(i) for i in range(len(model))]
    torch.testing.assert_close(sum(parts.values()), whole)
    assert whole.norm() > 1e-3
    assert parts["1"].norm() > 1e-4


def test_an_equivariant_layer_contributes_nothing():
    circular = nn.Conv1d(3, 4, 3, padding=1, padding_mode="circular")
    model = nn.Sequential(circular, nn.Conv1d(4, 4, 3, padding=1), nn.Tanh())
    x = torch.randn(2, 3, 16)
    parts = lie_contributions(model, x, ALONG_T)
    assert parts["0"].norm() < 1e-13 < 1e-3 < parts["1"].norm()
    kept = lie_contributions(model, x, ALONG_T, out_generator=None)
    whole = lie_derivative(model, x, ALONG_T, out_generator=None)
    torch.testing.assert_close(sum(kept.values()), whole)
    torch.testing.assert_close(kept["1"], parts["1"])
    assert not torch.allclose(kept["2"], parts["2"])


def test_contributions_through_tokens():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 2, stride=2),
        nn.Flatten(2),
        nn.Linear(16, 16),
        nn.TransformerEncoderLayer(16, 2, 8, batch_first=True),
    )
    x = torch.randn(2, 3, 8, 8)
    generators = {
        "token_generator": ALONG_X.on_tokens((2, 4)),
        "out_generator": ALONG_X.on_tokens((2, 4)),
    }
    parts = lie_contributions(model, x, ALONG_X, **generators)
    whole = lie_derivative(model, x, ALONG_X, out_generator=generators["out_generator"])
    torch.testing.assert_close(sum(parts.values()), whole)


def test_contributions_need_a_chain_of_tensors():
    x = torch.randn(2, 3, 16)
    with pytest.raises(TypeError, match="model must be an nn.Sequential, got Conv1d"):
        lie_contributions(nn.Conv1d(3, 3, 3), x, ALONG_T)
    with pytest.raises(TypeError, match="output of a layer of model must be a tensor, got tuple"):
        lie_contributions(nn.Sequential(nn.LSTM(16, 4)), x, ALONG_T)


# Shifts


@pytest.mark.parametrize("device", DEVICES)
def test_a_strided_convolution_follows_shifts_by_its_stride(device):
    f = nn.Conv1d(3, 4, 3, stride=2, padding=1, padding_mode="circular", device=device)
    table = shift_table(f, torch.randn(2, 3, 8, device=device), range(-2, 5))
    assert [error is None for error in table.errors] == [False, True] * 3 + [False]
    assert table.max_error < 1e-14
    assert not table.invariant
    pooled = shift_table(
        lambda x: f(x).square().sum(-1), torch.randn(2, 3, 8, device=device), range(4)
    )
    assert pooled.invariant
    assert max(pooled.errors[0], pooled.errors[2]) < 1e-14
    assert min(pooled.errors[1], pooled.errors[3]) > 0.01


def test_images_shift_along_both_dimensions():
    x = torch.randn(2, 3, 8, 6)
    f = nn.Conv2d(3, 4, 3, stride=(2, 1), padding=1, padding_mode="circular")
    table = shift_table(f, x, [(2, 1), (1, 1), (4, 5)], dims=(-2, -1))
    assert table.errors[1] is None
    assert table.max_error < 1e-14
    lopsided = shift_table(lambda x: x * torch.arange(6), x, [(3, 0), (0, 3)], dims=(-2, -1))
    assert lopsided.errors[0] == 0
    assert lopsided.errors[1] > 0.1


def test_shifts_follow_upsampling_and_use_the_largest_value():
    x = torch.randn(1, 1, 4)
    table = shift_table(lambda x: x.repeat_interleave(2, -1), x, [1, 2, 3])
    assert table.errors == (0.0, 0.0, 0.0)
    first = torch.tensor([1.0, 0, 0, 0])
    table = shift_table(lambda x: first * x, torch.tensor([[[2.0, 6, 0, 0]]]), [1])
    assert table.errors == (1.0,)  # rolled, 0 at index 0 instead of 2


def test_shifts_of_an_output_that_is_said_to_stay():
    x = torch.randn(2, 3, 8)
    assert shift_table(lambda x: x, x, [1]).max_error == 0
    assert shift_table(lambda x: x, x, [1], invariant=True).max_error > 0.1


def test_tables_print_readably():
    table = shift_table(lambda x: x[..., ::2], torch.randn(1, 3, 8), [1, 2])
    lines = str(table).splitlines()
    assert lines[0] == "equivariance under shifts along (-1,) (output (1, 3, 4))"
    assert lines[2].split() == ["1", "-", "(no", "whole", "shift", "of", "the", "output)"]
    assert lines[3].split() == ["2", "0.00e+00"]
    assert shift_table(lambda x: x[..., ::2], torch.randn(1, 3, 8), [1]).max_error is None


def test_nan_is_reported():
    table = shift_table(lambda x: x / 0, torch.zeros(1, 1, 4), [1, 2])
    assert math.isnan(table.max_error)
    assert math.isnan(replace(table, errors=(0.5, float("nan"))).max_error)
    assert math.isnan(lie_error(lambda x: x * float("nan"), torch.randn(1, 1, 4), ALONG_T).relative)


def test_bad_shifts_are_named():
    x = torch.randn(1, 3, 8)
    with pytest.raises(ValueError, match="shifts must have 1 numbers each"):
        shift_table(lambda x: x, x, [(1, 2)])
    with pytest.raises(ValueError, match="shifts must have 1 numbers each"):
        shift_table(lambda x: x, x, [])
    with pytest.raises(
        ValueError, match=r"dims must be negative and dimensions of x .* got \(2,\)"
    ):
        shift_table(lambda x: x, x, [1], dims=2)
    with pytest.raises(ValueError, match=r"got \(\)"):
        shift_table(lambda x: x, x, [()], dims=())
    with pytest.raises(ValueError, match="dimensions of the output"):
        shift_table(lambda x: x[0, 0], x, [1], dims=-3, invariant=False)
    with pytest.raises(TypeError, match="x must be a floating-point tensor"):
        shift_table(lambda x: x, x.long(), [1])
