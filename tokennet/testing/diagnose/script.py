"""The script of a report: a few lines of Python that show a break without the checker."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from tokennet.graphs import TokenGraph
from tokennet.testing.engine.actions import Action, AsSet, Invariant, Permute
from tokennet.testing.engine.chance import MoveNoise
from tokennet.testing.engine.content import seeded_content
from tokennet.testing.engine.differences import difference
from tokennet.testing.engine.intervention import (
    Code,
    Inputs,
    Intervention,
    Outputs,
    PermutationIntervention,
)
from tokennet.testing.engine.reach import modules_of
from tokennet.testing.engine.run import Runner
from tokennet.testing.engine.wrapped import Wrapped
from tokennet.testing.example.values import (
    features,
    graphs_of,
    is_pyg_batch,
    is_pyg_data,
    map_tensors,
)
from tokennet.tokens import Tokens

HAVE_FAST_PATH = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)
LONGEST = 1000
"""Numbers that are written out at most."""
JITTER = """with torch.no_grad():  # parameters that start as zeros hide nothing now
    for p in model.parameters():
        p.add_(0.1 * torch.randn_like(p))"""
TENSORS_OF = "from tokennet.testing.scripts import tensors_of"
FAST_PATH = "torch.backends.mha.set_fastpath_enabled(False)  # as it was checked"
SEED = "generator=torch.Generator().manual_seed(0)"


def script_of(
    runner: Runner, inputs: Inputs, intervention: Intervention, *, jittered: bool, seeded: bool
) -> str:
    """The script, for a `model` that is defined before it; empty where it would be too long."""
    names, run = _names(inputs), runner.run
    y = run(inputs)
    wanted = intervention.expected(y)
    got = intervention.compared(run(intervention.apply(inputs)))
    errors = [difference([a], [b]) for a, b in zip(wanted, got, strict=True)]
    worst = errors.index(max(errors))
    if isinstance(intervention, PermutationIntervention):
        code: Code | None = _permuting(intervention, names, worst)
    elif (code := intervention.code(names, inputs, y, worst)) is None:
        code = _replacing(runner, inputs, intervention, names, worst)
    if code is None:
        return ""
    lines = [
        *_start(runner.model, inputs, code.imports, jittered=jittered, seeded=seeded),
        *code.lines,
        "with torch.no_grad():",
        f"    y, moved = f({', '.join(names)}), f({', '.join(code.arguments)})",
    ]
    with torch.no_grad():
        output = runner.model(*map_tensors(torch.clone, inputs))
    if not isinstance(output, Tensor):
        lines[1:1] = [TENSORS_OF]
        lines.append(f"y, moved = tensors_of(y)[{worst}], tensors_of(moved)[{worst}]")
    lines.append(f"print(float(({code.after} - {code.before}).abs().max()))  # not 0")
    return "\n".join(lines) + "\n"


def script_of_two_runs(model: Any, inputs: Inputs) -> str:
    """A script for a model that is random: two runs on one input."""
    call = f"f({', '.join(_names(inputs))})"
    lines = [
        *_start(model, inputs, [], jittered=False, seeded=False),
        "with torch.no_grad():",
        f"    print(float(({call} - {call}).abs().max()))  # not 0",
    ]
    return "\n".join(lines) + "\n"


def script_of_finiteness(
    model: Any, inputs: Inputs, *, gradient: bool, jittered: bool, seeded: bool
) -> str:
    """A script for a model whose output is not finite, or whose `gradient`."""
    z, call = _features_of(inputs[0]), f"tensors_of(f({', '.join(_names(inputs))}))"
    shown = [
        "with torch.no_grad():",
        f"    ys = {call}",
        "print(all(bool(y.isfinite().all()) for y in ys))  # not True",
    ]
    if gradient:
        has_weights = isinstance(_unwrapped(model)[2], nn.Module)
        shown = [
            f"leaves = [{z}.requires_grad_(){', *model.parameters()' if has_weights else ''}]",
            f"ys = [y for y in {call} if y.requires_grad]",
            "sum(y.square().sum() + y.sum() for y in ys).backward()",
            "gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]",
            "print(all(bool(g.isfinite().all()) for g in gradients))  # not True",
        ]
    start = _start(model, inputs, [TENSORS_OF], jittered=jittered, seeded=seeded)
    return "\n".join([*start, *shown]) + "\n"


def script_of_size(model: Any, inputs: Inputs, wanted: tuple[int, int, int]) -> str:
    """A script for an output that has too few rows: the output, its dimension, the right size."""
    number, dim, size = wanted
    lines = [
        *_start(model, inputs, [TENSORS_OF], jittered=False, seeded=False),
        f"y = tensors_of(f({', '.join(_names(inputs))}))[{number}]",
        f"print(y.shape[{dim}] == {size})  # not True",
    ]
    return "\n".join(lines) + "\n"


def _names(inputs: Inputs) -> list[str]:
    return [f"x{n}" if n else "x" for n in range(len(inputs))]


def _start(
    model: Any, inputs: Inputs, imports: list[str], *, jittered: bool, seeded: bool
) -> list[str]:
    """Imports, the model and the inputs."""
    wrappers, expression, subject = _unwrapped(model)
    has_eval = hasattr(subject, "eval")
    if has_eval:
        dtype = features(inputs[0]).dtype
        precision = f".to({dtype})" if dtype.is_floating_point else ""
        expression = expression.replace("model", f"model{precision}.eval()", 1)
    name = type(subject).__name__ if has_eval else getattr(subject, "__name__", "model")
    lines = ["import torch", *imports, *wrappers]
    if any(isinstance(module, HAVE_FAST_PATH) for module in modules_of(model)):
        lines.append(FAST_PATH)
    if any(map(is_pyg_data, inputs)):
        lines.append("from torch_geometric.data import Batch, Data")
    if any(isinstance(value, Tokens) for value in inputs):
        lines.append("from tokennet import Edges, Tokens")
    lines += [f"# model = ...  the {name} that was checked", f"f = {expression}"]
    lines += [JITTER] if jittered else []
    for number, (name, value) in enumerate(zip(_names(inputs), inputs, strict=True)):
        lines.append(f"{name} = {literal(value, seeded and number == 0)}")
    if any(re.search(r"\b(inf|nan)\b", line) for line in lines):
        lines.insert(0, "from math import inf, nan")
    return lines


def _unwrapped(model: Any) -> tuple[list[str], str, Any]:
    """Imports and expression of the model within the checker's wrappers, and the model."""
    if not isinstance(model, Wrapped):
        return [], "model", model
    imports, inner, subject = _unwrapped(model.function)
    return [*imports, model.imports], model.expression(inner), subject


def _permuting(intervention: PermutationIntervention, names: list[str], worst: int) -> Code:
    ins, outs = intervention.in_actions, intervention.out_actions
    own = [action for action in (*ins, *outs) if not isinstance(action, Invariant | Permute)]
    own += [out for out in outs if isinstance(out, AsSet)]
    own = [action for action in own if not isinstance(action, MoveNoise)]  # with its wrapper
    kinds = sorted({type(action).__name__ for action in own})
    out = outs[worst] if len(outs) > 1 else outs[0]
    return Code(
        [f"from tokennet.testing import {', '.join(kinds)}"] if kinds else [],
        [f"perm = torch.tensor({intervention.perm.tolist()})"],
        [_applied(action, name) for action, name in zip(ins, names, strict=True)],
        _compared(out, _applied(out, "y")),
        _compared(out, "moved"),
    )


def _compared(action: Action, name: str) -> str:
    return f"{action!r}.compared({name})" if isinstance(action, AsSet) else name


def _applied(action: Action, name: str) -> str:
    if isinstance(action, Invariant):
        return name
    if isinstance(action, Permute):
        return f"{name}.index_select({action.dim}, perm)"
    return f"{action!r}.apply({name}, perm)"


def _replacing(
    runner: Runner, inputs: Inputs, intervention: Intervention, names: list[str], worst: int
) -> Code | None:
    """Other content, fewer or more tokens; the rest of the outputs by numbers of rows."""
    run, changed = runner.run, intervention.apply(inputs)
    old, new = features(inputs[0]), features(changed[0])
    y, changed_y = run(inputs), run(changed)
    before = _rows(intervention.expected(_numbered(y))[worst], y[worst])
    after = _rows(intervention.compared(_numbered(changed_y))[worst], changed_y[worst])
    lines: list[str] = []
    if old.shape == new.shape:
        index = tuple((old != new).any(-1).nonzero().T.tolist())
        start = [f"other = {_features_of(inputs[0])}.clone()", f"index = {index}"]
        seeded = seeded_content(inputs, index, scale=9) if index and index[0] else None
        if new.isnan().any():
            lines = [*start, "other[index] = torch.nan"]
        elif seeded is not None and not torch.equal(
            _as_rows(run(seeded)[worst])[after], _as_rows(y[worst])[before]
        ):
            lines = [
                *start,
                f"other[index] = 9 * torch.randn(other[index].shape, {SEED}, dtype=other.dtype)",
            ]
    elif isinstance(inputs[0], Tensor) and old.dim() > 1 and old.shape[-1] == new.shape[-1]:
        lines = _chosen_rows(old, new)
    other = "other"
    if lines and isinstance(inputs[0], Tokens):
        other = "x.replace(z=other)"
    elif lines and is_pyg_data(inputs[0]):
        other = "x.clone().update({'x': other})"
    elif not lines and new.numel() <= LONGEST:
        lines = [f"other = {literal(changed[0], False)}"]
    elif not lines:
        return None
    arguments = [other]
    for name, value, given in zip(names[1:], inputs[1:], changed[1:], strict=True):
        same = value is given or (isinstance(value, Tensor) and torch.equal(value, given))
        arguments.append(name if same else literal(given, False))
    rows = "flatten(0, -2)" if y[worst].dim() > 1 else "reshape(-1, 1)"
    return Code([], lines, arguments, f"y.{rows}[{before}]", f"moved.{rows}[{after}]")


def _chosen_rows(old: Tensor, new: Tensor) -> list[str]:
    rows, wanted = old.flatten(0, -2), new.flatten(0, -2)
    same = (wanted[:, None] == rows[None]).all(-1)
    if not bool(same.any(1).all()):
        return []
    chosen = same.int().argmax(1).tolist()
    return [f"other = x.flatten(0, -2)[{chosen}].view({tuple(new.shape)})"]


def _numbered(outputs: Outputs) -> Outputs:
    return [torch.arange(y.numel(), dtype=torch.float64).view(y.shape) for y in outputs]


def _rows(chosen: Tensor, output: Tensor) -> list[int]:
    """The numbers of the rows of an output from which numbered entries were chosen."""
    return (chosen.long().flatten() // _as_rows(output).shape[-1]).unique().tolist()


def _as_rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1] if tensor.dim() > 1 else 1)


def _features_of(value: Any) -> str:
    return "x.z" if isinstance(value, Tokens) else "x.x" if is_pyg_data(value) else "x"


def literal(value: Any, seeded: bool) -> str:
    """A value written as Python.

    Args:
        seeded: the vectors of tokens are `torch.randn` from seed 0.
    """
    if isinstance(value, Tokens):
        return _tokens(value, seeded)
    if is_pyg_batch(value):
        bare = value.clone()
        bare.x = torch.zeros(value.num_nodes, 1)  # x is written apart
        parts = ", ".join(literal(part, False) for part in graphs_of(bare))
        return f"Batch.from_data_list([{parts}]).update({{'x': {literal(value.x, seeded)}}})"
    if is_pyg_data(value):
        fields = [
            f"{key}={literal(item, seeded and key == 'x')}"
            for key, item in value
            if isinstance(item, Tensor)
        ]
        return f"Data({', '.join(fields)})"
    if not isinstance(value, Tensor):
        return repr(value)
    if seeded:
        return f"torch.randn({tuple(value.shape)}, {SEED}, dtype={value.dtype})"
    dtype = f", dtype={value.dtype}" if value.is_floating_point() else ""
    return f"torch.tensor({value.tolist()}{dtype})"


def _tokens(tokens: Tokens, seeded: bool) -> str:
    z = literal(tokens.z, seeded)
    pos = "" if tokens.pos is None else f", pos={literal(tokens.pos, False)}"
    if not tokens.graph.is_ragged:
        return f"Tokens({z}{_graph(tokens.graph)}{pos})"
    parts = ", ".join(
        f"Tokens(torch.zeros({part.num_targets}, 1){_graph(part)})" for part in tokens.graph.parts
    )
    return f"Tokens.batch([{parts}]).replace(z={z}{pos})"


def _graph(graph: TokenGraph) -> str:
    if graph.is_full:
        return ""
    edges = f"torch.tensor({graph.edge_index().tolist()}, dtype=torch.long)"
    attr, types = graph.edge_attr, graph.edge_type
    given = "" if attr is None else f", edge_attr={literal(attr, False)}"
    given += "" if types is None else f", edge_type={types.tolist()}"
    return f", Edges({edges}, {graph.num_targets}{given})"
