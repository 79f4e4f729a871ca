"""Nets are pickled and copied with the functions they hold; those that cannot be are named."""

import copy
import io
import pickle
import subprocess
import sys
from functools import partial

import pytest
import torch

from tests.axes import spread
from tokennet import Attention, Causal, Tokens, TokenWise, Window
from tokennet.mixers import scores
from tokennet.models import NETS, gpt, vit
from tokennet.nets import OnGraph, WithGraph

DIM = 8


def narrow(n, radius=1):
    return Causal(n) & Window(n, radius)


def language_model(graph):
    return gpt(9, DIM, 1, 2, 12, graph=graph).eval()


HOLDERS = {
    "graph of Decoder": lambda: language_model(lambda n: narrow(n)),
    "graph_of of PatchGrid": lambda: vit(12, 3, 16, DIM, 1, 2, graph=lambda grid: grid.reach(1)),
    "graph_of of WithGraph": lambda: WithGraph(lambda graph: graph),
    "graph_of of OnGraph": lambda: OnGraph(lambda graph: graph, Attention(DIM, 2)),
    "fn of TokenWise": lambda: TokenWise(lambda z: 2 * z),
    "function of _Function": lambda: Attention(
        DIM, 2, score=scores.DotProduct(query=lambda z: 2 * z)
    ),
}


@pytest.fixture
def plain(monkeypatch):
    """No other package that pickles functions is loaded."""
    for name in [
        name for name in sys.modules if name.rpartition(".")[2] in ("cloudpickle", "dill")
    ]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_function_that_cannot_be_pickled_is_named(holder, plain):
    net = HOLDERS[holder]()
    reason = rf"{holder} must be a function that can be imported, .* got .*<lambda> of tests"
    with pytest.raises(pickle.PicklingError, match=reason):
        pickle.dumps(net)
    with pytest.raises(pickle.PicklingError, match=reason):
        torch.save(net, io.BytesIO())


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_such_nets_are_copied(holder, copied):
    net = HOLDERS[holder]()
    for name, part in copied(net).named_modules():
        for attribute, value in vars(net.get_submodule(name)).items():
            if callable(value):
                assert getattr(part, attribute) is value, attribute


def test_named_functions_and_partial_ones_are_pickled():
    ids = torch.randint(9, (2, 6))
    for graph in (narrow, partial(narrow, radius=2)):
        net = language_model(graph)
        want = net(ids)
        assert torch.equal(pickle.loads(pickle.dumps(net))(ids), want)
    layer = WithGraph(Window.reach)
    assert pickle.loads(pickle.dumps(layer)).graph_of is Window.reach


@pytest.mark.parametrize("name", spread(NETS, every=3))
def test_named_nets_are_pickled(name):
    net = pickle.loads(pickle.dumps(NETS[name].on_meta()))
    assert net.symmetry == NETS[name].on_meta().symmetry


def test_cloudpickle_saves_functions_of_any_kind():
    cloudpickle = pytest.importorskip("cloudpickle")
    net, ids = language_model(lambda n: narrow(n)), torch.randint(9, (2, 6))
    assert torch.equal(pickle.loads(cloudpickle.dumps(net))(ids), net(ids))


def test_a_layer_that_is_loaded_goes_on():
    layer = pickle.loads(pickle.dumps(Attention(DIM, 2)))
    assert layer(Tokens(torch.zeros(3, DIM))).z.shape == (3, DIM)


def test_nothing_that_pickles_functions_is_loaded_by_us():
    script = "import sys, tokennet.models; print({'cloudpickle', 'dill'} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
