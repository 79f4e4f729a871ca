"""`Case`: a model with an example, how it is called, and how permutations act on its outputs.

Every law reads a `Case`. `make_case` finds by a few runs, with one token, edge or set less,
which dimensions of each output belong to tokens, edges and sets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tokennet.testing.engine.actions import Action, PermutePart
from tokennet.testing.engine.intervention import Inputs
from tokennet.testing.engine.sandbox import sandboxed
from tokennet.testing.example.calls import Selected, call_of
from tokennet.testing.example.inputs import Example, parameters_of
from tokennet.testing.example.layout import Layout
from tokennet.testing.example.output_lines import lines_of_outputs
from tokennet.testing.example.outputs import (
    Output,
    chosen_outputs,
    has_a_known_action,
    may_be_indices,
    named_outputs,
    role_of_labels,
    with_actions,
    with_layouts,
)
from tokennet.testing.example.reading import ReadingLine, table_of
from tokennet.testing.example.suggest import read_of_model


@dataclass(frozen=True)
class Case:
    """What the laws need to know of a model and an example, seen from one set of tokens.

    Attributes:
        function: called with the inputs of the example; refers to the model.
        layouts: which dimensions of each output belong to tokens, edges and sets.
        out_actions: how a permutation of the tokens acts on each output.
        others: the case seen from the other sets of tokens.
        reading: how each input and output was read.
        doubtful: other roles that fit as well, by name of the input, the most probable first.
    """

    model: Any
    function: Callable[..., Any]
    example: Example
    layouts: tuple[Layout, ...]
    out_actions: tuple[Action, ...]
    others: tuple[Case, ...] = ()
    reading: tuple[ReadingLine, ...] = ()
    doubtful: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def other_roles(self) -> list[dict[str, str]]:
        """The other ways to read the doubtful inputs, each as a whole."""
        most = max(map(len, self.doubtful.values()), default=0)
        return [
            {name: roles[min(number, len(roles) - 1)] for name, roles in self.doubtful.items()}
            for number in range(most)
        ]

    @property
    def inputs(self) -> Inputs:
        return self.example.inputs

    @property
    def views(self) -> tuple[Case, ...]:
        """This case and those seen from the other sets."""
        return (dataclasses.replace(self, others=()), *self.others)

    @property
    def pooled(self) -> bool:
        return not any(layout.tokens for layout in self.layouts)

    @property
    def of_sets(self) -> Case:
        """Without the outputs that are one value for the whole batch."""
        kept = [n for n, layout in enumerate(self.layouts) if not layout.scalar]
        if len(kept) == len(self.layouts):
            return self
        return dataclasses.replace(
            self,
            function=Selected(self.function, tuple(kept), ()),
            layouts=tuple(self.layouts[n] for n in kept),
            out_actions=tuple(self.out_actions[n] for n in kept),
        )


def make_case(
    model: Callable[..., Any],
    example: Any,
    *,
    roles: Mapping[str, str] | None = None,
    outputs: str | Sequence[str] | Mapping[str, str | None] | None = None,
) -> Case:
    """Read what an example holds, and from the outputs how permutations act on them.

    Args:
        roles: of inputs, where they are to be read in another way.
        outputs: those that the laws speak of, by name, with their roles in a dict.

    Raises:
        TypeError: the example has no form that the laws know, or the model is a class.
        ValueError: it has one, but its shapes do not fit together, or a role is wrong.
    """
    if isinstance(model, type):
        raise TypeError(f"model must be an instance, got the class {model.__name__}")
    if not callable(model):
        raise TypeError(f"model must be callable, got {type(model).__name__}")
    read = read_of_model(model, example, roles)
    chosen, names = chosen_outputs(outputs), parameters_of(model)
    cases = []
    for view in read.example.views():
        function = call_of(model, view, names)
        try:
            cases.append(_with_outputs(model, function, view, chosen))
        except Exception as error:
            error.add_note("\n".join(["the example was read so:", *table_of(read.lines)]))
            raise
    (first, found), *rest = cases
    reading = (*read.lines, *lines_of_outputs(found, [case.layouts for case, _ in cases], first))
    others = tuple(case for case, _ in rest)
    return dataclasses.replace(first, others=others, reading=reading, doubtful=read.doubtful)


def _with_outputs(
    model: Any, function: Callable[..., Any], example: Example, chosen: dict[str, Any] | None
) -> tuple[Case, list[Output]]:
    with sandboxed(function, dtype=None, jitter=0), torch.no_grad():
        every = named_outputs(function, example, chosen)
        found = with_layouts(function, example, every)
        known = [output for output in found if has_a_known_action(output, example)]
        if not known:
            raise _unknown(found, example)
        if len(known) < len(every) or any(output.is_left_out for output in every):
            function = Selected(function, tuple(output.number for output in known), ())
        actions = with_actions(function, example, known)
    layouts = [output.layout for output in known]
    for n, action in enumerate(actions):  # tokens are where the action on the output has them
        if isinstance(action, PermutePart):
            before, width = action.start, action.width
            layouts[n] = dataclasses.replace(layouts[n], before=before, width=width)
        value = known[n].value
        if any(value.shape[dim] < example.num_tokens for dim in layouts[n].tokens):
            layouts[n] = dataclasses.replace(layouts[n], tokens=())  # some of them, or made of them
    if example.mask is not None and any(layout.tokens for layout in layouts):
        numbers = tuple(range(len(layouts)))
        function = Selected(
            function, numbers, tuple(layouts), example.mask, example.how, example.token_dim
        )
    kept, of = {o.number for o in known}, {o.number: o for o in found}
    read = [
        dataclasses.replace(of.get(o.number, o), is_left_out=o.number not in kept) for o in every
    ]
    return Case(model, function, example, tuple(layouts), tuple(actions)), read


def _unknown(found: list[Output], example: Example) -> ValueError:
    """The error where it is known of no output how permutations act on it."""
    labels = {o.name: role_of_labels(o) for o in found if may_be_indices(o)}
    if labels:
        return ValueError(
            f"an output of integers must have a role, got none: outputs={labels} if they are "
            "labels; if they are numbers of tokens, use check_equivariance, with an action of "
            "your own"
        )
    shapes = [tuple(output.value.shape) for output in found]
    return ValueError(
        f"the output, of shape {shapes}, follows the {example.num_tokens} tokens in no way that "
        "is known: say its role in outputs, or use check_equivariance, with an action of your own"
    )
