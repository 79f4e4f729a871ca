"""Another order of tokens, and all of its derivatives."""

import pytest
import torch

from tokennet.ops.batching import reorder

ORDER = torch.tensor([3, 0, 2, 1, 4])
BACK = ORDER.argsort()


@pytest.mark.parametrize("dim", [-1, -2, -3])
def test_its_derivatives_are_those_of_index_select(dim):
    sizes = [5 if axis == dim else 2 for axis in (-3, -2, -1)]
    tensor = torch.randn(sizes, dtype=torch.float64, requires_grad=True)
    factor = torch.randn(sizes, dtype=torch.float64)

    def ours(x):
        return (reorder(x, ORDER, BACK, dim) * factor).sin()

    def theirs(x):
        return (x.index_select(dim, ORDER) * factor).sin()

    assert torch.equal(ours(tensor), theirs(tensor))
    torch.autograd.gradcheck(ours, tensor, check_forward_ad=True)
    torch.autograd.gradgradcheck(ours, tensor)
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(transform(ours)(tensor), transform(theirs)(tensor))


def test_it_compiles_as_one_graph_and_an_empty_order_changes_nothing():
    tensor = torch.randn(2, 5, 3, requires_grad=True)
    run = torch.compile(
        lambda x: reorder(x, ORDER, BACK, -2).square(), fullgraph=True, backend="aot_eager"
    )
    factor = torch.randn(2, 5, 3)
    (grad,) = torch.autograd.grad(run(tensor), tensor, factor)
    torch.testing.assert_close(grad, 2 * tensor * factor[:, BACK])
    assert reorder(tensor, ORDER[:0], BACK[:0], -2) is tensor
