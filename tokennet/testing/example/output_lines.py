"""How each output was read, in words, for the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tokennet.testing.example.inputs import Example
from tokennet.testing.example.layout import Layout
from tokennet.testing.example.outputs import Output, may_be_indices, role_of_labels
from tokennet.testing.example.reading import ReadingLine
from tokennet.testing.example.roles import Kind, Role
from tokennet.testing.example.values import describe


def lines_of_outputs(
    every: list[Output], layouts: Sequence[Sequence[Layout]], case: Any
) -> list[ReadingLine]:
    """How each output was read, for the report."""
    lines, kept = [], iter(range(len(case.layouts)))
    for output in every:
        number = None if output.is_left_out else next(kept)
        why = "its size follows the tokens in no known way: " if output.is_unknown else ""
        if number is None and not why and may_be_indices(output):
            said = {output.name: role_of_labels(output)}
            why = f"integers, for which the role is not known (outputs={said} if labels): "
        text, role = f"{why}left out", Role(Kind.OTHER)
        if number is not None:
            text, role = _text(output.value, case.layouts[number], case.example)
            of_views = {
                view: own[number].tokens
                for view, own in zip(case.example.anchors, layouts, strict=False)
                if number < len(own) and own[number].tokens
            }
            if list(of_views) not in ([], [case.example.set]):
                text, role = _of_views(of_views)
            if case.layouts[number].scalar and role.kind is not Kind.SCALAR:
                text = f"{text}; several entries a set: left out of laws of the batch"
        value = describe(output.value)
        lines.append(ReadingLine(output.name, value, str(role), text, is_output=True))
    return lines


def _of_views(dims: dict[str, tuple[int, ...]]) -> tuple[str, Role]:
    """An output with dimensions of the tokens of several sets, or of another than the first."""
    found = sorted((own[0], name) for name, own in dims.items())
    pair = tuple(dim for dim, _ in found)
    if len(found) == 2 and len(set(pair)) == 2 and all(len(own) == 1 for own in dims.values()):
        names = tuple(name for _, name in found)
        text = f"per pair of tokens of {' and '.join(names)}, dimensions {pair[0]}, {pair[1]}"
        return text, Role(Kind.PAIRS, pair, names)
    own = list(dims.values())[-1]
    text = f"per token of {' and '.join(dims)}, dimension {', '.join(map(str, own))}"
    return text, Role(Kind.TOKENS, own, tuple(dims) if len(dims) == 1 else ())


def _text(y: Tensor, layout: Layout, example: Example) -> tuple[str, Role]:
    dims = ", ".join(map(str, layout.tokens))
    if len(layout.tokens) > 1:
        return f"per pair of tokens, dimensions {dims}", Role(Kind.PAIRS, layout.tokens)
    if layout.tokens:
        name = f" of {example.set}" if len(example.anchors) > 1 else ""
        sets = (example.set,) if name else ()
        return f"per token{name}, dimension {dims}", Role(Kind.TOKENS, layout.tokens, sets)
    if layout.edges:
        return f"per edge, dimension {layout.edges[0]}", Role(Kind.EDGES, layout.edges[:1])
    if layout.scalar:
        counts = [size for size in y.shape if size == example.num_sets]
        several = "of pairs of sets" if len(counts) > 1 else "several entries a set"
        what = several if y.numel() > 1 else "one value for the whole batch"
        return f"{what}: left out of laws of the batch", Role(Kind.SCALAR)
    if layout.sets is not None and (example.num_sets > 1 or example.membership is not None):
        return f"per set, dimension {layout.sets}", Role(Kind.PER_SET, (layout.sets,))
    together = "of all tokens together" if example.anchors else "of the whole input"
    return together, Role(Kind.PER_SET)
