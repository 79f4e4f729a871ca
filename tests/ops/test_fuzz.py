"""Random calls of `attend` against loops over targets: whatever is drawn, the same numbers.

Graph, shapes, type, layout in memory, terms of the score, backend, content and the way in (plain,
derivatives, transforms, autocast, threads) are drawn from a seed, which a failure names.
"""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module

import pytest
import torch
from torch import Tensor

from tests.families import BIPARTITE, FORMULAS, RAGGED, SQUARE
from tests.ops.kinds import KINDS, call, derivatives, make_inputs
from tests.oracle import attend_oracle
from tokennet import Disjoint, Edges, TokenGraph, attend
from tokennet.ops import BACKENDS

GRAPHS = [*SQUARE.values(), *RAGGED.values(), *BIPARTITE.values()]
FORMULAS_OF_SIX = [make() for make in FORMULAS.values() if make().num_targets == 6]
EXACT = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}
WAYS = ("plain", "plain", "gradient", "second", "jvp", "vmap", "autocast", "threads")
CONTENT = ("normal", "normal", "large", "equal", "nan", "inf")
FINITE = ("second",)
"""Ways whose content is finite."""
SEEDS, CHUNKS = 200, 30


@dataclass
class Drawn:
    """One call, and how to make it."""

    graph: TokenGraph
    kind: str
    batch: tuple[int, ...]
    dtype: torch.dtype
    layout: str
    backend: str
    content: str
    way: str
    heads: int
    channels: int


def a_graph(rng: random.Random) -> TokenGraph:
    how = rng.choice(("family", "edges", "algebra", "ragged"))
    if how == "family":
        return rng.choice(GRAPHS)()
    if how == "edges":
        n, m, count = rng.randint(1, 7), rng.randint(1, 7), rng.randint(0, 20)
        ends = [[rng.randrange(size) for _ in range(count)] for size in (m, n)]
        return Edges(torch.tensor(ends, dtype=torch.long).view(2, count), n, m)
    if how == "algebra":
        a, b = rng.choice(FORMULAS_OF_SIX), rng.choice(FORMULAS_OF_SIX)
        perm = rng.sample(range(6), 6)
        return rng.choice((a & b, a | b, ~a, (a & ~b).relabel(perm), a.T | b.relabel(perm)))
    return Disjoint(a_graph(rng) for _ in range(rng.randint(1, 2)))


def draw(seed: int) -> Drawn:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    way = rng.choice(WAYS)
    types = [*EXACT, torch.float64, torch.float32]
    if way == "autocast":
        types.remove(torch.float16)  # which PyTorch does not mix with bfloat16
    return Drawn(
        graph=a_graph(rng), kind=rng.choice(list(KINDS)), batch=rng.choice([(), (), (2,), (1, 2)]),
        dtype=rng.choice(types),
        layout=rng.choice(("contiguous", "heads first", "a part", "expanded")),
        backend=rng.choice(("auto", "auto", *BACKENDS)), way=way,
        content=rng.choice(CONTENT[:4] if way in FINITE else CONTENT), heads=2,
        channels=rng.choice((3, 8)),  # the kernels are compiled for each number
    )  # fmt: skip


def inputs_of(drawn: Drawn) -> dict[str, Tensor]:
    made = make_inputs(
        drawn.kind, drawn.graph, drawn.batch, num_heads=drawn.heads, channels=drawn.channels,
        dtype=drawn.dtype,
    )  # fmt: skip
    inputs = {name: x.detach() for name, x in made.items()}
    if drawn.content == "large":
        inputs["q"] = 30 * inputs["q"]
    if drawn.content == "equal":
        inputs["k"] = torch.ones_like(inputs["k"])
    if drawn.content in ("nan", "inf"):
        name = where_not_finite(drawn)
        inputs[name] = inputs[name].clone()
        inputs[name][..., -1:, :, :] = float(drawn.content)
    # PyTorch's forward mode writes to tangents, which must not share memory.
    layout = "contiguous" if drawn.way == "jvp" else drawn.layout
    return {name: laid_out(x, layout) for name, x in inputs.items()}


def where_not_finite(drawn: Drawn) -> str:
    """The argument whose last token is NaN or inf."""
    return ("q", "k", "v")[drawn.graph.num_edges % 3]


def sees_it(drawn: Drawn) -> Tensor:
    """(N,) the targets that are, or attend to, the token that is not finite."""
    n, m = drawn.graph.num_targets, drawn.graph.num_sources
    target, source = torch.arange(n), torch.tensor(m - 1)
    if where_not_finite(drawn) == "q" or not m:
        return target == n - 1
    return drawn.graph.attends(target, source).expand(n)


def reached(drawn: Drawn) -> dict[str, Tensor]:
    """Where results, by name, may be other than finite: through targets that see such a token.

    The gradient by a source is a sum over the targets that attend to it, that by a map of all
    heads a sum over all targets.
    """
    targets = sees_it(drawn)
    edges = targets[drawn.graph.edge_index()[1]]
    sources = drawn.graph.dense()[targets].any(0)
    tokens = {"out": targets, "q": targets, "k": sources, "v": sources}
    found = {name: where[:, None, None] for name, where in tokens.items()}
    found |= {"bias": edges[:, None], "attr": edges[:, None]}
    found |= dict.fromkeys(("pairs", "shared"), targets[:, None])
    return found | dict.fromkeys(("weight", "key", "value", "sinks"), targets.any())


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same numbers, elsewhere in memory."""
    if layout == "heads first" and x.dim() >= 3:
        x = x.transpose(-2, -3).contiguous().transpose(-2, -3)
    if layout == "a part":
        x = torch.cat([x, x], -1)[..., : x.shape[-1]]
    if layout == "expanded" and x.dim() == 4:
        x = x[:1].expand_as(x)
    return x.detach().requires_grad_()


def tolerance(drawn: Drawn, expected: Tensor) -> dict[str, float]:
    finite = expected[expected.isfinite()].abs()
    size = max(1.0, float(finite.max()) if finite.numel() else 1.0)
    rounding = EXACT[torch.bfloat16 if drawn.way == "autocast" else drawn.dtype]
    return {"rtol": 0.0, "atol": rounding * size * (10 if drawn.content == "large" else 1)}


def run(drawn: Drawn, inputs: dict[str, Tensor], function, **options) -> list[Tensor]:
    """The results of a call that are compared, in the order in which they come."""

    def of(*tensors: Tensor) -> Tensor:
        given = dict(zip(inputs, tensors, strict=True))
        return call(drawn.kind, given, drawn.graph, function, **options)

    tensors = tuple(inputs.values())
    if drawn.way == "gradient":
        out = of(*tensors)
        return [out.detach(), *derivatives(out, inputs)]
    if drawn.way == "second":
        out = of(*tensors)
        return [out.detach(), *derivatives(out, inputs, 2)]
    with torch.no_grad():
        if drawn.way == "jvp":
            tangents = tuple(torch.linspace(-1, 1, x.numel()).to(x).view_as(x) for x in tensors)
            return list(torch.func.jvp(of, tensors, tangents))
        if drawn.way == "vmap":
            # Other channels: the token that is not finite stays where it is.
            stacked = [torch.stack([x, x.flip(-1)]) for x in tensors]
            if function is attend_oracle:
                return [torch.stack([of(*(x[k] for x in stacked)) for k in range(2)])]
            return [torch.vmap(of)(*stacked)]
        if drawn.way == "autocast" and function is attend:
            with torch.autocast("cpu", torch.bfloat16):
                return [of(*tensors)]
        if drawn.way == "threads" and function is attend:
            with ThreadPoolExecutor(4) as pool:
                return [*pool.map(lambda _: of(*tensors), range(4))]
        return [of(*tensors)] * (4 if drawn.way == "threads" else 1)


def is_right(drawn: Drawn) -> bool:
    """Compare a call with the loops; False where the backend that was drawn refuses it."""
    inputs = inputs_of(drawn)
    try:
        got = run(drawn, inputs, attend, backend=drawn.backend)
    except RuntimeError as error:
        if drawn.backend == "auto" or "cannot run this call" not in str(error):
            raise
        return False
    wide = {name: x.detach().double().requires_grad_() for name, x in inputs.items()}
    wanted, names = run(drawn, wide, attend_oracle), ("out", *inputs)
    for number, (mine, other) in enumerate(zip(got, wanted, strict=True)):
        if drawn.content in ("nan", "inf"):
            is_gradient = drawn.way == "gradient" and number > 0
            may_be_other = reached(drawn)[names[number] if is_gradient else "out"]
            is_value = not is_gradient and (drawn.way != "jvp" or number == 0)
            hidden = mine.isfinite() & ~other.isfinite()
            assert not (hidden & is_value).any(), "what is not finite is hidden"
            # A key of -inf has the weight 0; a target that sees it may be NaN nevertheless. And
            # what such a target adds to a gradient is NaN, or left out.
            compared = other.isfinite() & (mine.isfinite() & is_value | ~may_be_other)
            assert other[~may_be_other.expand_as(other)].isfinite().all()
            mine, other = mine[compared], other[compared]
        assert mine.isfinite().all(), "what is not finite went where it is unseen"
        torch.testing.assert_close(mine.double(), other, **tolerance(drawn, other))
    return True


@pytest.fixture(autouse=True)
def _untraced(monkeypatch):
    """FlexAttention as it is written, without a trace of each call, which takes a second."""
    flex = import_module("torch.nn.attention.flex_attention")
    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


@pytest.mark.sweep
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_any_call_is_that_of_the_oracle(chunk):
    ran = 0
    for seed in range(chunk * SEEDS, (chunk + 1) * SEEDS):
        drawn = draw(seed)
        try:
            ran += is_right(drawn)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {drawn}") from error
    assert ran > 0.45 * SEEDS  # the others are refused by the backend that was drawn
