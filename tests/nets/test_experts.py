"""Mixtures of experts: Hugging Face's Mixtral and Switch, losses, capacity."""

import copy

import pytest
import torch
from torch import nn
from transformers import MixtralConfig, SwitchTransformersConfig
from transformers.models.mixtral.modeling_mixtral import (
    MixtralSparseMoeBlock,
)
from transformers.models.mixtral.modeling_mixtral import (
    load_balancing_loss_func as mixtral_balance,
)
from transformers.models.switch_transformers.modeling_switch_transformers import (
    SwitchTransformersSparseMLP,
    router_z_loss_func,
)

from tests.mixers.same_weights import compare
from tokennet import Causal, Cycle, Full, Residual, Symmetry, TokenNet, Tokens, Window
from tokennet.nets import MixtureOfExperts, collect_router_losses
from tokennet.nets.experts import Routing, router_losses
from tokennet.testing import check_declared

DIM, HIDDEN, EXPERTS = 8, 12, 4


class Gated(nn.Module):
    """The expert of Mixtral."""

    def __init__(self):
        super().__init__()
        self.gate_up = nn.Linear(DIM, 2 * HIDDEN, bias=False)
        self.down = nn.Linear(HIDDEN, DIM, bias=False)

    def forward(self, z):
        gate, up = self.gate_up(z).chunk(2, -1)
        return self.down(nn.functional.silu(gate) * up)


def switch_expert():
    return nn.Sequential(
        nn.Linear(DIM, HIDDEN, bias=False), nn.ReLU(), nn.Linear(HIDDEN, DIM, bias=False)
    )


def tied(pairs):
    with torch.no_grad():
        for mine, other in pairs:
            mine.copy_(other)
    return pairs


@pytest.mark.parametrize("top_k", [2, 4])
def test_it_is_the_sparse_block_of_mixtral(top_k):
    config = MixtralConfig(
        hidden_size=DIM,
        intermediate_size=HIDDEN,
        num_local_experts=EXPERTS,
        num_experts_per_tok=top_k,
    )
    theirs = MixtralSparseMoeBlock(config)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours = MixtureOfExperts(DIM, EXPERTS, top_k, expert=Gated)
    ours, theirs = ours.double(), theirs.double()
    gate, gate_up, down = theirs.gate.weight, theirs.experts.gate_up_proj, theirs.experts.down_proj
    pairs = [(ours.router.weight, gate)]
    for number, expert in enumerate(ours.experts):
        pairs += [(expert.gate_up.weight, gate_up[number]), (expert.down.weight, down[number])]
    tied(pairs)
    z = torch.randn(2, 9, DIM).double().requires_grad_()
    outs = ours(z), theirs(z)
    weight = torch.randn(2, 9, DIM).double()
    found = torch.autograd.grad((outs[0] * weight).sum(), [z, *ours.parameters()])
    whole = torch.autograd.grad((outs[1] * weight).sum(), [z, gate, gate_up, down])
    of_experts = [whole[part][number] for number in range(EXPERTS) for part in (2, 3)]
    # Its router takes the softmax in float32, whatever the type of the model.
    wanted = [outs[1], whole[0], whole[1], *of_experts]
    for got, want in zip([outs[0], *found], wanted, strict=True):
        assert (got - want).abs().max() < 1e-6 * want.abs().max().clamp(min=1.0)


def switch_pair(capacity):
    config = SwitchTransformersConfig(
        d_model=DIM,
        d_ff=HIDDEN,
        num_experts=EXPERTS,
        expert_capacity=capacity,
        dropout_rate=0.0,
        router_jitter_noise=0.0,
    )
    theirs = SwitchTransformersSparseMLP(config)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    theirs = theirs.double()
    theirs.router.dtype = torch.float64
    factor = None if capacity is None else capacity * EXPERTS / 9
    ours = MixtureOfExperts(DIM, EXPERTS, 1, expert=switch_expert, capacity_factor=factor).double()
    pairs = [(ours.router.weight, theirs.router.classifier.weight)]
    for number, expert in enumerate(ours.experts):
        other = theirs.experts[f"expert_{number}"]
        pairs += [(expert[0].weight, other.wi.weight), (expert[2].weight, other.wo.weight)]
    return ours, theirs, tied(pairs)


@pytest.mark.parametrize("capacity", [2, 3, 9])
def test_it_is_the_sparse_block_of_switch_transformers_with_its_capacity(capacity):
    ours, theirs, pairs = switch_pair(capacity)
    z = torch.randn(3, 9, DIM).double().requires_grad_()
    out = ours(z)
    dropped = (out == 0).all(-1)
    assert bool(dropped.any()) == (capacity < 9)
    compare(out, theirs(z), z, pairs)
    torch.testing.assert_close(Residual(ours)(z)[dropped], z[dropped], rtol=0, atol=0)


def test_losses_are_those_of_mixtral_and_switch():
    logits = torch.randn(2, 9, EXPERTS).double()
    flat = logits.flatten(0, 1)
    for top_k in (1, 2, 4):
        gates, experts = flat.softmax(-1).topk(top_k)
        got = router_losses(Routing(flat, experts, gates))
        want = mixtral_balance((flat,), EXPERTS, top_k)  # the sum over K choices, here the mean
        torch.testing.assert_close(float(got.balance) * top_k, float(want), rtol=1e-6, atol=0)
        torch.testing.assert_close(got.z, router_z_loss_func(logits))


def test_balance_is_one_for_equal_use_and_grows_with_imbalance():
    even = Routing(torch.zeros(8, 4), torch.arange(8)[:, None] % 4, torch.ones(8, 1))
    assert float(router_losses(even).balance) == 1.0
    logits = torch.tensor([20.0, 0, 0, 0]).repeat(8, 1)
    alone = Routing(logits, torch.zeros(8, 1, dtype=torch.long), torch.ones(8, 1))
    assert float(router_losses(alone).balance) == pytest.approx(4.0, abs=1e-3)
    none = Routing(torch.zeros(0, 4), torch.zeros(0, 1, dtype=torch.long), torch.zeros(0, 1))
    assert [float(loss) for loss in router_losses(none)] == [0.0, 0.0]


def test_losses_are_collected_from_a_net_and_train_its_routers():
    layers = [Residual(MixtureOfExperts(DIM, EXPERTS)), Residual(MixtureOfExperts(DIM, EXPERTS))]
    net, z = TokenNet([*layers, TokenNet([layers[0]])]), torch.randn(20, DIM)
    net(z)
    with collect_router_losses(net) as losses:
        net(z)
        assert len(losses) == 3
    sum(each.balance + each.z for each in losses).backward()
    assert all(layer.layer.router.weight.grad.abs().max() > 0 for layer in layers)
    net(z)
    assert len(losses) == 3
    assert layers[0].layer.collected is None
    copy.deepcopy(net)


def test_training_on_the_balance_evens_out_the_use():
    layer, z = MixtureOfExperts(DIM, EXPERTS, 1), torch.randn(200, DIM)
    with torch.no_grad():
        z += 1.0
        layer.router.weight[0] += 1.0  # the first expert is everyone's favorite
    optimizer, history = torch.optim.Adam([layer.router.weight], 0.05), []
    for _ in range(60):
        with collect_router_losses(layer) as losses:
            layer(z)
        history.append(losses[0].balance.item())
        optimizer.zero_grad()
        losses[0].balance.backward()
        optimizer.step()
    assert history[0] > 2.5
    assert history[-1] < 1.3


def by_hand(layer, z):
    probability = (z @ layer.router.weight.T).softmax(-1)
    outs = torch.stack([expert(z) for expert in layer.experts], -2)  # (..., N, E, D)
    best = probability.topk(layer.top_k).indices
    gates = torch.zeros_like(probability).scatter(-1, best, probability.gather(-1, best))
    if layer.renormalize:
        gates = gates / gates.sum(-1, keepdim=True)
    return (gates[..., None] * outs).sum(-2)


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_each_token_is_the_mixture_of_its_experts(top_k):
    layer, z = MixtureOfExperts(DIM, EXPERTS, top_k).double(), torch.randn(2, 9, DIM).double()
    z.requires_grad_()
    parameters = list(layer.parameters())
    compare(layer(z), by_hand(layer, z), z, [(p, p) for p in parameters])


def test_without_a_capacity_it_is_token_wise():
    layer = MixtureOfExperts(DIM, EXPERTS, 2).double()
    assert layer.symmetry == Symmetry()
    report = check_declared(layer, Tokens(torch.randn(6, DIM), Cycle(6, 1)))
    assert report.holds, report
    sets = [Tokens(torch.randn(2, n, DIM).double()) for n in (4, 0, 1, 6)]
    for part, alone in zip(layer(Tokens.batch(sets)).unbatch(), sets, strict=True):
        torch.testing.assert_close(part.z, layer(alone).z)
    first, _ = layer.step(Tokens(sets[0].z[:, :1]), Full(1))
    torch.testing.assert_close(first.z, layer(sets[0]).z[:, :1])


def test_a_capacity_breaks_all_permutations_and_is_declared_to():
    layer = MixtureOfExperts(DIM, 2, 1, capacity_factor=0.5).double()
    assert layer.symmetry == Symmetry({"index"})
    z = torch.randn(8, DIM).double()
    assert not torch.allclose(layer(z.flip(0)), layer(z).flip(0))
    free = copy.deepcopy(layer)
    free.capacity_factor = None
    torch.testing.assert_close(free(z.flip(0)), free(z).flip(0))
    with pytest.raises(TypeError, match="does not support incremental decoding"):
        layer.step(Tokens(z), Full(8))


def unlimited(layer):
    free = copy.deepcopy(layer)
    free.capacity = free.capacity_factor = None
    return free


@pytest.mark.parametrize("top_k", [1, 2])
def test_sets_are_served_apart_and_the_past_never_depends_on_the_future(top_k):
    layer = MixtureOfExperts(DIM, EXPERTS, top_k, capacity_factor=0.6).double()
    sets = [Tokens(torch.randn(2, n, DIM).double()) for n in (9, 0, 5, 12)]
    for part, alone in zip(layer(Tokens.batch(sets)).unbatch(), sets, strict=True):
        torch.testing.assert_close(part.z, layer(alone).z)
        torch.testing.assert_close(part.z[1], layer(alone.z[1]))
    layer, z = MixtureOfExperts(DIM, EXPERTS, top_k, capacity=2).double(), sets[3].z[0]
    out = layer(Tokens(z, Causal(12))).z
    other = torch.cat([z[:7], torch.randn(5, DIM).double()])
    torch.testing.assert_close(layer(Tokens(other, Causal(12))).z[:7], out[:7])
    torch.testing.assert_close(layer(Tokens(z[:7], Causal(7))).z, out[:7])
    assert not torch.allclose(out, unlimited(layer)(z))


@pytest.mark.parametrize("top_k", [1, 2])
def test_in_steps_the_queues_go_on(top_k):
    layer = MixtureOfExperts(DIM, EXPERTS, top_k, capacity=2).double()
    z, state, outs, done = torch.randn(3, 12, DIM).double(), None, [], 0
    for size in (5, 1, 1, 5):
        new, done = z[:, done : done + size], done + size
        graph = (Causal(done) if done < 12 else Window(done, done)).last(size)
        out, state = layer.step(Tokens(new), graph, state)
        outs.append(out.z)
    torch.testing.assert_close(torch.cat(outs, dim=1), layer(Tokens(z, Causal(12))).z)
    _, again = layer.step(Tokens(z[1:2, :5]), Causal(5))
    _, several = layer.step(Tokens(z[:, :5]), Causal(5))
    torch.testing.assert_close(several[1:2], again)  # rows of the state are those of the tokens
    with pytest.raises(ValueError, match="graph must let each token attend to all before it"):
        layer.step(Tokens(z[:, :2]), Window(6, 1).last(2))


@pytest.mark.parametrize("capacity", [{"capacity_factor": 0.5}, {"capacity": 4}])
def test_no_expert_takes_more_than_its_capacity(capacity):
    layer = MixtureOfExperts(DIM, EXPERTS, 2, **capacity)
    sizes = []
    for expert in layer.experts:
        expert.register_forward_hook(lambda module, given, out: sizes.append(len(given[0])))
    layer(torch.randn(16, DIM))
    assert max(sizes) == 4  # 0.5 x 2 x 16 / 4


def test_a_capacity_needs_a_graph_in_which_the_past_is_visible():
    layer, z = MixtureOfExperts(DIM, EXPERTS, capacity=1), torch.zeros(6, DIM)
    assert layer.symmetry == Symmetry({"index"})
    layer(Tokens(z, Causal(6)))
    layer(Tokens(z, Causal(6) | Window(6, 1)))
    with pytest.raises(ValueError, match="graph must let each token attend to all before it"):
        layer(Tokens(z, Window(6, 2)))


def test_a_capacity_that_is_a_share_needs_all_to_be_visible():
    layer, z = MixtureOfExperts(DIM, EXPERTS, capacity_factor=1.0), torch.zeros(6, DIM)
    layer(Tokens(z, Causal(6) | Causal(6).T))
    layer(Tokens.batch([Tokens(z), Tokens(z)]))
    for graph in (Causal(6), Causal(6) | Window(6, 1)):
        with pytest.raises(ValueError, match="graph must let each token attend to all others"):
            layer(Tokens(z, graph))


def test_experts_without_tokens_get_zero_gradients():
    layer = MixtureOfExperts(DIM, EXPERTS, 1)
    layer(torch.randn(1, DIM)).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_jitter_acts_in_training_only():
    layer, z = MixtureOfExperts(DIM, EXPERTS, jitter=0.5), torch.randn(30, DIM)
    assert not torch.allclose(layer(z), layer(z))
    logits = MixtureOfExperts(1, EXPERTS, jitter=0.1)
    nn.init.ones_(logits.router.weight)
    seen = logits.route(torch.ones(1_000, 1)).logits[:, 0]  # what the router sees of each
    assert 0.9 <= seen.min() < 0.91
    assert 1.09 < seen.max() <= 1.1
    layer.eval()
    assert torch.equal(layer(z), layer(z))


def test_half_precision_and_autocast():
    layer, z = MixtureOfExperts(DIM, EXPERTS), torch.randn(30, DIM)
    exact = layer(z)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(z)
        routing = layer.route(z)
    assert (out.float() - exact).abs().max() < 0.05 * exact.abs().max()
    assert routing.logits.dtype == torch.float32  # in which experts are chosen
    assert torch.equal(routing.logits, layer.route(z).logits)
    half = copy.deepcopy(layer).bfloat16()(z.bfloat16())
    assert half.dtype == torch.bfloat16
    assert half.isfinite().all()


def test_export_routes_new_data_anew():
    layer, z = MixtureOfExperts(DIM, EXPERTS), torch.randn(2, 6, DIM)
    program = torch.export.export(layer, (z,))
    other = torch.randn(2, 6, DIM)
    torch.testing.assert_close(program.module()(other), layer(other))


def test_flops_are_those_of_the_chosen_experts():
    layer = MixtureOfExperts(DIM, EXPERTS, 2)
    expected = 2 * 10 * DIM * EXPERTS + 2 * 10 * 2 * 2 * DIM * 4 * DIM
    assert layer.flops(Tokens(torch.randn(2, 5, DIM))) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 5}, r"top_k must be in 1 .. num_experts = 4, got 5"),
        ({"top_k": 0}, r"top_k must be in 1 .. num_experts = 4, got 0"),
        ({"capacity_factor": 0.0}, "capacity_factor must be positive, got 0.0"),
        ({"capacity": 0}, "capacity must be at least 1, got 0"),
        ({"capacity": 1, "capacity_factor": 1.0}, "capacity must be None beside a capacity_f"),
        ({"jitter": 2.0}, r"jitter must be in 0 .. 1, got 2.0"),
        ({"jitter": -0.1}, r"jitter must be in 0 .. 1, got -0.1"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        MixtureOfExperts(DIM, EXPERTS, **options)
