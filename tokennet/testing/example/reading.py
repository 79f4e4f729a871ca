"""How an example is read: `read_example` makes an `Example`, and lines that say what was read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Size, Tensor

from tokennet.checks import lookup
from tokennet.testing.example.forms import SETS, Leaf, Slot, leaves_of
from tokennet.testing.example.guess import Found, Guess
from tokennet.testing.example.inputs import Example
from tokennet.testing.example.reader import Reader
from tokennet.testing.example.roles import Kind, Role, parse_roles
from tokennet.testing.example.standard import in_standard_form
from tokennet.testing.example.values import describe, features, is_hetero_data, is_pyg_data
from tokennet.tokens import Tokens

FORMS = (
    "a tensor (..., N, D) or of ids (B, N), (x, mask), Tokens, Data, Batch, "
    "(x, edge_index, ...), (x, batch index), or a dict of such tensors by argument"
)


@dataclass(frozen=True)
class ReadingLine:
    """How an input or an output was read; `role` could be passed back in `roles` or `outputs`."""

    name: str
    value: str
    role: str
    text: str
    why: str = ""
    hint: str = ""
    is_output: bool = False


@dataclass(frozen=True)
class Read:
    """An example as it was read.

    Attributes:
        doubtful: other roles that fit as well, by name of the input, the most probable first.
    """

    example: Example
    lines: tuple[ReadingLine, ...]
    doubtful: dict[str, tuple[str, ...]] = field(default_factory=dict)


def read_example(
    given: Any,
    names: Sequence[str],
    roles: dict[str, str] | None = None,
    *,
    hints: dict[str, str] | None = None,
    takes_any_number: bool = False,
) -> Read:
    """Read by what is said in `roles`, else by names and structure, what an example holds.

    Args:
        names: of the model's arguments; a mask with "pad" in its name is True for padding.
        roles: by name of the argument, or by its index.
        hints: to be said of an input, by its name.
        takes_any_number: the model has `*args`.

    Raises:
        TypeError: the example has no form that the laws know.
        ValueError: its shapes are ambiguous, or a role does not fit.
    """
    if isinstance(given, Tokens) or is_pyg_data(given):
        return _whole(given, roles, names[0] if names else "0")
    leaves = leaves_of(given, names, takes_any_number)
    if not any(isinstance(leaf.value, Tensor) for leaf in leaves):
        raise TypeError(f"example must be {FORMS}, got {describe(given)}")
    reader = Reader(leaves, _by_leaf(leaves, roles))
    guesses = reader.read()
    slots: list[Slot] = []
    inputs, standard = [], []
    for leaf, guess in zip(leaves, guesses, strict=True):
        slot, value, role = in_standard_form(leaf, guess.role, reader.sets)
        slots.append(slot._replace(at=len(slots)))
        inputs.append(value)
        standard.append(role)
    leaf_names = tuple(leaf.name for leaf in leaves)
    example = Example(
        tuple(inputs), tuple(standard), leaf_names, tuple(slots),
        {found.name: found.leaf.name for found in reader.sets}, hetero=is_hetero_data(given),
    )  # fmt: skip
    pairs = zip(leaves, guesses, strict=True)
    count = len(reader.sets)
    doubtful = {leaf.name: _others(guess, count) for leaf, guess in pairs if guess.others}
    lines = _lines(leaves, guesses, reader.sets, hints or {})
    return Read(example.views()[0], lines, doubtful)


def _others(guess: Guess, num_sets: int) -> tuple[str, ...]:
    """The other roles of an input, without the name of the set where there is one alone.

    Of a feature of tokens it is said, as else the feature would be the tokens themselves.
    """
    named = (role.kind is Kind.TOKENS or num_sets > 1 for role in guess.others)
    pairs = zip(guess.others, named, strict=True)
    return tuple(str(r if keep else dataclasses.replace(r, sets=())) for r, keep in pairs)


def _whole(given: Any, roles: Any, name: str) -> Read:
    if roles:
        raise ValueError(f"roles are for examples of tensors; got {describe(given)}")
    if is_pyg_data(given):
        features(given)  # an error names what is missing
        if given.edge_index is None:
            raise ValueError(f"Data must have an edge_index, got {given}")
    role = Role(Kind.WHOLE, sets=("tokens",))
    example = Example((given,), (role,), (name,), (Slot((0,)),), {"tokens": name}, "tokens")
    text = _text_of_tokens(example) if isinstance(given, Tokens) else "tokens with their graph"
    return Read(example, (ReadingLine(name, describe(given), str(Kind.WHOLE), text),))


def _text_of_tokens(example: Example) -> str:
    tokens = example.inputs[0]
    z, graph, members = tokens.z, tokens.graph, example.membership
    one = f"one set of {z.shape[-2]}"
    many = _dense_sets(z.shape[:-2], z.shape[-2]) if z.dim() > 2 else one
    if members is not None:
        many, where = f"{len(graph.sizes)} sets, {len(members)} tokens", "on a graph each"
    else:
        where = f"on {repr(graph).partition(':')[0]}"
    positions = "" if tokens.pos is None else ", with positions"
    return f"tokens along dimension -2: {many}, {where}{positions}"


def _dense_sets(batch: Size, size: int) -> str:
    return f"{batch.numel()} sets of {size}"


def _by_leaf(leaves: Sequence[Leaf], roles: dict[str, str] | None) -> dict[int, Role]:
    """The roles that are said, by number of the leaf."""
    numbers: dict[str, int] = {}
    for number, leaf in enumerate(leaves):
        if leaf.path[0] != SETS:
            numbers[leaf.name] = number
    for number, leaf in enumerate(leaves):
        if isinstance(leaf.path[0], int) and len(leaf.path) == 1:
            numbers.setdefault(str(leaf.path[0]), number)
    return {lookup("roles", name, numbers): role for name, role in parse_roles(roles).items()}


def _lines(
    leaves: Sequence[Leaf], guesses: Sequence[Guess], sets: Sequence[Found], hints: dict[str, str]
) -> tuple[ReadingLine, ...]:
    lines = []
    for leaf, guess in zip(leaves, guesses, strict=True):
        if leaf.path[0] == SETS:
            continue
        role = guess.role
        lists = sum(other.role.kind is Kind.EDGE_INDEX for other in guesses)
        if len(sets) < 2 if role.kind is not Kind.EDGES else lists < 2:
            role = dataclasses.replace(role, sets=())
        hint = hints.get(leaf.name, guess.hint)
        text = _text(leaf, guess, sets)
        value = describe(leaf.value)
        if leaf.ragged:
            value = f"{leaf.ragged} of {next(s.num_ragged for s in sets if s.leaf is leaf)} sets"
        lines.append(ReadingLine(leaf.name, value, str(role), text, guess.why, hint))
    return tuple(lines)


def _text(leaf: Leaf, guess: Guess, sets: Sequence[Found]) -> str:
    role, named_sets = guess.role, " and ".join(dict.fromkeys(guess.role.sets))
    found = next((found for found in sets if found.leaf is leaf), None)
    dims = ", ".join(map(str, role.dims))
    if role.kind is Kind.TOKENS and found is not None:
        count = found.num_ragged if found.num_ragged is not None else found.batch.numel()
        many = f"{count} sets, {found.size} tokens" if found.num_ragged is not None else (
            _dense_sets(found.batch, found.size) if found.batch else f"one set of {found.size}"
        )  # fmt: skip
        along = "dimensions" if len(role.dims) > 1 else "dimension"
        return f"tokens along {along} {dims}: {many}"
    if role.kind is Kind.PADDING:
        how = {True: ", True = token", False: ", True = padding", None: ", added to scores"}
        return f"padding of {named_sets}{how[role.keeps]}"
    texts = {
        Kind.TOKENS: f"one row a token of {named_sets}, moves with it",
        Kind.POSITIONS: f"positions of {named_sets}, move with the tokens",
        Kind.LENGTHS: f"number of tokens in each set of {named_sets}",
        Kind.PTR: f"where each set of {named_sets} begins",
        Kind.MEMBERSHIP: f"the set of each token of {named_sets}",
        Kind.PAIRS: f"pairs of tokens of {named_sets}, dimensions {dims}",
        Kind.EDGES: "one entry an edge",
        Kind.EDGE_INDEX: f"edges between tokens of {named_sets}",
        Kind.PER_SET: "one entry a set",
        Kind.OTHER: "neither: held still",
    }
    return texts[role.kind]


def question_of(read: dict[str, str], other: dict[str, str]) -> str:
    """What a report asks where a law is broken in one reading and holds in the other.

    Args:
        read: the roles that were read, by name of the input.
        other: those that fit as well.

    >>> print(question_of({"m": "padding:True=keep"}, {"m": "padding:True=pad"}))
    broken if m is padding:True=keep, as read, and holds otherwise: \
pass roles={'m': 'padding:True=pad'}, or {'m': 'padding:True=keep'} if it is a bug
    """
    said = " and ".join(f"{name} is {role}" for name, role in read.items())
    decide = f"pass roles={other}, or {read} if it is a bug"
    return f"broken if {said}, as read, and holds otherwise: {decide}"


def table_of(lines: Sequence[ReadingLine]) -> list[str]:
    """Lines in columns, hints below them, for a printed report."""
    names = [f"-> {line.name}" if line.is_output else line.name for line in lines]
    width, values = (max(map(len, part), default=0) for part in (names, [x.value for x in lines]))
    found = ["  reading"] if lines else []
    for name, line in zip(names, lines, strict=True):
        found.append(f"    {name:{width}}  {line.value:{values}}  {line.text}")
        if line.hint:
            found.append(f"    {'':{width}}  {'':{values}}    {line.hint}")
    return found
