"""What the layers of a model say of its inputs: tokens first, channels first, images.

Asked where nothing is said. A suggestion is a role with a hint, so that the report says it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tokennet.testing.engine.differences import difference
from tokennet.testing.engine.reach import modules_of
from tokennet.testing.engine.run import call_model
from tokennet.testing.engine.sandbox import sandboxed
from tokennet.testing.example.calls import call_of
from tokennet.testing.example.forms import Leaf, leaves_of
from tokennet.testing.example.inputs import parameters_of, positional
from tokennet.testing.example.parts import rows
from tokennet.testing.example.reading import Read, read_example
from tokennet.testing.example.roles import Kind
from tokennet.testing.example.values import is_hetero_data, is_pyg_data, map_tensors
from tokennet.tokens import Tokens

_CONVOLUTIONS: dict[type, int] = {nn.Conv1d: 3, nn.Conv2d: 4, nn.Conv3d: 5}
_SEQUENCES = (nn.MultiheadAttention, nn.RNNBase)
_IMAGES = ("pixel", "image", "img", "frames")
Suggestion = tuple[dict[str, str], dict[str, str]]
"""Roles and hints by name of the input."""


def read_of_model(model: Any, example: Any, roles: Mapping[str, str] | None) -> Read:
    """Read an example as is said, else as the layers of the model suggest, else by its form."""
    names = parameters_of(model)
    listed = positional(names, model)
    said = {str(name): role for name, role in (roles or {}).items()}
    options: dict[str, Any] = {"takes_any_number": _takes_any_number(model)}

    def read(more: Suggestion = ({}, {})) -> Read:
        return read_example(example, listed, {**more[0], **said}, hints=more[1], **options)

    if isinstance(example, Tokens) or is_pyg_data(example) or is_hetero_data(example):
        return read()
    leaves = leaves_of(example, listed, options["takes_any_number"])
    tensors = {leaf.name: leaf for leaf in leaves if _is_float(leaf.value) and not leaf.ragged}
    named = {*said, *(leaf.name for leaf in leaves if str(leaf.path[0]) in said)}
    open_ones = {name: leaf for name, leaf in tensors.items() if name not in named}
    if not open_ones:
        return read()
    images = _images(model, example, open_ones)
    if images[0]:
        return read(images)
    sequence = _sequence_first(model, example, open_ones)
    if sequence[0]:
        usual, other = read(), read(sequence)
        mixes = not _independent(model, usual, names)
        if (mixes or _unread(other) < _unread(usual)) and _independent(model, other, names):
            return other
    return read()


def _unread(read: Read) -> int:
    """How many tensors fit nothing."""
    pairs = zip(read.example.inputs, read.example.roles, strict=True)
    return sum(isinstance(v, Tensor) and role.kind is Kind.OTHER for v, role in pairs)


def _takes_any_number(model: Any) -> bool:
    target = model.forward if isinstance(model, nn.Module) else model
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and not value.is_nested


def _images(model: Any, example: Any, leaves: dict[str, Leaf]) -> Suggestion:
    """Inputs that a convolution reads as channels first."""
    roles: dict[str, str] = {}
    hints: dict[str, str] = {}
    first: dict[torch.Size, nn.Module] = {}
    if any(isinstance(module, tuple(_CONVOLUTIONS)) for module in modules_of(model)):
        for module, shapes in _calls(model, example, lambda m: not list(m.children())):
            first.setdefault(shapes[0], module)
    for name, leaf in leaves.items():
        shape, layer = leaf.value.shape, first.get(leaf.value.shape)
        if isinstance(layer, nn.Conv1d) and len(shape) == 3:
            roles[name] = "tokens:-1"
            hints[name] = f"channels first; pass roles={{{name!r}: 'tokens:-2'}} if not"
        elif len(shape) in (4, 5) and (
            _CONVOLUTIONS.get(type(layer), 0) == len(shape)
            or (any(word in name for word in _IMAGES) and shape[1] in (1, 3))
        ):
            dims = ",".join(str(dim) for dim in range(2 - len(shape), 0))
            roles[name] = "per_set"
            hints[name] = (
                f"images; laws of tokens do not apply: pass roles={{{name!r}: 'tokens:{dims}'}} "
                "to take pixels as tokens"
            )
    return roles, hints


def _sequence_first(model: Any, example: Any, leaves: dict[str, Leaf]) -> Suggestion:
    """Inputs (N, B, D) of layers with batch_first=False that are given them as they are."""
    layers = [m for m in modules_of(model) if isinstance(m, _SEQUENCES)]
    if not any(layer.batch_first is False for layer in layers):
        return {}, {}
    given = _calls(model, example, lambda m: isinstance(m, _SEQUENCES) and not m.batch_first)
    shapes = {shape[:2] for _, several in given for shape in several}
    roles: dict[str, str] = {}
    hints: dict[str, str] = {}
    sizes: dict[int, str] = {}
    for name, leaf in leaves.items():
        shape = leaf.value.shape
        if len(shape) == 3 and shape[:2] in shapes and shape[1] == _batch(leaves, shapes):
            own = sizes.setdefault(shape[0], name)
            roles[name] = f"tokens:0:{own}"
            hints[name] = (
                f"batch_first=False; pass roles={{{name!r}: 'tokens:1'}} if sets are first"
            )
    return roles, hints


def _batch(leaves: dict[str, Leaf], shapes: set[Any]) -> int | None:
    fitting = (leaf.value.shape[1] for leaf in leaves.values() if leaf.value.shape[:2] in shapes)
    return next(fitting, None)


def _calls(
    model: Any, example: Any, wanted: Callable[[nn.Module], bool]
) -> list[tuple[nn.Module, list[torch.Size]]]:
    """Modules in the order in which they run, with the shapes of their tensors."""
    found: list[tuple[nn.Module, list[torch.Size]]] = []

    def note(module: nn.Module, args: Any, kwargs: Any) -> None:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if given:
            found.append((module, [tensor.shape for tensor in given]))

    def run() -> None:
        copied = map_tensors(torch.clone, example)
        if isinstance(example, Mapping):
            model(**{key: value for key, value in copied.items() if value is not None})
        else:
            model(*copied) if isinstance(copied, tuple | list) else model(copied)

    with sandboxed(model, dtype=None, jitter=0), torch.no_grad():
        hooks = [
            module.register_forward_pre_hook(note, with_kwargs=True)
            for module in modules_of(model)
            if wanted(module)
        ]
        try:
            run()
        finally:
            for hook in hooks:
                hook.remove()
    return found


def _independent(model: Any, read: Read, names: Sequence[str]) -> bool:
    """Whether the first set alone gives what it gives among others."""
    example = read.example
    if example.num_sets < 2:
        return True
    function = call_of(model, example, names)
    with sandboxed(function, dtype=None, jitter=0), torch.no_grad():
        together = call_model(function, example.inputs)
        try:
            alone = call_model(function, rows(example, slice(0, 1)))
        except Exception:  # whatever a model of other people raises at another size
            return False
    return all(map(_is_first_of, alone, together))


def _is_first_of(alone: Tensor, together: Tensor) -> bool:
    if alone.dim() != together.dim():
        return False
    own = together
    for dim in range(own.dim()):
        own = own.narrow(dim, 0, min(alone.shape[dim], own.shape[dim]))
    return difference([own], [alone]) < 1e-4
