"""The backend of a call is decided once for each signature, and remembered with the graph."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.contracts.backends import FAMILIES
from tests.families import by_default
from tests.ops.kinds import KINDS, call, make_inputs
from tokennet import Full, Window, attend, explain
from tokennet.ops import BACKENDS, planner
from tokennet.ops.call import make_call
from tokennet.ops.planner import MOST_CHOICES, choose, decide


@pytest.fixture
def decided(monkeypatch):
    """Every decision, as (backend named, backend chosen)."""
    found, real = [], planner.decide

    def spy(call, backend, backends):
        found.append((backend, real(call, backend, backends)))
        return found[-1][1]

    monkeypatch.setattr(planner, "decide", spy)
    return found


def remembered(graph):
    return graph.cached(planner._no_choices)


def tangent(function, inputs):
    q = inputs["q"].detach()
    return torch.func.jvp(lambda q: function({**inputs, "q": q}), (q,), (torch.ones_like(q),))


def slope(function, inputs):
    q = inputs["q"].detach()
    return torch.func.grad(lambda q: function({**inputs, "q": q}).sum())(q)


def mapped(function, inputs):
    q = inputs["q"].detach()
    return torch.func.vmap(lambda q: function({**inputs, "q": q}))(torch.stack([q, q]))


def plain(function, inputs):
    return function(inputs)


def detached(inputs):
    return {name: x.detach() for name, x in inputs.items()}


GRAPH = Window(9, 2)
CHANGES = {
    "nothing": {},
    "dtype": {"inputs": make_inputs("dot", GRAPH, dtype=torch.float32)},
    "batch": {"inputs": make_inputs("dot", GRAPH, (3,))},
    "heads": {"inputs": make_inputs("dot", GRAPH, num_heads=3)},
    "channels": {"inputs": make_inputs("dot", GRAPH, channels=4)},
    "values": {"inputs": make_inputs("dot", GRAPH, values=5)},
    "no requires_grad": {"inputs": detached(make_inputs("dot", GRAPH))},
    "no grad": {"context": torch.no_grad},
    "without flash": {"context": lambda: sdpa_kernel(SDPBackend.MATH)},
    "tangent": {"run": tangent},
    "func.grad": {"run": slope},
    "vmap": {"run": mapped},
    "another backend": {"backend": "reference"},
    "bias without requires_grad": {
        "kind": "edge_bias",
        "inputs": {**make_inputs("dot", GRAPH), "bias": torch.randn(GRAPH.num_edges, 2).double()},
    },
    "wider features": {"kind": "edge_key", "inputs": make_inputs("edge_key", GRAPH, features=7)},
    **{kind: {"kind": kind} for kind in KINDS if kind not in ("dot", "shared_pair_bias")},
}
SAME = {"edge_value"}
"""Decided with `edge_key`: whether features enter keys or values changes no cost."""


def run(change, graph):
    kind = change.get("kind", "dot")
    inputs = change.get("inputs") or make_inputs(kind, graph)
    options = {"backend": change.get("backend", "auto")}
    with change.get("context", nullcontext)():
        change.get("run", plain)(lambda given: call(kind, given, graph, **options), inputs)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_each_change_is_decided_anew_and_once(decided):
    graph = Window(9, 2)
    for name, change in CHANGES.items():
        before = len(decided)
        for _ in range(2):
            run(change, graph)
        assert len(decided) - before == (name not in SAME), name
    for change in CHANGES.values():
        run(change, graph)
    assert len(decided) == len(remembered(graph)) == len(CHANGES) - 1


@pytest.mark.parametrize("family", by_default(FAMILIES))
def test_a_remembered_choice_is_that_of_a_fresh_decision(family):
    graph = FAMILIES[family]()
    for kind in KINDS:
        for batch in ((), (2,)):
            inputs = make_inputs(kind, graph, batch)
            for context in (nullcontext, torch.no_grad, lambda: sdpa_kernel(SDPBackend.MATH)):
                with context():
                    folded = call(kind, inputs, graph, make_call)
                    fresh = decide(folded, "auto", BACKENDS)
                    for _ in range(2):
                        assert choose(folded, "auto", BACKENDS) == fresh
                    told = call(kind, inputs, graph, explain)
                    assert told.chosen == fresh


def test_a_graph_remembers_a_bounded_number_of_signatures(decided):
    graph = Window(5, 1)
    for batch in range(3 * MOST_CHOICES):
        q = torch.zeros(batch, 5, 1, 2)
        attend(q, q, q, graph)
        assert 0 < len(remembered(graph)) <= MOST_CHOICES
    assert len(decided) == 3 * MOST_CHOICES
    assert remembered(pickle.loads(pickle.dumps(graph))) == {}


def test_threads_share_what_is_remembered():
    graph = Window(5, 1)
    inputs = [torch.randn(batch % 100, 5, 1, 2) for batch in range(400)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda q: attend(q, q, q, graph), inputs))
    assert len(remembered(graph)) <= MOST_CHOICES
    for q, out in zip(inputs, together, strict=True):
        torch.testing.assert_close(out, attend(q, q, q, graph, backend="reference"))


def test_a_refusal_is_not_remembered():
    graph, q = Window(5, 1), torch.zeros(5, 1, 2)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="'ragged' cannot run this call: .* not a ragged"):
            attend(q, q, q, graph, backend="ragged")
        with pytest.raises(ValueError, match="got 'denze'; did you mean dense?"):
            attend(q, q, q, graph, backend="denze")
    assert remembered(graph) == {}


def test_sizes_that_are_symbols_are_decided_anew():
    graph, q = Full(5), torch.randn(3, 5, 1, 2)
    program = make_fx(lambda q: attend(q, q, q, graph), tracing_mode="symbolic")(q)
    assert remembered(graph) == {}
    few = torch.randn(2, 5, 1, 2)
    torch.testing.assert_close(program(few), attend(few, few, few, graph))


def test_a_backend_without_constants_is_a_last_resort(monkeypatch):
    reference = BACKENDS["reference"]
    able = SimpleNamespace(unsupported=lambda call: None, work=reference.work, run=reference.run)
    monkeypatch.setitem(BACKENDS, "new", able)
    q = torch.randn(9, 2, 4)
    told = explain(q, q, q, Window(9, 2))
    assert told.chosen != "new"
    assert "new        not measured: tokennet bench --calibrate" in str(told)
    attend(q, q, q, Window(9, 2), backend="new")
    for name in set(BACKENDS) - {"new", "reference"}:
        never = SimpleNamespace(unsupported=lambda call: "never", work=None, run=None)
        monkeypatch.setitem(BACKENDS, name, never)
    assert explain(q, q, q, Window(9, 2)).chosen == "new"
