"""The blocks of the Set Transformer: PyG's, without padding."""

import pytest
import torch
from torch import nn
from torch_geometric.nn.aggr import SetTransformerAggregation
from torch_geometric.nn.aggr.utils import (
    InducedSetAttentionBlock as PyGInducedSetAttentionBlock,
)
from torch_geometric.nn.aggr.utils import (
    MultiheadAttentionBlock as PyGMultiheadAttentionBlock,
)
from torch_geometric.nn.aggr.utils import (
    PoolingByMultiheadAttention as PyGPoolingByMultiheadAttention,
)

from tests.mixers.same_weights import compare, copy_linear
from tokennet import Causal, Cycle, Full, MeanReadout, TokenNet, Tokens
from tokennet.mixers import InducedSetAttentionBlock, PoolingByAttention, SetAttentionBlock
from tokennet.mixers.latents import latents_on

DIM, HEADS = 16, 2


def copy_block(ours, theirs):
    """Weights of MAB, and the pairs whose gradients are to be compared."""
    attention, projection = ours.attention, theirs.attn
    with torch.no_grad():
        for linear, weight, bias in zip(
            (attention.query, attention.key, attention.value),
            projection.in_proj_weight.chunk(3),
            projection.in_proj_bias.normal_().chunk(3),
            strict=True,
        ):
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
    pairs = copy_linear(attention.out, projection.out_proj) + copy_linear(ours.linear, theirs.lin)
    for norm, other in zip(ours.norms, (theirs.layer_norm1, theirs.layer_norm2), strict=True):
        if other is not None:
            nn.init.normal_(other.weight)
            pairs += copy_linear(norm, other)
    return pairs


def copied(ours, theirs, blocks, parameters=()):
    """Both in float64, with the same weights."""
    ours, theirs = ours.double(), theirs.double()
    pairs = []
    for mine, other in blocks(ours, theirs):
        pairs += copy_block(mine, other)
    for mine, other in parameters(ours, theirs) if parameters else ():
        with torch.no_grad():
            mine.copy_(other.view_as(mine))
        pairs.append((mine, other))
    return ours, theirs, pairs


@pytest.mark.parametrize("norm", [True, False])
def test_block_is_that_of_pyg(norm):
    ours, theirs, pairs = copied(
        SetAttentionBlock(DIM, HEADS, norm=norm),
        PyGMultiheadAttentionBlock(DIM, HEADS, norm),
        lambda a, b: [(a, b)],
    )
    x, y = torch.randn(2, 5, DIM).double().requires_grad_(), torch.randn(2, 7, DIM).double()
    compare(ours(x, y), theirs(x, y), x, pairs)
    compare(ours(x), theirs(x, x), x, pairs)


def test_induced_block_is_that_of_pyg():
    ours, theirs, pairs = copied(
        InducedSetAttentionBlock(DIM, HEADS, num_points=3),
        PyGInducedSetAttentionBlock(DIM, 3, HEADS),
        lambda a, b: [(a.gather, b.mab1), (a.spread, b.mab2)],
        lambda a, b: [(a.points, b.ind)],
    )
    x = torch.randn(2, 5, DIM).double().requires_grad_()
    compare(ours(x), theirs(x), x, pairs)


def test_pooling_is_that_of_pyg():
    ours, theirs, pairs = copied(
        PoolingByAttention(DIM, HEADS, num_seeds=3),
        PyGPoolingByMultiheadAttention(DIM, 3, HEADS),
        lambda a, b: [(a.block, b.mab)],
        lambda a, b: [
            (a.seeds, b.seed),
            (a.linear.weight, b.lin.weight),
            (a.linear.bias, b.lin.bias),
        ],
    )
    x = torch.randn(2, 5, DIM).double().requires_grad_()
    compare(ours(x), theirs(x), x, pairs)


@pytest.mark.parametrize("norm", [True, False])
def test_set_transformer_on_a_ragged_batch_is_that_of_pyg(norm):
    """Theirs pads and masks; here no token is added."""
    ours = TokenNet(
        [
            SetAttentionBlock(DIM, HEADS, norm=norm),
            PoolingByAttention(DIM, HEADS, num_seeds=3, norm=norm),
            SetAttentionBlock(DIM, HEADS, norm=norm),
        ]
    )
    theirs = SetTransformerAggregation(DIM, 3, heads=HEADS, layer_norm=norm, concat=True)

    def blocks(a, b):
        first, pool, last = a.layers
        return [(first, b.encoders[0].mab), (pool.block, b.pma.mab), (last, b.decoders[0].mab)]

    def parameters(a, b):
        pool = a.layers[1]
        linears = (pool.linear.weight, b.pma.lin.weight), (pool.linear.bias, b.pma.lin.bias)
        return [(pool.seeds, b.pma.seed), *linears]

    ours, theirs, pairs = copied(ours, theirs, blocks, parameters)
    sizes = (4, 1, 6)
    z = torch.randn(11, DIM).double().requires_grad_()
    batch = torch.arange(3).repeat_interleave(torch.tensor(sizes))
    ragged = Tokens.batch([Tokens(part) for part in z.split(sizes)])
    compare(ours(ragged).z.view(3, -1), theirs(z, batch), z, pairs)


@pytest.mark.parametrize("kind", [InducedSetAttentionBlock, PoolingByAttention])
def test_ragged_is_one_by_one(kind):
    layer = kind(DIM, HEADS, 3).double()
    sets = [Tokens(torch.randn(2, n, DIM).double()) for n in (4, 0, 1, 6)]
    for part, alone in zip(layer(Tokens.batch(sets)).unbatch(), sets, strict=True):
        torch.testing.assert_close(part.z, layer(alone).z)


def test_blocks_are_equivariant_and_pooling_is_invariant():
    net = TokenNet([InducedSetAttentionBlock(DIM, HEADS, 3), PoolingByAttention(DIM, HEADS)])
    net = TokenNet([net], MeanReadout(DIM, 2)).double()
    z, order = torch.randn(7, DIM).double(), torch.randperm(7)
    torch.testing.assert_close(net(z[order]), net(z))
    induced = net.layers[0].layers[0]
    torch.testing.assert_close(induced(z[order]), induced(z)[order])
    assert net.symmetry.on(Tokens(z)).reads == frozenset()


def test_a_set_block_honors_any_graph_and_goes_step_by_step():
    block, z = SetAttentionBlock(DIM, HEADS).double(), torch.randn(6, DIM).double()
    near = block(Tokens(z, Cycle(6, 1))).z
    torch.testing.assert_close(near[0], block(z[[0, 1, 5]])[0])
    state, outs = None, []
    for end in range(1, 7):
        out, state = block.step(Tokens(z[end - 1 : end]), Causal(end).last(1), state)
        outs.append(out.z)
    torch.testing.assert_close(torch.cat(outs), block(Tokens(z, Causal(6))).z)


def test_what_needs_all_tokens_says_so():
    with pytest.raises(ValueError, match="graph must be complete, set by set, for Induced"):
        InducedSetAttentionBlock(DIM, HEADS)(Tokens(torch.zeros(4, DIM), Causal(4)))
    for layer in (InducedSetAttentionBlock(DIM, HEADS), PoolingByAttention(DIM, HEADS)):
        with pytest.raises(TypeError, match="does not support incremental decoding"):
            layer.step(Tokens(torch.zeros(1, DIM)), Full(1, 4))
    with pytest.raises(ValueError, match="num_points must be at least 1, got 0"):
        InducedSetAttentionBlock(DIM, HEADS, 0)
    with pytest.raises(ValueError, match="num_seeds must be at least 1, got 0"):
        PoolingByAttention(DIM, HEADS, 0)


def test_graphs_of_latents_are_built_once():
    graph = Full(5)
    three, two = torch.zeros(3, 8), torch.zeros(2, 8)
    assert latents_on(graph, three, three)[1] is latents_on(graph, three, three)[1]
    assert latents_on(graph, two, two)[1].gather.num_targets == 2


def test_flops_of_pooling():
    layer, tokens = PoolingByAttention(DIM, HEADS, 3), Tokens(torch.zeros(2, 5, DIM))
    attention = 2 * 2 * (3 + 5) * DIM * DIM + 4 * 3 * 5 * DIM
    assert layer.flops(tokens) == 2 * (2 * 5 * DIM * DIM + attention + 2 * 3 * DIM * DIM)
