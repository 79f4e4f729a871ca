"""What every layer has of PyTorch: hooks on gradients see the z of tokens."""

import copy
import pickle
import warnings

import pytest
import torch

from tokennet import Attention, Cycle, TokenLayer, Tokens, TokenWise


class Double(TokenLayer):
    def transform(self, tokens):
        return tokens.replace(z=2 * tokens.z)


@pytest.mark.parametrize("given", ["tokens", "tensor"])
def test_backward_hooks_see_the_gradients_of_z(given):
    layer, z, seen = Double(), torch.randn(4, 3, requires_grad=True), []
    layer.register_full_backward_hook(
        lambda module, inputs, outputs: seen.append((inputs, outputs))
    )
    layer.register_full_backward_pre_hook(lambda module, outputs: (3 * outputs[0],))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = layer(Tokens(z, Cycle(4))).z if given == "tokens" else layer(z)
        out.sum().backward()
    (((gradient,), (after,)),) = seen
    assert torch.equal(after, 3 * torch.ones(4, 3))
    assert torch.equal(gradient, 6 * torch.ones(4, 3))
    assert torch.equal(z.grad, gradient)


@pytest.mark.parametrize("of", [Tokens, torch.clone], ids=["tokens", "tensor"])
def test_backward_hooks_see_the_source(of):
    layer, seen = Attention(8, 2).double(), []
    layer.register_full_backward_hook(lambda module, inputs, outputs: seen.extend(inputs))
    z, source = (torch.randn(n, 8, dtype=torch.float64, requires_grad=True) for n in (4, 3))
    layer(Tokens(z), source=of(source)).z.sum().backward()
    assert [tuple(gradient.shape) for gradient in seen] == [(4, 8), (3, 8)]
    assert torch.equal(seen[1], source.grad)


def test_hooks_run_in_their_order_until_they_are_removed():
    layer, seen = TokenWise(torch.nn.Linear(3, 3)), []
    layer.register_full_backward_hook(lambda *_: seen.append("second"))
    first = layer.register_full_backward_hook(lambda *_: seen.append("first"), prepend=True)
    tokens = Tokens(torch.randn(4, 3, requires_grad=True))
    layer(tokens).z.sum().backward()
    assert seen == ["first", "second"]
    first.remove()
    layer(tokens).z.sum().backward()
    assert seen == ["first", "second", "second"]


def test_layers_with_hooks_are_copied_and_layers_without_are_pickled():
    layer, seen = Double(), []
    layer.register_full_backward_hook(lambda *_: seen.append(1))
    copy.deepcopy(layer)(torch.ones(1, 1, requires_grad=True)).sum().backward()
    assert seen == [1]
    assert pickle.loads(pickle.dumps(Double()))(torch.ones(1, 1)).item() == 2
