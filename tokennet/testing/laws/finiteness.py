"""The law that values and gradients are finite, for tokens without neighbors too.

`check_finite` also says which operation makes the first value that is not.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tokennet.testing.diagnose.localize import Recorder, anomaly_mode, causes_of, location_of
from tokennet.testing.diagnose.script import script_of_finiteness, script_of_size
from tokennet.testing.diagnose.source import forward_lines, location_at
from tokennet.testing.engine.content import seeded_content
from tokennet.testing.engine.intervention import Inputs
from tokennet.testing.engine.reach import module_names
from tokennet.testing.engine.run import Runner, call_model, call_with_autograd
from tokennet.testing.engine.sandbox import sandboxed
from tokennet.testing.engine.tolerance import name_of_dtype, runnable
from tokennet.testing.engine.verdict import name_of
from tokennet.testing.example.calls import Selected
from tokennet.testing.example.case import Case
from tokennet.testing.example.parts import last_token_isolated, without_neighbors
from tokennet.testing.example.values import features, with_features
from tokennet.testing.laws.law import Law, Options, on_views, worst
from tokennet.testing.report import Counterexample, Location, SymmetryReport, Verdict

OF_GRADIENT = "the output is finite, but a gradient is not"


def check_finite(
    f: Callable[..., Any],
    inputs: Inputs,
    *,
    jitter: bool = True,
    seed: int = 0,
    dtype: str | torch.dtype = "auto",
) -> SymmetryReport:
    """Whether outputs, and gradients of the first input and of parameters, are finite.

    For your own test on an example of your choice. -inf within the model, as a mask before a
    softmax, is no fault; a NaN or an infinity that reaches the output or a gradient is.

    >>> import torch
    >>> check_finite(torch.sqrt, (-torch.ones(3, 2),)).verdict.name
    'BROKEN'
    """
    started = time.perf_counter()
    runner = Runner(f, inputs, jitter=seed if jitter else None)
    precision, notes = runnable(runner, dtype)
    counterexample = None
    with runner.at(precision) as x:
        reason, location = _fault(runner, x)
        if reason:
            other, seeded = seeded_content(x), False
            told = reason
            if other is not None and (fault := _fault(runner, other)[0]):
                x, seeded, told = other, True, fault
            text = script_of_finiteness(
                f, x, gradient=told == OF_GRADIENT, jittered=jitter, seeded=seeded
            )
            counterexample = Counterexample(None, float("inf"), text, x)
    return SymmetryReport(
        law="finite",
        subject=name_of(f),
        verdict=Verdict.BROKEN if reason else Verdict.PASS,
        reason=reason or "values and gradients are finite",
        error=float("inf") if reason else 0.0,
        tolerance=0.0,
        dtype=name_of_dtype(precision),
        notes=tuple(notes),
        runs=1,
        seconds=time.perf_counter() - started,
        counterexample=counterexample,
        location=location,
    )


def _fault(runner: Runner, x: Inputs) -> tuple[str, Location | None]:
    """What is not finite, or ''; and where."""
    if not all(_is_finite(y) for y in runner.run(x)):
        return "the output is not finite", _where_forward(runner, x)
    finite, location = _backward(runner.model, x)
    return ("" if finite else OF_GRADIENT), location


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _where_forward(runner: Runner, x: Inputs) -> Location | None:
    recorder = Recorder(module_names(runner.model))
    with torch.no_grad(), recorder:
        outputs = [recorder.value(y) for y in runner.run(x)]
    for call in recorder.calls:
        for value in [*call.inputs, *call.outputs]:
            content = value.content
            if content.is_floating_point() and content.layout == torch.strided:
                faulty = content.isnan() | (content == float("inf"))  # -inf is sound, as in masks
                value.error = float("inf") if bool(faulty.any()) else 0.0
    for value in outputs:
        value.error = 0.0 if _is_finite(value.content) else float("inf")
    causes = causes_of(recorder.calls, outputs, 0.0)
    roots = {number for number, found in causes.items() if not found}
    return location_of(recorder.calls[min(roots)], 0.0) if roots else None


def _backward(f: Callable[..., Any], x: Inputs) -> tuple[bool, Location | None]:
    """Whether gradients are finite, and which line of forward has the faulty derivative."""
    z = features(x[0]).detach()
    if not z.is_floating_point():
        return True, None
    z.requires_grad_()
    faulty: list[Any] = []
    with anomaly_mode(), torch.enable_grad():
        outputs = call_with_autograd(f, (with_features(x[0], z), *x[1:]))
        numbers = [torch.view_as_real(y) if y.is_complex() else y for y in outputs]
        sums = [y.square().sum() + y.sum() for y in numbers if y.requires_grad]
        if not sums:
            return True, None
        total = torch.stack(sums).sum()
        nodes = list(_nodes(total.grad_fn))
        for node in nodes:
            node.register_hook(partial(_watch, faulty, node))
        leaves = [leaf for node in nodes if (leaf := getattr(node, "variable", None)) is not None]
        gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    finite = all(gradient is None or _is_finite(gradient) for gradient in gradients)
    if finite or not faulty:
        return finite, None
    # The line of the model that made the node, from the traceback that anomaly mode keeps.
    name = f"backward of {faulty[0].name().removesuffix('Backward0')}"
    return finite, location_at(name, forward_lines(faulty[0]), error_out=float("inf"))


def _nodes(root: Any) -> Iterator[Any]:
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += [following for following, _ in node.next_functions]


def _watch(faulty: list[Any], node: Any, inputs: Any, outputs: Any) -> None:
    """Note a node whose derivative is the first that is not finite: a hook of it."""
    finite_before = all(_is_finite(g) for g in outputs if g is not None)
    if finite_before and not all(_is_finite(g) for g in inputs if g is not None):
        faulty.append(node)


def _check(case: Case, options: Options) -> SymmetryReport:
    function = case.function
    if isinstance(function, Selected) and function.mask is not None:
        function = function.function  # what is not finite spreads from padding too
    given = {key: value for key, value in options.items() if key != "draws"}
    reports = [check_finite(function, x, **given) for x in without_neighbors(case.example)]
    return worst([*reports, *_of_last_token(case, given)])


def _of_last_token(case: Case, options: Options) -> list[SymmetryReport]:
    """Whether there are outputs for the last token where it has no edges."""
    isolated = last_token_isolated(case.example)
    if isolated is None:
        return []
    report = check_finite(case.function, isolated, **options)
    with sandboxed(case.function, dtype=None):
        wanted, outputs = case.example.num_tokens, call_model(case.function, isolated)
    for number, (y, layout) in enumerate(zip(outputs, case.layouts, strict=True)):
        if layout.tokens and y.shape[layout.tokens[0]] < wanted:
            dim = layout.tokens[0]
            reason = f"{y.shape[dim]} rows for {wanted} tokens, of which the last has no edges"
            text = script_of_size(case.function, isolated, (number, dim, wanted))
            shown = Counterexample(None, math.inf, text, isolated)
            report = dataclasses.replace(report, verdict=Verdict.BROKEN, reason=reason)
            return [dataclasses.replace(report, error=math.inf, counterexample=shown)]
    return [report]


EMPTY_NEIGHBORHOOD = on_views(
    Law(
        "values and gradients are finite without neighbors, and for sets of padding alone",
        lambda case, causal: bool(without_neighbors(case.example)),
        _check,
        """\
Says: values and gradients are finite for tokens without neighbors, and for sets that are all
padding.
Measured: edges into some tokens are removed, or a set is masked altogether; outputs and gradients
of inputs and parameters must be finite.
Causes: a softmax over nothing (rows of -inf only); a division by a degree or a count of 0; the
gradient of sqrt, norm or std at 0; the logarithm of a degree of 0.
Mend: clamp counts by min=1; add eps inside of the square root; replace empty rows by 0 before the
softmax and not after it.
""",
    )
)
