"""What nets are made of besides mixers."""

import copy

import pytest
import torch
from torch import nn

from tests.contracts import mixers as laws
from tests.families import SQUARE, by_default
from tokennet import (
    Attention,
    Causal,
    CrossAttention,
    Cycle,
    Disjoint,
    Edges,
    Full,
    Residual,
    TokenNet,
    Tokens,
    TokenWise,
)
from tokennet.graphs.prefix import is_one_sided
from tokennet.models import clip, encoder_stack, generalized_iou, vit
from tokennet.nets import (
    BatchNorm,
    BlockConfig,
    ClassTokenReadout,
    DropTokens,
    Embedding,
    EncoderDecoder,
    OnGraph,
    Parallel,
    PostNorm,
    PrependTokens,
    SwiGLU,
    Unembedding,
    WithGraph,
    add_self_loops,
    complete,
    mlp,
)
from tokennet.positional import LearnedEncoding, Rotary, SinusoidalEncoding
from tokennet.testing import check_declared

DIM, N = 8, 6


def tokens_on(graph, dim=DIM):
    return laws.tokens_on(graph, dim, torch.float64)


def test_post_norm_is_normalized_and_goes_step_by_step():
    layer = PostNorm(Attention(DIM, 2), nn.LayerNorm(DIM)).double()
    tokens = tokens_on(Causal(N))
    whole = layer(tokens).z
    torch.testing.assert_close(whole, layer.norm(tokens.z + layer.layer(tokens).z))
    state, outputs = None, []
    for place in range(N):
        new = Tokens(tokens.z[place : place + 1])
        out, state = layer.step(new, Causal(place + 1).last(1), state)
        outputs.append(out.z)
    torch.testing.assert_close(torch.cat(outputs), whole)


def test_dropout_of_branches():
    for post_norm in (False, True):
        layer = BlockConfig(post_norm=post_norm, dropout=1.0).around(
            TokenWise(nn.Linear(DIM, DIM)), DIM
        )
        z = torch.randn(N, DIM)
        torch.testing.assert_close(layer.train()(z), layer.norm(z) if post_norm else z)
        assert not torch.allclose(layer.eval()(z), layer.norm(z) if post_norm else z)


def test_batch_norm_counts_all_tokens_and_no_others():
    sets = [Tokens(torch.randn(n, DIM, dtype=torch.float64)) for n in (2, 5)]
    z = BatchNorm(DIM).double()(Tokens.batch(sets).z)
    torch.testing.assert_close(z.mean(0), torch.zeros(DIM, dtype=torch.float64))
    torch.testing.assert_close(z.var(0, correction=0), torch.ones(DIM).double(), rtol=1e-4, atol=0)


def test_batch_norm_in_training_breaks_independence_but_no_symmetry():
    net = TokenNet([Residual(TokenWise(mlp(DIM)), BatchNorm(DIM))]).double()
    tokens = tokens_on(Cycle(N))
    assert check_declared(copy.deepcopy(net).train(), tokens, discover=False).holds
    laws.batch_is_one_by_one(copy.deepcopy(net).eval(), tokens)
    with pytest.raises(AssertionError):
        laws.batch_is_one_by_one(copy.deepcopy(net).train(), tokens)


def test_embedding_adds_columns_and_takes_absent_ones_as_0():
    layer = Embedding((10, 2), DIM, scale=3.0)
    words, types = layer.tables
    ids = torch.tensor([[4, 1], [5, 0]])
    want = 3 * (words.weight[[4, 5]] + types.weight[[1, 0]])
    torch.testing.assert_close(layer(ids), want)
    torch.testing.assert_close(layer(ids[:, :1])[1], want[1])
    for bad in (torch.zeros(2, 1), torch.zeros(2, 3, dtype=torch.long)):
        with pytest.raises(ValueError, match=r"z must hold integers \(..., N, P\)"):
            layer(bad)


def test_unembedding_shares_the_table_also_in_a_copy():
    embedding = Embedding(10, DIM)
    net = copy.deepcopy(TokenNet([embedding], Unembedding(embedding)))
    assert net.readout.head.weight is net.layers[0].tables[0].weight
    z = torch.randn(3, DIM)
    want = net.readout.norm(z) @ net.layers[0].tables[0].weight.T
    torch.testing.assert_close(net.readout(Tokens(z)), want)


@pytest.mark.parametrize("visible", [True, False])
@pytest.mark.parametrize("family", by_default(SQUARE))
def test_tokens_put_before_and_taken_off(family, visible):
    graph, layer = SQUARE[family](), PrependTokens(DIM, 2, visible_to_all=visible).double()
    tokens = tokens_on(graph)
    if visible and is_one_sided(graph):
        with pytest.raises(ValueError, match="must not be causal where prepended tokens"):
            layer(tokens)
        return
    more = layer(tokens)
    parts = graph.graphs if isinstance(graph, Disjoint) else [graph]
    for part, old, within in zip(more.unbatch(), tokens.unbatch(), parts, strict=True):
        dense = part.graph.dense()
        assert dense[:2].all()
        assert dense[2:, :2].all() == (visible or not old.num_tokens)
        assert torch.equal(dense[2:, 2:], within.dense())
        assert torch.equal(part.z[:2], layer.vectors)
        assert torch.equal(part.z[2:], old.z)
        if old.num_tokens:
            torch.testing.assert_close(part.pos[0], old.pos.mean(0))
    less = DropTokens(2)(more)
    assert torch.equal(less.z, tokens.z)
    assert torch.equal(less.pos, tokens.pos)
    assert torch.equal(less.graph.dense(), graph.dense())
    assert less.graph.num_edges == graph.num_edges


def test_edge_features_stay_with_their_edges():
    attr = torch.randn(3, 2)
    graph = Edges(torch.tensor([[0, 1, 2], [1, 2, 0]]), 3, edge_attr=attr)
    more = PrependTokens(DIM)(Tokens(torch.randn(3, DIM), graph))
    assert torch.equal(more.graph.edge_attr[:3], attr)
    assert (more.graph.edge_attr[3:] == 0).all()
    assert torch.equal(DropTokens()(more).graph.edge_attr, attr)


def test_put_before_is_one_by_one_and_checks():
    net = TokenNet(
        [PrependTokens(DIM), Residual(Attention(DIM, 2)), DropTokens(), TokenWise(mlp(DIM))]
    ).double()
    for graph in (Full(N), Cycle(N)):
        laws.ragged_is_one_by_one(net, tokens_on(graph))
        laws.batch_is_one_by_one(net, tokens_on(graph))
    assert isinstance(PrependTokens(DIM)(torch.zeros(3, 5, DIM)), torch.Tensor)
    with pytest.raises(ValueError, match="must hold 9 to drop, got a set of 6"):
        DropTokens(9)(torch.zeros(6, DIM))


def test_on_another_graph():
    attention = Attention(DIM, 2).double()
    tokens = tokens_on(Cycle(N))
    for graph_of in (complete, add_self_loops, lambda graph: graph.reach(2)):
        out = OnGraph(graph_of, attention)(tokens)
        assert out.graph is tokens.graph
        want = attention(tokens.replace(graph=graph_of(tokens.graph)))
        torch.testing.assert_close(out.z, want.z)
        net = TokenNet([OnGraph(graph_of, attention)])
        assert net.flops(tokens) == attention.flops(tokens.replace(graph=graph_of(tokens.graph)))
    laws.ragged_is_one_by_one(OnGraph(complete, attention), tokens)


def test_with_another_graph_from_here_on():
    tokens = tokens_on(Cycle(N))
    net = TokenNet([WithGraph(complete), Attention(DIM, 2)]).double()
    torch.testing.assert_close(net(tokens).z, net.layers[1](tokens.z))
    ragged = WithGraph(complete)(Tokens.batch([tokens, tokens]))
    assert ragged.graph.sizes == [N, N]
    assert ragged.graph.num_edges == 2 * N * N


def test_nameless_functions_of_graphs_are_not_confused():
    near, far = (OnGraph(lambda g, k=k: g.reach(k), Attention(DIM, 2)).double() for k in (1, 2))
    far.load_state_dict(near.state_dict())
    tokens = tokens_on(Cycle(N))
    assert not torch.allclose(near(tokens).z, far(tokens).z)


class Reach:
    def __init__(self, radius):
        self.radius = radius

    def of(self, graph):
        return graph.reach(self.radius)


def test_methods_of_different_objects_are_not_confused():
    tokens = tokens_on(Cycle(N))
    near, far = (WithGraph(Reach(radius).of)(tokens).graph for radius in (1, 2))
    assert near.num_edges < far.num_edges


def test_functions_of_graphs_may_read_the_index():
    attention = Attention(DIM, 2)
    for make in (lambda *a, **k: OnGraph(*a, attention, **k), WithGraph):
        assert make(complete).symmetry.relabeling == "S_n"
        assert make(add_self_loops).symmetry.relabeling == "S_n"
        assert make(lambda graph: Causal(graph.num_targets)).symmetry.relabeling == "trivial"
        assert make(lambda graph: graph.reach(2), reads={"graph"}).symmetry.relabeling == "S_n"


def test_class_tokens_do_not_carry_the_future():
    z = torch.randn(N, DIM)
    listed = Edges(Causal(N).edge_index(), N)
    for graph in (Causal(N), listed, Disjoint([Full(2), Causal(N - 2)])):
        with pytest.raises(ValueError, match="give attend_to_all=False or visible_to_all=False"):
            PrependTokens(DIM)(Tokens(z, graph))
        PrependTokens(DIM, visible_to_all=False)(Tokens(z, graph))
    PrependTokens(DIM)(Tokens(z[:1], Causal(1)))


def test_what_layers_do_not_see_any_more_is_not_declared():
    near, first = Attention(DIM, 2), ClassTokenReadout(DIM, 3)
    within = TokenNet([WithGraph(complete), near])
    for layers, readout, reads in (
        ([WithGraph(complete), near], None, set()),
        ([near, WithGraph(complete)], None, {"graph"}),
        ([within, near], None, set()),
        ([TokenNet([near]), within], None, {"graph"}),
        ([OnGraph(complete, near)], None, set()),
        ([OnGraph(add_self_loops, near)], None, {"graph"}),
        ([WithGraph(complete), LearnedEncoding(DIM, N)], None, {"index"}),
        ([WithGraph(lambda g: Causal(N)), near], None, {"index", "graph"}),
        ([near], first, {"graph", "index"}),
        ([PrependTokens(DIM), near], first, {"graph"}),
        ([TokenNet([PrependTokens(DIM)]), near], first, {"graph"}),
        ([PrependTokens(DIM)], ClassTokenReadout(DIM, 3, index=1), {"index"}),
        ([PrependTokens(DIM)], ClassTokenReadout(DIM, 3, index=-1), {"index"}),
        ([PrependTokens(DIM, 2), DropTokens(2)], None, set()),
        ([PrependTokens(DIM, 2), DropTokens(2)], first, {"index"}),
        ([PrependTokens(DIM, 2), DropTokens(1)], first, set()),
        ([PrependTokens(DIM), DropTokens(2)], None, {"index"}),
    ):
        assert TokenNet(layers, readout).symmetry.reads == reads, layers


def test_what_a_net_reads_of_its_source():
    tall = TokenNet([CrossAttention(DIM, 2)])
    assert tall.source_symmetry.reads == set()
    assert TokenNet([LearnedEncoding(DIM, N), tall]).source_symmetry.reads == set()
    turned = Residual(CrossAttention(DIM, 2, position=Rotary()))
    assert TokenNet([tall, turned]).source_symmetry.reads == {"index"}
    net = EncoderDecoder(TokenNet([SinusoidalEncoding(DIM), Attention(DIM, 2)]), tall)
    assert net.source_symmetry.reads == {"pos", "graph"}
    assert net.symmetry.reads == {"graph"}


@pytest.mark.parametrize("final_norm", [True, False])
@pytest.mark.parametrize("post_norm", [True, False])
def test_stacks_keep_all_their_blocks(post_norm, final_norm):
    stack = encoder_stack(DIM, 2, 2, config=BlockConfig(post_norm=post_norm), final_norm=final_norm)
    assert len(stack.layers) == 4 + (final_norm and not post_norm)
    net = vit(3, 2, N, DIM, 2, 2, config=BlockConfig(post_norm=post_norm))
    assert len(net.layers) == 4 + 4
    assert len(clip(3, 5, N, DIM, 2, 2, image_dim=DIM, image_heads=2).text.layers) == 2 + 4


def test_ids_outside_the_table_are_refused():
    embedding = Embedding((5, 2), DIM)
    for bad, reason in (
        ([[5, 0]], "column 0 must be integers 0 .. 4, got values from 5"),
        ([[0, -1]], "column 1"),
    ):
        with pytest.raises(ValueError, match=reason):
            embedding(torch.tensor(bad))
    assert embedding(torch.zeros(0, 2, dtype=torch.long)).shape == (0, DIM)


def test_boxes_without_area():
    point = torch.tensor([0.5, 0.5, 0.0, 0.0], requires_grad=True)
    overlap = generalized_iou(point, point.detach())
    overlap.backward()
    assert overlap == 0
    assert point.grad.isfinite().all()


def test_parallel_adds_up_and_goes_step_by_step():
    first, second = Attention(DIM, 2), Residual(Attention(DIM, 2))
    layer, tokens = Parallel([first, second]).double(), tokens_on(Causal(N))
    whole = layer(tokens).z
    torch.testing.assert_close(whole, first(tokens).z + second(tokens).z)
    start, state = layer.step(Tokens(tokens.z[:2]), Causal(2), None)
    end, _ = layer.step(Tokens(tokens.z[2:]), Causal(N).last(N - 2), state)
    torch.testing.assert_close(torch.cat([start.z, end.z]), whole)
    assert layer.flops(tokens) == first.flops(tokens) + second.flops(tokens)
    with pytest.raises(ValueError, match="layers must hold at least one"):
        Parallel([])


def test_a_net_within_a_net_is_asked_only_if_it_listens():
    inner = TokenNet([LearnedEncoding(DIM, N)])
    net = TokenNet([inner, CrossAttention(DIM, 2)]).double()
    z, source = torch.randn(N, DIM).double(), torch.randn(3, DIM).double()
    whole = net(Tokens(z, Causal(N)), source).z
    out, _ = net.step(Tokens(z), Causal(N), None, source)
    torch.testing.assert_close(out.z, whole)


def test_a_net_in_a_residual_connection():
    inner = TokenNet([Attention(DIM, 2), CrossAttention(DIM, 2), TokenWise(nn.GELU())])
    layer = Residual(inner, nn.LayerNorm(DIM)).double()
    z, source = torch.randn(N, DIM).double(), torch.randn(3, DIM).double()
    whole = layer(Tokens(z, Causal(N)), source).z
    torch.testing.assert_close(whole, z + inner(Tokens(layer.norm(z), Causal(N)), source).z)
    start, state = layer.step(Tokens(z[:2]), Causal(2), None, source)
    end, _ = layer.step(Tokens(z[2:]), Causal(N).last(N - 2), state, source)
    torch.testing.assert_close(torch.cat([start.z, end.z]), whole)
    assert layer.needs_source
    assert layer.takes_source
    assert not layer.is_tokenwise
    alone = Residual(TokenNet([TokenWise(nn.GELU())]))
    assert alone.is_tokenwise
    with pytest.raises(TypeError, match="Residual accepts no source"):
        alone(z, source)
    assert layer.flops(Tokens(z), source) == inner.flops(Tokens(z), source)


def test_a_gated_mlp_by_hand():
    layer, z = SwiGLU(6, 5).double(), torch.randn(3, 6, dtype=torch.float64)
    inner = layer.gate(z) * layer.gate(z).sigmoid() * layer.up(z)
    torch.testing.assert_close(layer(z), inner @ layer.down.weight.T)
    assert layer.gate.bias is layer.up.bias is layer.down.bias is None
    assert SwiGLU(6).gate.out_features == 16


def test_the_token_wise_layer_of_blocks_is_given_or_gated():
    plain, gated = BlockConfig(), BlockConfig(gated=True)
    own = BlockConfig(tokenwise=lambda dim, hidden: TokenWise(nn.Linear(dim, dim)))
    made = [config.block([], 8)[0].layer.fn for config in (plain, gated, own)]
    assert [type(function) for function in made] == [nn.Sequential, SwiGLU, nn.Linear]
    assert BlockConfig(gated=True).block([], 8, hidden=0) == []
    with pytest.raises(ValueError, match="gated must be False where tokenwise is given, got True"):
        BlockConfig(gated=True, tokenwise=own.tokenwise)
