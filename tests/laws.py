"""What every mixer must obey. Each law takes a mixer and raises AssertionError if it is broken."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokennet import Disjoint, Edges, Mixer, TokenGraph, Tokens
from tokennet.testing import check_declared, random_permutation

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-4, torch.bfloat16: 1e-1}


def tokens_on(
    graph: TokenGraph, dim: int, dtype: torch.dtype, batch: tuple[int, ...] = ()
) -> Tokens:
    z = torch.randn(*batch, graph.num_targets, dim, dtype=dtype)
    return Tokens(z, graph, torch.randn(graph.num_targets, 2, dtype=dtype))


def assert_near(got: Tensor, want: Tensor) -> None:
    """Largest difference within the tolerance of the type, relative to the largest value."""
    assert got.shape == want.shape
    if want.numel():
        scale = want.abs().max().clamp(min=1.0)
        assert float((got - want).detach().abs().max() / scale) <= TOLERANCE[want.dtype]


def relabeling(mixer: Mixer, tokens: Tokens) -> None:
    """f(P tokens) = P f(tokens), z, graph and pos moved together."""
    perm = random_permutation(tokens.graph, torch.Generator().manual_seed(1))
    moved = mixer(tokens.permute(perm))
    assert_near(moved.z, mixer(tokens).z[..., perm, :])


def shuffling(mixer: Mixer, tokens: Tokens, automorphism: Tensor) -> None:
    """f commutes with moving z alone by an automorphism of the graph."""
    moved = mixer(tokens.replace(z=tokens.z[..., automorphism, :]))
    assert_near(moved.z, mixer(tokens).z[..., automorphism, :])


def edge_order(mixer: Mixer, tokens: Tokens) -> None:
    """The order in which edges are listed does not matter."""
    edges = tokens.graph.edge_index()
    order = torch.randperm(edges.shape[1])
    attr = getattr(tokens.graph, "edge_attr", None)
    n = tokens.num_tokens
    listed = Edges(edges, n, edge_attr=attr)
    mixed = Edges(edges[:, order], n, edge_attr=None if attr is None else attr[order])
    first = mixer(tokens.replace(graph=listed)).z
    assert_near(mixer(tokens.replace(graph=mixed)).z, first)
    assert_near(first, mixer(tokens).z)


def batch_is_one_by_one(mixer: Mixer, tokens: Tokens) -> None:
    """Sets in leading dimensions do not see each other."""
    z = torch.stack([tokens.z, -tokens.z, tokens.z.flip(-1)]).unflatten(0, (3, 1))
    together = mixer(tokens.replace(z=z)).z
    for number in range(3):
        assert_near(together[number, 0], mixer(tokens.replace(z=z[number, 0])).z)


def ragged_is_one_by_one(mixer: Mixer, tokens: Tokens) -> None:
    """Sets in a ragged batch do not see each other."""
    other = tokens.replace(z=3 * tokens.z + 1)
    together = mixer(Tokens.batch([tokens, other, tokens]))
    assert isinstance(together.graph, Disjoint)
    parts = together.z.split(3 * [tokens.num_tokens], dim=-2)
    for alone, part in zip((tokens, other, tokens), parts, strict=True):
        assert_near(part, mixer(alone).z)


def finite(mixer: Mixer, tokens: Tokens) -> None:
    """Output and all gradients are finite, whoever has no neighbors."""
    z = tokens.z.clone().requires_grad_()
    out = mixer(tokens.replace(z=z)).z
    assert out.isfinite().all()
    inputs = [z, *mixer.parameters()]
    for gradient in torch.autograd.grad(out.square().sum(), inputs, allow_unused=True):
        assert gradient is None or gradient.isfinite().all()


def hears_only_neighbors(mixer: Mixer, tokens: Tokens) -> None:
    """A token depends on itself and on those that it listens to, on no other."""
    z = tokens.z.clone().requires_grad_()
    out = mixer(tokens.replace(z=z)).z
    for target in range(tokens.num_tokens):
        weight = torch.linspace(1, 2, tokens.dim, dtype=z.dtype, device=z.device)
        asked = (out[..., target, :] * weight).sum()
        (gradient,) = torch.autograd.grad(asked, z, retain_graph=True, allow_unused=True)
        heard = (torch.zeros_like(z) if gradient is None else gradient).abs().amax(-1) > 0
        allowed = tokens.graph.dense(z.device)[target].clone()
        allowed[target] = True
        assert not (heard & ~allowed).any()


def as_oracle(mixer: Mixer, tokens: Tokens, oracle: nn.Module) -> None:
    """Values and gradients of z and of every parameter are those of another way to compute."""
    results = []
    for module in (mixer, oracle):
        z = tokens.z.clone().requires_grad_()
        out = module(tokens.replace(z=z)).z
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).to(out.device).view_as(out)
        inputs = [z, *module.parameters()]
        gradients = torch.autograd.grad((out * weight).sum(), inputs, allow_unused=True)
        zeros = [torch.zeros_like(x) for x in inputs]
        results.append(
            [out, *(z if g is None else g for g, z in zip(gradients, zeros, strict=True))]
        )
    for got, want in zip(*results, strict=True):
        assert_near(got, want)


def symmetry_is_declared_truly(mixer: Mixer, tokens: Tokens) -> None:
    """What the mixer declares holds when measured, on parameters that hide nothing."""
    report = check_declared(mixer, tokens, discover=False)
    assert report.holds, report
