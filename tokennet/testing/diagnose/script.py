"""A few lines of Python that show a break without the checker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import Data

from tokennet.testing.diagnose.literal import literal
from tokennet.testing.engine.actions import Action, Invariant, Permute
from tokennet.testing.engine.intervention import Change, Inputs, Outputs, Permuting, difference
from tokennet.testing.engine.wrapped import Wrapped
from tokennet.testing.example.values import features, map_tensors, with_features
from tokennet.tokens import Tokens

LONGEST = 1000
"""Numbers that are written out at most."""
JITTER = """with torch.no_grad():  # parameters that start as zeros hide nothing now
    for p in model.parameters():
        p.add_(0.1 * torch.randn_like(p))"""


class Code(NamedTuple):
    """A change as code on the inputs `x`, `x1`, ...

    `lines` make what `arguments` name; `before` of the output y and `after` of the output
    `moved` must be the same.
    """

    lines: list[str]
    arguments: list[str]
    before: str
    after: str


def script_of(
    model: Any,
    run: Callable[[Inputs], Outputs],
    inputs: Inputs,
    change: Change,
    *,
    jittered: bool,
    seeded: bool,
) -> str:
    """The script, for a `model` that is defined before it; empty where there is none.

    Args:
        model: what was checked, maybe within wrappers of the checker's own.
        run: calls it and gives a list of tensors.
    """
    names, worst = _names(inputs), _worst_output(run, inputs, change)
    if isinstance(change, Permuting):
        code: Code | None = _permuting(change, names, worst)
        values = (*inputs, *change.in_actions, *change.out_actions)
    else:
        code = _replacing(run, inputs, change, names, worst)
        values = inputs
    if code is None:
        return ""
    lines = _start(model, inputs, jittered=jittered, seeded=seeded)
    lines[1:1] = _imports(values[len(inputs) :])
    lines += code.lines
    lines += [
        "with torch.no_grad():",
        f"    y, moved = f({', '.join(names)}), f({', '.join(code.arguments)})",
    ]
    if not _gives_a_tensor(model, inputs):
        lines[1:1] = ["from tokennet.testing.example.values import tensors_of"]
        lines.append(f"y, moved = tensors_of(y)[{worst}], tensors_of(moved)[{worst}]")
    lines.append(f"print(float(({code.after} - {code.before}).abs().max()))  # not 0")
    return "\n".join(lines) + "\n"


def _worst_output(run: Callable[[Inputs], Outputs], inputs: Inputs, change: Change) -> int:
    """The number of the output that is furthest off."""
    wanted, got = change.expected(run(inputs)), change.compared(run(change.move(inputs)))
    errors = [difference([a], [b]) for a, b in zip(wanted, got, strict=True)]
    return errors.index(max(errors))


def _gives_a_tensor(model: Any, inputs: Inputs) -> bool:
    with torch.no_grad():
        return isinstance(model(*map_tensors(torch.clone, inputs)), Tensor)


def _names(inputs: Inputs) -> list[str]:
    return [f"x{n}" if n else "x" for n in range(len(inputs))]


def _start(model: Any, inputs: Inputs, *, jittered: bool, seeded: bool) -> list[str]:
    """Imports, the model and the inputs."""
    imports, expression, subject = _unwrapped(model)
    dtype = features(inputs[0]).dtype
    precision = f".to({dtype})" if dtype.is_floating_point else ""
    prepared = f"{expression.replace('model', f'model{precision}.eval()', 1)}"
    if not hasattr(subject, "eval"):
        prepared = expression
    lines = ["import torch", *imports, *_imports(inputs)]
    lines += [f"# model = ...  the {_name(subject)} that was checked", f"f = {prepared}"]
    lines += [JITTER] if jittered else []
    for number, (name, value) in enumerate(zip(_names(inputs), inputs, strict=True)):
        lines.append(f"{name} = {literal(value, seeded and number == 0)}")
    return lines


def _unwrapped(model: Any) -> tuple[list[str], str, Any]:
    """Imports and expression of the model within the checker's wrappers, and the model."""
    if not isinstance(model, Wrapped):
        return [], "model", model
    imports, inner, subject = _unwrapped(model.function)
    line, expression = model.expression(inner)
    return [*imports, line], expression, subject


def _name(model: Any) -> str:
    return type(model).__name__ if hasattr(model, "eval") else getattr(model, "__name__", "model")


def _permuting(change: Permuting, names: list[str], worst: int) -> Code:
    outs = change.out_actions
    actions = zip(change.in_actions, names, strict=True)
    return Code(
        [f"perm = torch.tensor({change.perm.tolist()})"],
        [_applied(action, name) for action, name in actions],
        _applied(outs[worst] if len(outs) > 1 else outs[0], "y"),
        "moved",
    )


def _replacing(
    run: Callable[[Inputs], Outputs],
    inputs: Inputs,
    change: Change,
    names: list[str],
    worst: int,
) -> Code | None:
    """Other content, fewer or more tokens; the rest of the outputs by numbers of rows."""
    moved = change.move(inputs)
    old, new = features(inputs[0]), features(moved[0])
    y, other_y = run(inputs), run(moved)
    before = _rows(change.expected(_numbered(y))[worst], y[worst])
    after = _rows(change.compared(_numbered(other_y))[worst], other_y[worst])
    lines: list[str] = []
    if old.shape == new.shape:
        places = tuple((old != new).any(-1).nonzero().T.tolist())
        seeded = _seeded(inputs, places)
        if seeded is not None and not torch.equal(
            _picked(run(seeded)[worst], after), _picked(y[worst], before)
        ):
            lines = _new_content(inputs[0], places)
    elif isinstance(inputs[0], Tensor):
        lines = _chosen_rows(old, new)
    if lines:
        other = _with_features(inputs[0])
    elif new.numel() <= LONGEST:
        lines, other = [f"other = {literal(moved[0], False)}"], "other"
    else:
        return None
    arguments = [other]
    for name, value, given in zip(names[1:], inputs[1:], moved[1:], strict=True):
        arguments.append(name if _same(value, given) else literal(given, False))
    return Code(lines, arguments, _picking("y", before), _picking("moved", after))


def twice(model: Any, inputs: Inputs) -> str:
    """A script for a model that is random: two runs on one input."""
    lines = _start(model, inputs, jittered=False, seeded=False)
    call = f"f({', '.join(_names(inputs))})"
    lines += [
        "with torch.no_grad():",
        f"    print(float(({call} - {call}).abs().max()))  # not 0",
    ]
    return "\n".join(lines) + "\n"


def unfinished(model: Any, inputs: Inputs, *, jittered: bool, seeded: bool) -> str:
    """A script for a model whose output or gradients are not finite."""
    lines = _start(model, inputs, jittered=jittered, seeded=seeded)
    lines[1:1] = ["from tokennet.testing.example.values import tensors_of"]
    z = _features_of(inputs[0])
    lines += [
        f"{z}.requires_grad_()",
        f"y = f({', '.join(_names(inputs))})",
        "y = tensors_of(y)[0]",
        f"(gradient,) = torch.autograd.grad(y.square().sum() + y.sum(), {z})",
        "print(bool(y.isfinite().all()), bool(gradient.isfinite().all()))  # not True True",
    ]
    return "\n".join(lines) + "\n"


def _seeded(inputs: Inputs, places: tuple[list[int], ...]) -> Inputs | None:
    """The inputs with the content in some places that `_new_content` writes."""
    z = features(inputs[0])
    if not z.is_floating_point() or not places or not places[0]:
        return None
    other = z.clone()
    generator = torch.Generator().manual_seed(0)
    other[places] = 9 * torch.randn(z[places].shape, generator=generator, dtype=z.dtype).to(z)
    return (with_features(inputs[0], other), *inputs[1:])


def _new_content(value: Any, places: tuple[list[int], ...]) -> list[str]:
    generator = "generator=torch.Generator().manual_seed(0)"
    return [
        f"other = {_features_of(value)}.clone()",
        f"places = {places}",
        f"other[places] = 9 * torch.randn(other[places].shape, {generator}, dtype=other.dtype)",
    ]


def _chosen_rows(old: Tensor, new: Tensor) -> list[str]:
    rows, wanted = old.flatten(0, -2), new.flatten(0, -2)
    same = (wanted[:, None] == rows[None]).all(-1)
    if not bool(same.any(1).all()):
        return []
    chosen = same.int().argmax(1).tolist()
    return [f"other = x.flatten(0, -2)[{chosen}].view({tuple(new.shape)})"]


def _numbered(outputs: Outputs) -> Outputs:
    return [torch.arange(y.numel(), dtype=torch.float64).view(y.shape) for y in outputs]


def _rows(chosen: Tensor, all_of_it: Tensor) -> list[int]:
    """The numbers of the rows of an output from which numbered entries were chosen."""
    return (chosen.long().flatten() // _width(all_of_it)).unique().tolist()


def _width(tensor: Tensor) -> int:
    return tensor.shape[-1] if tensor.dim() > 1 else 1


def _picked(tensor: Tensor, rows: list[int]) -> Tensor:
    return tensor.reshape(-1, _width(tensor))[rows]


def _picking(name: str, rows: list[int]) -> str:
    return f"{name}.flatten(0, -2)[{rows}]"


def _same(value: Any, other: Any) -> bool:
    return value is other or (isinstance(value, Tensor) and torch.equal(value, other))


def _features_of(value: Any) -> str:
    return {Tokens: "x.z"}.get(type(value), "x.x" if isinstance(value, Data) else "x")


def _with_features(value: Any) -> str:
    if isinstance(value, Tokens):
        return "x.replace(z=other)"
    return "x.clone().update({'x': other})" if isinstance(value, Data) else "other"


def _applied(action: Action, name: str) -> str:
    if isinstance(action, Invariant):
        return name
    if isinstance(action, Permute):
        return f"{name}.index_select({action.dim}, perm)"
    return f"{action!r}.apply({name}, perm)"


def _imports(values: tuple[Any, ...]) -> list[str]:
    lines = []
    if any(isinstance(value, Data) for value in values):
        lines.append("from torch_geometric.data import Batch, Data")
    if any(isinstance(value, Tokens) for value in values):
        lines.append("from tokennet import Edges, Tokens")
    actions = sorted(
        {
            type(value).__name__
            for value in values
            if isinstance(value, Action) and not isinstance(value, Invariant | Permute)
        }
    )
    if actions:
        lines.append(f"from tokennet.testing import {', '.join(actions)}")
    return lines
