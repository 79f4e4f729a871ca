"""Nets of the user's own: how they are called, drawn for each seed, sized and counted."""

import json
import sys

import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv, global_add_pool

from tests.compare.tasks_for_tests import Majority, Nodes, Sets, Sized
from tokennet import Full, Tokens
from tokennet.compare import TASKS, Budget, NetSpec, OwnNet, Width, compare
from tokennet.compare.adapters import OnGraphs
from tokennet.compare.budget import FIXED, example, find_widths, flops_of
from tokennet.compare.named import specs_of
from tokennet.compare.own_nets import parts_without_reset

QUICK = Budget(epochs=1)


class CNN(nn.Module):
    """Called with images."""

    def __init__(self, size, classes=10):
        super().__init__()
        self.conv, self.last = nn.Conv2d(1, size, 3, padding=1), nn.Linear(size, classes)

    def forward(self, x):
        return self.last(self.conv(x).relu().mean((2, 3)))


class Graphs(nn.Module):
    """Called as nets of PyG are."""

    def __init__(self, size=8, pooled=True, inputs=1):
        super().__init__()
        self.conv, self.last, self.pooled = GCNConv(inputs, size), nn.Linear(size, 2), pooled

    def forward(self, x, edge_index, batch=None):
        self.given = x, edge_index, batch
        z = self.conv(x, edge_index).relu()
        return self.last(global_add_pool(z, batch) if self.pooled else z)


class Table(nn.Module):
    """Parameters that nothing draws again."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.ones(2))

    def forward(self, tokens):
        return tokens.z.mean(-2) * self.table


def of(task, *nets, seeds=1):
    return specs_of(task, [*nets], seeds)


def test_classes_functions_and_modules_are_compared_with_the_nets_of_the_task(tmp_path):
    own = [Sized, lambda size: Sized(size), Sets(), Graphs]
    nets = [OwnNet(own[1], "function"), Sized, OwnNet(own[2], "module"), own[3], "mean@ring"]
    budget = Budget(epochs=1, size=800)
    result = compare(Majority(), nets=nets, seeds=2, budget=budget, out=tmp_path)
    names = ["function@full", "Sized@full", "module@full", "Graphs@full", "mean@ring"]
    assert [row.net for row in result.rows] == names
    assert [row.own and row.own.split(";")[0] for row in result.rows] == [
        "tokens", "tokens", "tokens", "x, edge_index, batch", None,
    ]  # fmt: skip
    again = compare(Majority(), nets=nets, seeds=2, budget=budget, out=tmp_path)
    assert again.reused == 10
    assert again.rows == result.rows


def test_a_net_of_a_fixed_size_is_matched_by_the_others():
    task = Majority()
    specs = of(task, lambda: Sets(400), "mean@ring", Sized, OwnNet(Sets(8), "small"))
    widths = find_widths(task, specs, task.config, "params", None)
    size = 400 * 2 + 400 * 2 + 2
    assert widths[specs[0]] == widths[specs[3]] == FIXED
    assert widths[specs[2]] == Width(400, 0)
    cost = sum(p.numel() for p in specs[1].build(task, task.config, widths[specs[1]]).parameters())
    assert cost == pytest.approx(size, rel=0.02)
    widths = find_widths(task, specs, task.config, "params", 6_000)
    assert widths[specs[2]] == Width(1_499, 0)
    with pytest.raises(ValueError, match=r"has 34 params .*the size of Sets@full, which is fixed"):
        find_widths(task, of(task, Sets, "mean@ring"), task.config, "params", None)


def test_a_function_that_cannot_be_made_of_every_size_is_made_of_the_next():
    def heads(size):
        assert size % 4 == 0, "heads must divide it"
        return Sets(size)

    task = Majority()
    (spec,) = of(task, heads)
    assert find_widths(task, [spec], task.config, "params", 400)[spec].dim in (96, 100)


def test_modules_are_drawn_again_for_each_seed_and_stay_as_they_are(tmp_path):
    net = Sets()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    budget = Budget(size=800, epochs=1)
    result = compare(Majority(), nets=[net, "mean@ring"], seeds=2, budget=budget, out=tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    first, second = result.runs[:2]
    assert first.curves != second.curves
    assert "a module as given, drawn again" in result.rows[0].own


def test_parameters_that_cannot_be_drawn_again_are_refused_for_several_seeds(tmp_path):
    assert parts_without_reset(Table()) == ["Table"]
    assert parts_without_reset(nn.TransformerEncoderLayer(8, 2)) == ["MultiheadAttention"]
    with pytest.raises(ValueError, match="Table cannot be drawn again for each of 2 seeds, Table"):
        of(Majority(), Table(), seeds=2)
    budget = Budget(epochs=1, size=800)
    first = compare(Majority(), nets=[Table()], seeds=1, budget=budget, out=tmp_path)
    assert first.rows[0].own == "tokens; a module as given"
    other = Table()
    nn.init.zeros_(other.table)
    second = compare(Majority(), nets=[other], seeds=1, budget=budget, out=tmp_path)
    assert (second.reused, first.runs[0].curves == second.runs[0].curves) == (0, False)


def test_images_are_those_that_the_tokens_were_cut_from():
    task = TASKS["digits"]()
    (spec,) = of(task, CNN)
    assert (spec.called, str(spec)) == ("images", "CNN")
    batch = task.batch(torch.arange(2), "full")
    net = spec.build(task, task.config, Width(4, 0))
    from sklearn.datasets import load_digits

    pixels = torch.tensor(load_digits().images[:2] / 16).float()[:, None]
    assert torch.equal(task.to_images(batch.tokens), pixels)
    torch.testing.assert_close(batch.run(net), net.net(pixels))
    with pytest.raises(ValueError, match="task majority has no images"):
        Majority().to_images(batch.tokens)


def test_a_net_that_answers_cell_by_cell_is_read_token_by_token():
    task = TASKS["arrows"](examples=16)

    def cells(size):
        return nn.Sequential(nn.Conv2d(1, size, 8, stride=8), nn.Conv2d(size, 10, 3, padding=1))

    (spec,) = of(task, cells)
    batch = task.batch(torch.arange(2), "full")
    net = spec.build(task, task.config, Width(4, 0))
    maps = net.net(task.to_images(batch.tokens))
    assert maps.shape == (2, 10, 6, 6)
    assert torch.equal(batch.run(net)[:, 7], maps[:, :, 1, 1])


@pytest.mark.parametrize("pooled", [True, False])
def test_graphs_of_a_batch_are_apart_and_answers_of_nodes_are_averaged(pooled):
    task = Majority()
    own = Graphs(8, pooled)
    net = OnGraphs(own, answers_by_token=False)
    batch = task.batch(torch.arange(3), "ring")
    together = batch.run(net)
    x, edges, sets = own.given
    assert x.shape == (15, 1)
    assert sets.tolist() == [0] * 5 + [1] * 5 + [2] * 5 if pooled else sets is not None
    assert (edges[0] // 5 == edges[1] // 5).all()
    for number in range(3):
        single = batch.tokens.replace(z=batch.tokens.z[number])
        torch.testing.assert_close(net(single)[0], together[number])
        if not pooled:
            nodes = own(single.z, single.graph.edge_index())
            torch.testing.assert_close(nodes.mean(0), together[number])


def test_one_graph_whose_nodes_are_the_examples():
    task = Nodes()
    (spec,) = of(task, lambda size: Graphs(size, pooled=False))
    batch = task.batch(torch.arange(4), "full")
    assert batch.run(spec.build(task, task.config, Width(4, 0))).shape == (4, 2)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (
            lambda: nn.Linear(3, 2),
            "Linear does not run. As a net of tokens: TypeError.*; of images",
        ),
        (lambda: CNN(4), "does not run. As a net of tokens: .*; of images: .*has no images"),
        (lambda: OwnNet(Sets, graph="star"), "graph must be one of full, ring; got 'star'"),
        (lambda: "tests.compare.tasks_for_tests:Nothing", "has no 'Nothing'"),
        (lambda: "atention:gram@full", "did you mean attention"),
        (lambda: "pyg:GNC", "net pyg must be one of .*did you mean GIN or GCN"),
        (lambda: lambda: 3, "what <lambda> returns must be a module, got int"),
        (lambda: lambda size: Graphs(size, False, 7), "does not run. As a net of graph: "),
    ],
)
def test_what_does_not_run_is_told(net, message):
    with pytest.raises(ValueError, match=message):
        of(Majority(), net())


def test_an_output_of_another_shape_is_refused():
    def wide():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 12))

    with pytest.raises(ValueError, match=r"must have shape \(2, 10\), got \(2, 12\)"):
        of(TASKS["digits"](), wide)


def test_nets_of_one_name_are_refused():
    with pytest.raises(ValueError, match="nets must have different names: write OwnNet"):
        of(Majority(), Sets, Sets(4))


def test_a_net_may_have_its_own_training(tmp_path):
    nets = [OwnNet(Sets, training={"lr": 1e-4, "epochs": 3}), OwnNet(Sets, "other")]
    seen = []
    result = compare(
        Majority(), nets=nets, seeds=1, budget=QUICK, out=tmp_path,
        on_progress=lambda *progress: seen.append(progress),
    )  # fmt: skip
    assert [len(run.curves["loss"]) for run in result.runs] == [3, 1]
    assert [row.own for row in result.rows] == [
        "tokens; fixed size; lr 0.0001; epochs 3", "tokens; fixed size",
    ]  # fmt: skip
    assert seen[-1][1:] == (4, 4)
    stored = [json.loads(f.read_text())["config"] for f in (tmp_path / "runs").glob("*.json")]
    assert sorted(config["training"]["lr"] for config in stored) == [1e-4, 1e-2]
    with pytest.raises(ValueError, match="training must be one of epochs, .*; did you mean lr"):
        OwnNet(Sets, training={"l": 1})


def test_flops_are_counted_by_torch_or_not_shown():
    task = Majority()
    net = Sets(8)
    assert flops_of(net, example(task, NetSpec("mean", "full"))) == 2 * (5 * 8 + 8 * 2)
    assert flops_of(Table(), example(task, NetSpec("mean", "full"))) is None
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    from tokennet.compare import Batch

    batch = Batch(Tokens(torch.zeros(1, 5, 8)), torch.zeros(1))
    counted = flops_of(Called(layer), batch)
    linear = 2 * 5 * (4 * 8 * 8 + 2 * 8 * 16)
    assert counted == linear + 2 * 2 * 5 * 5 * 8
    assert torch.backends.mha.get_fastpath_enabled()


class Called(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, tokens):
        return self.net(tokens.z)


def test_nets_by_name_from_the_shell(tokennet, tmp_path):
    here = "tests.compare.test_own_nets"
    nets = f"{here}:Sized,mean@ring,pyg:GCN@ring,{here}:Graphs@ring"
    task = "tests.compare.tasks_for_tests:Majority"
    quick = ("--epochs", 1, "--seeds", 1, "--size", 800, "--out", tmp_path, "--workers", 1)
    done = tokennet("compare", task, "--nets", nets, *quick)
    assert done.returncode == 0, done.stderr
    for name in ("Sized@full", "GCN@ring", "Graphs@ring", "nets of your own", "x, edge_index"):
        assert name in done.stdout


def test_a_function_typed_at_a_prompt_cannot_be_sent_to_workers(tmp_path):
    with pytest.raises(ValueError, match="workers must be 1: net Sets@full cannot be sent"):
        compare(Majority(), nets=[lambda: Sets()], seeds=2, workers=2, out=tmp_path)


def test_models_of_timm_read_the_images_of_a_task():
    from tests.peers_timm import timm  # noqa: F401

    task = TASKS["digits"]()
    small = "timm:vit_tiny_patch16_224(patch_size=4, embed_dim=24, depth=2, num_heads=3)"
    vit, resnet = of(task, small, "timm:resnet10t")
    assert [str(vit), str(resnet)] == ["vit_tiny_patch16_224", "resnet10t"]
    batch = task.batch(torch.arange(2), "full")
    for spec in (vit, resnet):
        assert batch.run(spec.build(task, task.config, FIXED)).shape == (2, 10)
    with pytest.raises(ValueError, match="net timm must be one of .*vit_tiny"):
        of(task, "timm:vit_tiny_patch16_225")


def test_timm_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="timm"):
        of(TASKS["digits"](), "timm:resnet10t")


def test_the_graph_of_pyg_is_that_of_the_tokens():
    own = Graphs(4, pooled=False)
    OnGraphs(own, answers_by_token=True)(Tokens(torch.zeros(3, 1), Full(3)))
    assert own.given[1].shape == (2, 9)
