"""Narrow heads are padded for speed, and the numbers stay the same."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from tokennet import Full, attend
from tokennet.ops.kernels import flash as narrow


def _tokens(n, m, channels, values, dtype=torch.float32):
    make = torch.Generator().manual_seed(0)
    shapes = (2, 3, n, channels), (2, 3, m, channels), (2, 3, m, values)
    return [torch.randn(s, generator=make, dtype=dtype, requires_grad=True) for s in shapes]


@pytest.fixture
def widths(monkeypatch):
    """Channels of the calls of PyTorch's function."""
    seen = []

    def spy(q, k, v, *args, **kwargs):
        seen.append((q.shape[-1], v.shape[-1]))
        return scaled_dot_product_attention(q, k, v, *args, **kwargs)

    monkeypatch.setattr(narrow, "scaled_dot_product_attention", spy)
    return seen


@pytest.mark.parametrize("kind", ["full", "causal", "mask", "bias"])
@pytest.mark.parametrize("channels", [2, 8, 9, 15])
def test_values_and_gradients_are_those_of_pytorch(kind, channels, widths):
    n, m = 130, 160 if kind != "causal" else 130
    q, k, v = _tokens(n, m, channels, channels)
    mask = {"mask": torch.rand(n, m) < 0.7, "bias": torch.randn(2, 3, n, m)}.get(kind)
    causal, scale = kind == "causal", 0.3
    out = narrow.sdpa(q, k, v, mask, is_causal=causal, scale=scale)
    assert widths == [(16, 16)]
    assert out.shape == (2, 3, n, channels)
    doubles = [x.detach().double().requires_grad_() for x in (q, k, v)]
    wide_mask = mask.double() if kind == "bias" else mask
    expected = scaled_dot_product_attention(*doubles, wide_mask, is_causal=causal, scale=scale)
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)
    grad = torch.randn(out.shape)
    ours = torch.autograd.grad(out, (q, k, v), grad)
    theirs = torch.autograd.grad(expected, doubles, grad.double())
    for mine, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.double(), right, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("n", "channels", "dtype", "width"),
    [
        (130, 8, torch.float32, 16),
        (100, 8, torch.float32, 8),  # too few pairs for it to pay
        (130, 16, torch.float32, 16),
        (130, 18, torch.float32, 18),
        (130, 1, torch.float32, 1),
        (130, 8, torch.float64, 8),  # it does not pay in other types
        (130, 8, torch.bfloat16, 8),
    ],
)
def test_heads_are_padded_where_it_pays(n, channels, dtype, width, widths):
    q, k, v = (x.detach().transpose(1, 2) for x in _tokens(n, n, channels, channels, dtype))
    attend(q, k, v, Full(n), backend="dense")
    assert widths == [(width, width)]


def test_values_of_another_width_keep_all_derivatives(widths):
    """SDPA takes them to its plain kernel, which can be differentiated again and forwards."""
    q, k, v = (x.transpose(1, 2) for x in _tokens(130, 130, 8, 4))
    out = attend(q, k, v, Full(130), backend="dense")
    (grad,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    torch.autograd.grad(grad.sum(), q)
    assert widths == [(8, 4)]


def test_another_kernel_of_pytorch_can_be_chosen(widths):
    q, k, v = (x.transpose(1, 2) for x in _tokens(130, 130, 8, 8))
    with sdpa_kernel(SDPBackend.MATH):
        out = attend(q, k, v, Full(130), backend="dense")
        (grad,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
        torch.autograd.grad(grad.sum(), q)
    assert widths == [(8, 8)]


def test_results_lie_in_memory_as_those_of_wide_heads():
    q, k, v = (x.detach().transpose(1, 2).contiguous() for x in _tokens(130, 130, 8, 8))
    out = attend(q, k, v, Full(130), backend="dense")
    assert out.is_contiguous()
    assert out.untyped_storage().nbytes() == out.nbytes


def test_it_compiles_into_one_graph():
    q, k, v = (x.detach() for x in _tokens(130, 130, 8, 8))
    compiled = torch.compile(narrow.sdpa, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(q, k, v, scale=0.3), narrow.sdpa(q, k, v, scale=0.3))


def test_an_exported_program_takes_any_number_of_tokens():
    class Net(nn.Module):
        def forward(self, q):
            return narrow.sdpa(q, q, q, scale=1.0)

    tokens = torch.export.Dim("tokens", min=2, max=1000)
    q = torch.randn(1, 2, 200, 8)
    program = torch.export.export(Net(), (q,), dynamic_shapes=({2: tokens},)).module()
    few = torch.randn(1, 2, 7, 8)
    torch.testing.assert_close(program(few), narrow.sdpa(few, few, few, scale=1.0))
