"""`graph.cached(build, *args)`: locked, bounded, keyed by function, never pickled."""

import ast
import copy
import os
import pickle
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import tokennet
from tokennet import Edges, Window, attend
from tokennet.graphs import repeat
from tokennet.graphs.cache import MOST_KEPT

ROOT = Path(tokennet.__file__).parent
BUILT = []
"""What the functions below have built, since the test began."""


@pytest.fixture(autouse=True)
def _nothing_built():
    BUILT.clear()


def slow_count(graph):
    time.sleep(0.02)
    BUILT.append(graph)
    return torch.tensor(graph.num_edges)


def multiple(graph, factor):
    BUILT.append(factor)
    return factor * graph.num_edges


def power(graph, factor):
    return graph.num_edges**factor


def nested(graph):
    return graph.cached(slow_count) + graph.cached(multiple, 2)


def failing(graph):
    BUILT.append(graph)
    raise ValueError("cannot be built")


def test_what_is_derived_is_built_once_and_not_carried_along():
    graph = Window(6, 1)
    assert graph.cached(slow_count) is graph.cached(slow_count)
    assert [graph] == BUILT
    for twin in (copy.deepcopy(graph), copy.copy(graph), pickle.loads(pickle.dumps(graph))):
        assert twin._cache == {}
        assert twin.cached(slow_count) == graph.num_edges
    assert len(BUILT) == 4
    assert b"slow_count" not in pickle.dumps(graph)


def test_threads_that_ask_at_once_build_once():
    graph, start, results = Window(6, 1), threading.Barrier(8), []

    def derive():
        start.wait()
        results.append(graph.cached(slow_count))

    threads = [threading.Thread(target=derive) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(BUILT) == 1
    assert len(results) == 8
    assert all(result is results[0] for result in results)


@pytest.fixture
def impatient_threads():
    """The interpreter changes between threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_threads_with_batches_of_other_sizes_share_a_graph(impatient_threads):
    for _ in range(20):
        graph = Edges(torch.randint(0, 60, (2, 300)), 60)
        inputs = [torch.randn(batch, 60, 2, 4) for batch in range(2, 12)]
        with ThreadPoolExecutor(len(inputs)) as pool:
            together = list(
                pool.map(lambda q, g=graph: attend(q, q, q, g, backend="sparse"), inputs)
            )
        for q, out in zip(inputs, together, strict=True):
            alone = attend(q, q, q, Edges(graph.edge_index(), 60), backend="sparse")
            assert torch.equal(out, alone)


def test_the_function_its_arguments_and_the_device_are_the_key():
    graph = Window(6, 1)  # 16 edges
    assert graph.cached(multiple, 2) == 32
    assert graph.cached(power, 2) == 256
    assert graph.cached(multiple, 3) == 48
    assert graph.cached(slow_count, device="meta").device.type == "meta"
    assert graph.cached(slow_count).device.type == "cpu"
    assert Window(6, 0).cached(multiple, 2) == 12


def test_functions_of_one_name_are_different_keys():
    def namesake(graph):
        return "another"

    namesake.__name__ = namesake.__qualname__ = "slow_count"
    namesake.__module__ = slow_count.__module__
    graph = Window(6, 1)
    assert graph.cached(slow_count) == 16
    assert graph.cached(namesake) == "another"


def test_the_oldest_values_of_a_function_go_and_those_of_others_stay():
    graph = Window(6, 1)
    graph.cached(slow_count)
    for factor in range(MOST_KEPT + 2):
        graph.cached(multiple, factor)
    assert len(graph._cache) == MOST_KEPT + 1
    assert len(BUILT) == MOST_KEPT + 3
    graph.cached(multiple, MOST_KEPT + 1)  # the newest is there
    graph.cached(multiple, 2)  # and the oldest of those kept
    graph.cached(slow_count)
    assert len(BUILT) == MOST_KEPT + 3
    graph.cached(multiple, 0)
    assert len(BUILT) == MOST_KEPT + 4


def test_what_is_built_may_need_what_is_built():
    assert Window(6, 1).cached(nested) == 48


def test_what_could_not_be_built_is_not_kept():
    graph = Window(6, 1)
    for _ in range(2):
        with pytest.raises(ValueError, match="cannot be built"):
            graph.cached(failing)
    assert len(BUILT) == 2
    assert graph.cached(slow_count) == 16  # and the lock is free


def test_only_a_few_repeated_graphs_are_kept():
    graph = Window(4, 1)
    for count in range(20):
        copies = torch.block_diag(*[graph.dense()] * count).bool().view(4 * count, 4 * count)
        assert torch.equal(repeat(graph, count).dense(), copies)
    assert repeat(graph, 19) is repeat(graph, 19)
    assert len(graph._cache) <= 10


EDGES = torch.tensor([[0, 1, 2, 0], [1, 1, 0, 1]])


def test_structures_built_in_inference_mode_serve_training():
    for graph in (Edges(EDGES, 3), Window(3, 1)):
        with torch.inference_mode():
            built = [graph.edge_index(), graph.dense(), *graph.csr()]
        assert not any(tensor.is_inference() for tensor in built)
        z = torch.zeros(3, 2, requires_grad=True)
        z[graph.edge_index()[0]].square().sum().backward()
        assert z.grad is not None


def test_graphs_made_in_inference_mode_serve_training():
    with torch.inference_mode():
        graph = Edges(EDGES, 3)
    z = torch.zeros(3, 2, requires_grad=True)
    z[graph.edge_index()[0]].square().sum().backward()
    assert z.grad is not None


def test_a_default_device_does_not_reach_what_is_built():
    graph = Window(5, 1)
    with torch.device("meta"):
        assert graph.csr().indices.device.type == "cpu"
    assert graph.dense().sum() == 13


USERS_OWN = {("nets/compose.py", "self.graph_of")}
"""Functions of the user, given once to a layer: the same function in every call."""


def made_anew(source: str, allowed: set[str] = frozenset()) -> list[str]:
    """What is passed to `.cached(` and may be another function in each call."""
    tree = ast.parse(source)
    of_the_module = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    } | {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    wrong = []
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or getattr(call.func, "attr", None) != "cached":
            continue
        build, *args = [*call.args, *(keyword.value for keyword in call.keywords)]
        owner = getattr(build, "value", None)
        known = (
            (isinstance(build, ast.Name) and build.id in of_the_module)
            or (isinstance(owner, ast.Name) and owner.id in of_the_module)  # a class, a module
            or (owner is not None and ast.unparse(owner) == "type(self)")
            or ast.unparse(build) in allowed
        )  # fmt: skip
        anew = [
            arg for arg in args if isinstance(arg, ast.Lambda) or "partial(" in ast.unparse(arg)
        ]
        wrong += [f"line {call.lineno}: {ast.unparse(call)}"] if anew or not known else []
    return wrong


def test_no_function_that_is_made_anew_is_a_key():
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for path in ROOT.rglob("*.py")}
    callers = {file: source for file, source in sources.items() if ".cached(" in source}
    assert len(callers) > 15
    for file, source in callers.items():
        allowed = {build for of_file, build in USERS_OWN if of_file == file}
        assert made_anew(source, allowed) == [], file


def test_functions_of_users_are_still_where_they_are_allowed():
    for file, build in USERS_OWN:
        assert f".cached({build}" in (ROOT / file).read_text()


SNIPPET = """
from elsewhere import Some
def known(graph): ...
def f(self, graph):
    def local(graph): ...
    return graph.cached({})
"""


@pytest.mark.parametrize(
    "arguments",
    [
        "lambda graph: 1",
        "partial(known, 1)",
        "self.method",
        "local",
        "graph.method",
        "known, lambda x: x",
        "known, partial(known, 1)",
        "build=local",
    ],
)
def test_keys_that_are_made_anew_are_found(arguments):
    assert len(made_anew(SNIPPET.format(arguments))) == 1


@pytest.mark.parametrize(
    "arguments",
    ["known", "known, 3", "Some.method", "type(self)._build", "known, device=self.device"],
)
def test_functions_of_modules_and_classes_are_good_keys(arguments):
    assert made_anew(SNIPPET.format(arguments)) == []


def few(graph, factor):
    BUILT.append(factor)
    return factor


few.most_kept = 2


def test_a_function_may_ask_for_fewer_values():
    graph = Window(6, 1)
    for factor in range(4):
        graph.cached(few, factor)
    assert [args for _, _, args in graph._cache] == [(2,), (3,)]


def test_functions_of_users_do_not_pile_up(monkeypatch):
    monkeypatch.setattr("tokennet.graphs.cache.MOST_IN_ALL", 5)
    graph = Window(6, 1)
    for number in range(9):
        assert graph.cached(lambda graph, number=number: number) == number
    assert len(graph._cache) <= 6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_is_forked_while_something_is_built_does_not_wait_for_it():
    graph, started, go_on = Window(6, 1), threading.Event(), threading.Event()

    def slowly(graph):
        started.set()
        go_on.wait()
        return 1

    builder = threading.Thread(target=graph.cached, args=(slowly,))
    builder.start()
    started.wait()
    child = os.fork()
    if child == 0:  # only this thread is here, and nobody will release the lock of the other
        signal.alarm(20)
        os._exit(graph.cached(number_of_edges) - 16)
    _, status = os.waitpid(child, 0)
    go_on.set()
    builder.join()
    assert status == 0


def number_of_edges(graph):
    return graph.num_edges
