"""The law that a model honors its mask of pairs, or the graph of its tokens.

A backend that drops a mask gives plausible outputs and no error (pytorch#122753). What depends
on what is measured, and must lie within the mask; for L layers within walks of L of its edges.
"""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tokennet.graphs import TokenGraph, from_mask
from tokennet.mixers.base import Mixer
from tokennet.testing.engine.reach import modules_of
from tokennet.testing.engine.run import Runner
from tokennet.testing.engine.wrapped import Wrapped
from tokennet.testing.example.case import Case
from tokennet.testing.example.guess import named
from tokennet.testing.example.layout import Layout, of_sets
from tokennet.testing.example.reading import question_of
from tokennet.testing.example.roles import Kind, true_is
from tokennet.testing.example.values import features, tensors_of
from tokennet.testing.laws.dependency import LONGEST, check_dependency, dependency_matrix
from tokennet.testing.laws.law import Law, Options, on_views, token_dim, worst
from tokennet.testing.report import SymmetryReport, Verdict
from tokennet.tokens import Tokens

MASKED = -1e3
"""Numbers below this, added to scores, hide a pair."""
VISIBLE, HIDDEN = "True = visible", "True = hidden"
ADDED = "0 = visible"
OF_HIDDEN = ("hid", "pad", "block", "forbid", "exclu")
"""In the name of a mask: True hides a pair."""
OF_VISIBLE = ("attn_mask", "attention_mask")
SEEN = 1e-12
"""Gradients below this part of the largest are rounding."""
ATTENTION = {
    F.scaled_dot_product_attention,
    F.multi_head_attention_forward,
    F.softmax,
    torch.softmax,
    Tensor.softmax,
    torch._native_multi_head_attention,
    torch._transformer_encoder_layer_fwd,
}
"""Functions that each may move information along the mask once."""


@dataclass
class _Layers(TorchFunctionMode):
    """Counts calls of attention and of mixers, and whether these are on the graph given.

    `usual` is what True means for the first function of torch that was called, `handed` what it
    must mean for what these were given of the mask to be right.
    """

    graph: TokenGraph | None
    mask: Tensor | None = None
    attention: int = 0
    mixers: int = 0
    on_graph: bool = True
    usual: str = ""
    handed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.attention += func in ATTENTION
        if func in (F.scaled_dot_product_attention, F.multi_head_attention_forward):
            is_sdpa = func is F.scaled_dot_product_attention
            self.usual = self.usual or (VISIBLE if is_sdpa else HIDDEN)
            given = (kwargs or {}).get("attn_mask", args[3] if is_sdpa and len(args) > 3 else None)
            if isinstance(given, Tensor) and self.mask is not None:
                self._compare(given, self.mask, is_sdpa)
        return func(*args, **(kwargs or {}))

    def _compare(self, given: Tensor, mask: Tensor, is_sdpa: bool) -> None:
        """Note which meaning of the mask a function of torch was given."""
        visible = (given if is_sdpa else ~given) if given.dtype == torch.bool else given > MASKED
        pairs, own = (t.reshape(-1, *t.shape[-2:])[0] for t in (visible, mask.bool()))
        if pairs.shape == own.shape:
            equal = torch.equal(pairs, own), torch.equal(pairs, ~own)
            self.handed.add(VISIBLE if equal[0] else HIDDEN if equal[1] else "another mask")

    def record(self, module: Mixer, args: Any, kwargs: Any) -> None:
        """To be called before each mixer."""
        self.mixers += 1
        tokens, graph = args[0], self.graph
        other = len(args) > 1 or any(value is not None for value in kwargs.values())
        same = isinstance(tokens, Tokens) and not other and graph is not None
        self.on_graph = self.on_graph and same and _same(tokens.graph, graph)


def _same(first: TokenGraph, second: TokenGraph | None) -> bool:
    if first is second or second is None:
        return first is second
    return first.num_targets == second.num_targets and torch.equal(first.dense(), second.dense())


def _layers(case: Case, graph: TokenGraph | None, mask: Tensor | None) -> _Layers:
    """What one run calls."""
    layers, runner = _Layers(graph, mask), Runner(case.function, case.inputs)
    with ExitStack() as stack:  # hooks after the sandbox, which restores what they refer to
        x = stack.enter_context(runner.at(torch.float64))
        for module in modules_of(case.function):
            if isinstance(module, Mixer):
                hook = module.register_forward_pre_hook(layers.record, with_kwargs=True)
                stack.enter_context(hook)
        stack.enter_context(layers)
        runner.run(x)
    return layers


class _Ways(NamedTuple):
    """How the mask may be read: what True means, the set, and what may depend on what.

    Args:
        usual: what True means, as far as that is known.
        handed: what it means to the functions of torch that the mask was handed to.
        name: of the mask.
        said: `usual` is what the user said.
    """

    found: list[tuple[str, int | None, TokenGraph]]
    usual: str = ""
    handed: frozenset[str] = frozenset()
    name: str = ""
    said: bool = False


def _allowed(case: Case) -> _Ways:
    """Ways to read the mask.

    Of a batch with a mask for each set, every set is read by itself; heads count together.
    """
    n = case.example.num_tokens
    if not 2 < n <= LONGEST or case.pooled or not _is_float(case.inputs[0]):
        return _Ways([])
    graph, number = getattr(case.inputs[0], "graph", None), _mask(case)
    if graph is None and number is None:
        return _Ways([])
    mask = None if number is None else case.inputs[number]
    try:
        layers = _layers(case, graph, mask)
    except Exception:  # models that cannot run in float64 have no such law
        return _Ways([])
    if graph is not None:
        if not layers.mixers or not layers.on_graph or not graph.is_square:
            return _Ways([])
        allowed, most = graph.reach(layers.mixers), graph.reach(n)
        return _Ways([("the graph", None, allowed)] if allowed.num_edges < most.num_edges else [])
    if mask is None or number is None or not layers.attention:
        return _Ways([])
    name, keeps = case.example.names[number], case.example.roles[number].keeps
    usual = layers.usual or (VISIBLE if named(name, OF_VISIBLE) else "")
    if keeps is not None or named(name, OF_HIDDEN):
        usual = VISIBLE if keeps else HIDDEN
    found = _ways(case, mask, layers.attention, usual, said=keeps is not None)
    return _Ways(found, usual, frozenset(layers.handed), name, keeps is not None)


def _ways(
    case: Case, mask: Tensor, depth: int, usual: str, *, said: bool
) -> list[tuple[str, int | None, TokenGraph]]:
    found = []
    for number, pairs in enumerate(_by_set(mask, case)):
        pairs = {way: seen for way, seen in pairs.items() if not said or way in (usual, ADDED)}
        ways = [(way, from_mask(seen).reach(depth)) for way, seen in pairs.items()]
        ways = [
            (way, allowed) for way, allowed in ways if allowed.num_edges < allowed.num_targets**2
        ]
        # Where one reading lets all depend on all, the other must be that of the layers.
        if len(ways) == len(pairs) or any(way == (usual or VISIBLE) for way, _ in ways):
            found += [(way, number if mask.dim() > 2 else None, allowed) for way, allowed in ways]
    return found


def _is_float(value: Any) -> bool:
    try:
        return features(value).is_floating_point()
    except TypeError:
        return False


def _mask(case: Case) -> int | None:
    """The number of the input that is a mask of pairs of the tokens in question."""
    example = case.example
    for number, (name, role) in enumerate(zip(example.names, example.roles, strict=True)):
        value = case.inputs[number]
        own = role.kind is Kind.PAIRS and role.sets == (example.set,) and role.dims == (-2, -1)
        if own and ("mask" in name or role.keeps is not None):
            hides = value.is_floating_point() and bool(((value == 0) | (value < MASKED)).all())
            if hides or bool(((value == 0) | (value == 1)).all()):
                return number
    return None


def _by_set(mask: Tensor, case: Case) -> list[dict[str, Tensor]]:
    """For each set the visible pairs (N, N), by what an entry may mean."""
    z = features(case.inputs[0])
    count = z.shape[0] if z.dim() > 2 else 1
    parts = mask.cpu().reshape(-1, *mask.shape[-2:])
    groups = parts.chunk(count) if mask.dim() > 2 and len(parts) % count == 0 else [parts]
    if mask.is_floating_point() and bool((mask < MASKED).any()):
        return [{ADDED: (part == 0).any(0)} for part in groups]
    return [{VISIBLE: part.bool().any(0), HIDDEN: (~part.bool()).any(0)} for part in groups]


@dataclass(frozen=True)
class OfSet(Wrapped):
    """The outputs of one set of a batch.

    Args:
        number: of the set.
        layouts: of the outputs.
    """

    number: int
    layouts: tuple[Layout, ...]

    imports = "from tokennet.testing.scripts import Layout, OfSet"

    def __call__(self, *inputs: Any) -> list[Tensor]:
        return of_sets(tensors_of(self.function(*inputs)), self.layouts, self.number)


def _check(case: Case, options: Options) -> SymmetryReport:
    """The dependency of outputs on tokens against what may be, in the usual reading."""
    ways = _allowed(case)
    sets = dict.fromkeys(number for _, number, _ in ways.found)
    return worst([_of_set(case, number, ways, options) for number in sets])


def _of_set(case: Case, number: int | None, ways: _Ways, options: Options) -> SymmetryReport:
    function = case.function if number is None else OfSet(case.function, number, case.layouts)
    dims: dict[str, Any] = {
        "dim": token_dim(case),
        "out_dim": next(layout.tokens[0] for layout in case.layouts if layout.tokens),
    }
    mine = {meaning: allowed for meaning, at, allowed in ways.found if at == number}
    forbidden = dict.fromkeys(mine, 0)
    if len(mine) > 1:
        given = {key: value for key, value in options.items() if key != "draws"}
        found = dependency_matrix(function, case.inputs, method="gradient", **dims, **given)
        forbidden = {
            meaning: int(((found > SEEN).cpu() & ~allowed.dense().cpu()).sum())
            for meaning, allowed in mine.items()
        }
    meaning = min(forbidden, key=forbidden.__getitem__)
    note = f"the mask is read as: {meaning}"
    if ways.usual in mine:
        meaning, note = ways.usual, f"the mask is read as: {ways.usual}"
    elif forbidden[meaning]:
        note += ", in which fewer pairs break it"
    law: dict[str, Any] = {"law": "mask_honored", **dims, **options}
    report = check_dependency(function, case.inputs, mine[meaning], **law)
    report = dataclasses.replace(report, notes=(*report.notes, note))
    other = {VISIBLE: HIDDEN, HIDDEN: VISIBLE}.get(meaning, "")
    holds = ways.handed == {other} if ways.handed else forbidden.get(other, 1) == 0
    if report.verdict is not Verdict.BROKEN or ways.said or not holds:
        return report
    texts = {way: f"pairs:{true_is(Kind.PAIRS, way == VISIBLE)}" for way in (VISIBLE, HIDDEN)}
    return report.asked(question_of({ways.name: texts[meaning]}, {ways.name: texts[other]}))


MASK_HONORED = on_views(
    Law(
        "outputs depend only on tokens that a mask of pairs, or the graph, lets them depend on",
        lambda case, causal: bool(_allowed(case).found),
        _check,
        """\
Says: an output depends on no token that a mask of pairs, or the graph of `Tokens`, hides from it;
through L layers, on none that L steps along the mask do not reach.
Measured: the derivative of each output by each token is compared with the mask.
Causes: a kernel that silently drops its mask (pytorch#122753); a mask that is added after the
softmax, inverted, or transposed; a norm or pooling over all tokens beside masked attention.
Mend: pass the mask to every layer; use a backend that takes it, or one that refuses what it does
not take; compare with the plain formula on a few tokens.
""",
    )
)
