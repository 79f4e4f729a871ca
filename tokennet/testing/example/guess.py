"""What the parts of an example hold, by their names and shapes: the reading where nothing is said.

The least surprising reading; where another fits too, a hint says what to pass.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Size, Tensor

from tokennet.testing.example.forms import Leaf, bounds_in
from tokennet.testing.example.roles import Kind, Role

_MASK = ("mask", "padding")
_REAL = ("keep", "real", "present", "token", "tokens")
"""Words of a name that speak of padding, beside those with mask, pad or valid in them."""
_MASKS_OF_PAIRS = ("attn_mask", "src_mask", "tgt_mask", "memory_mask", "causal_mask")
_LENGTHS = ("length", "lens", "num_tokens", "valid_len")
_MEMBERSHIP = ("batch", "index", "ptr", "segment_id", "set_id", "graph_id", "membership")
_BOUNDS = ("ptr", "offset", "cu_seq", "cu_len", "cumulative", "splits", "bounds", "starts")
_STARTS = ("offset", "starts")
_COUNTS = (*_LENGTHS, "sizes", "counts", "num_nodes", "num_atoms", "seqlens", "n_nodes", "natoms")
_TYPES = ("type", "kind", "label", "class", "atom", "species", "element", "charge", "target")
_OF_SETS = (
    "decoder",
    "label",
    "target",
    "condition",
    "prompt",
    "class",
    "time",
    "step",
    "context_vec",
)
_NOT_A_MASK = ("position", "type", "segment", "label", "weight", "decoder", "_ids")
_POSITIONS = ("pos", "coord", "xyz", "angle")
_OF_PAIRS = ("mask", "bias", "adj", "pair", "dist", "attn", "edge")
_SECOND = ("context", "memory", "encoder_hidden", "cross", "tgt", "src", "other", "second")
AS_SAID = "as said"
"""Why an input has the role that the user gave it."""
ALIGNED = "read as one set: they move together; pass roles={{{0!r}: 'tokens:{1}'}} if it is another"

TYPES = "read as types; pass roles={{{0!r}: 'membership'}} if it is the set of each token"


class Guess(NamedTuple):
    """A role in the dimensions of the model, why it was read so, and what to do if it is wrong.

    `others` are roles that fit as well, the most probable first.
    """

    role: Role
    why: str = ""
    hint: str = ""
    others: tuple[Role, ...] = ()


class Found(NamedTuple):
    """A set of tokens: its name, (..., N) of it, and the leaf of its vectors.

    `num_ragged` is the number of sets in a ragged batch, None for a dense one.
    """

    name: str
    lead: Size
    leaf: Leaf
    num_ragged: int | None = None

    @property
    def size(self) -> int:
        return self.lead[-1]

    @property
    def batch(self) -> Size:
        return self.lead[:-1]


def named(name: str, words: Sequence[str]) -> bool:
    return any(word in name.lower() for word in words)


def speaks_of_padding(name: str) -> bool:
    """Whether a name alone says that this is a mask.

    >>> [speaks_of_padding(name) for name in ("is_real", "valid", "is_anchor", "realm")]
    [True, True, False, False]
    """
    return named(name, ("mask", "pad", "valid")) or not {*name.lower().split("_")}.isdisjoint(_REAL)


def is_integer(value: Any) -> bool:
    return (
        isinstance(value, Tensor) and not value.is_floating_point() and not value.is_complex()
        and str(value.dtype) != "torch.bool"
    )  # fmt: skip


def is_binary(value: Tensor) -> bool:
    return bool(((value == 0) | (value == 1)).all())


def is_additive(value: Tensor) -> bool:
    """0, and -inf or very negative numbers, as added to scores."""
    return value.is_floating_point() and bool(((value == 0) | (value < -1e3)).all())


def dense_role(leaf: Leaf, sets: Sequence[Found]) -> Guess:
    """The role of a further input beside sets of tokens in a dense batch."""
    guess = _dense_role(leaf, sets)
    fitting = (s for s in sets if guess.role.sets == (s.name,) and len(s.batch) == 1)
    found = next(fitting, None)
    is_square = found is not None and leaf.value.shape == (found.size, found.size) == found.lead
    moves = guess.role.kind.moves and "pad" not in leaf.name.lower()
    return _of_square(leaf, guess) if is_square and moves else guess


def _of_square(leaf: Leaf, guess: Guess) -> Guess:
    """The reading of (N, N) beside N sets of N tokens, which may also be of pairs."""
    name, pairs = leaf.name, Role(Kind.PAIRS, (-2, -1), guess.role.sets)
    if named(name, _OF_PAIRS[1:]) or (guess.role.kind is Kind.PADDING and _looks_of_pairs(leaf)):
        others = [dataclasses.replace(other, sets=()) for other in (guess.role, *guess.others)]
        texts = " or ".join(repr(str(other)) for other in others)
        hint = f"pass roles={{{name!r}: {texts}}} if it is of tokens"
        return Guess(pairs, "by its name or form", hint, (guess.role, *guess.others))
    hint = f"pass roles={{{name!r}: 'pairs'}} if it is of pairs of tokens"
    hint = f"{guess.hint}; {hint}" if guess.hint else hint
    return guess._replace(hint=hint, others=(*guess.others, pairs))


def _looks_of_pairs(leaf: Leaf) -> bool:
    """Whether a square mask is causal, or has its whole diagonal and is none of prefixes."""
    visible = leaf.value != 0 if is_binary(leaf.value) else leaf.value == 0
    past = torch.ones_like(visible).tril()
    if torch.equal(visible, past) or torch.equal(~visible, past):
        return True
    prefixes = not bool((visible[:, 1:] & ~visible[:, :-1]).any())
    return bool(visible.diagonal().all()) and not prefixes


def _dense_role(leaf: Leaf, sets: Sequence[Found]) -> Guess:
    value, name = leaf.value, leaf.name
    if not isinstance(value, Tensor):
        return Guess(Role(Kind.OTHER))
    main, batch = sets[0], sets[0].batch
    of_batch = len(batch) == 1 and value.shape[:1] == batch
    if of_batch and is_integer(value) and value.dim() == 1 and named(name, _LENGTHS):
        return Guess(Role(Kind.LENGTHS, (), (best_set(name, sets).name,)), "named so")
    mask = _mask(leaf, sets)
    if mask is not None:
        return mask
    if of_batch and named(name, _OF_SETS) and value.shape != main.lead:
        return Guess(Role(Kind.PER_SET), "named so")
    if named(name, ("decoder",)) and of_batch:
        return Guess(Role(Kind.PER_SET), "named so")
    pairs = _pairs(leaf, sets)
    if pairs is not None:
        return pairs
    for found in sets:
        if value.shape[: len(found.lead)] == found.lead and len(found.lead) <= value.dim():
            return _of_tokens(leaf, found, len(found.lead) - 1 - value.dim())
    for found in sets:
        if value.shape in ((1, found.size), (found.size,)):  # the same for all sets
            if of_batch and (name in ("y", "t") or named(name, _OF_SETS)) and value.dim() == 1:
                return Guess(Role(Kind.PER_SET), "named so")
            hint = "" if not of_batch else f"pass roles={{{name!r}: 'per_set'}} if it is one a set"
            return Guess(Role(_kind(name), (-1,), (found.name,)), "the same for all sets", hint)
    if of_batch:
        return Guess(Role(Kind.PER_SET))
    if batch and value.dim() == 2 and value.shape[0] == main.size:
        why = "one row a token, the same for all sets"
        return Guess(Role(_kind(name), (-2,), (main.name,)), why)
    return Guess(Role(Kind.OTHER))


def _kind(name: str) -> Kind:
    return Kind.POSITIONS if named(name, _POSITIONS) else Kind.TOKENS


def _of_tokens(leaf: Leaf, found: Found, dim: int) -> Guess:
    value, like, hint = leaf.value, found.leaf.value, ""
    alike = value.is_floating_point() and value.shape == like.shape
    if alike and not named(leaf.name, (*_POSITIONS, "key", "value")):
        hint = ALIGNED.format(leaf.name, "second" if leaf.name.isdigit() else leaf.name)
    if is_integer(value) and not found.batch:
        hint = TYPES.format(leaf.name)
    why = f"one row a token of {found.name}"
    return Guess(Role(_kind(leaf.name), (dim,), (found.name,)), why, hint)


def best_set(name: str, sets: Sequence[Found], size: int | None = None) -> Found:
    """The set that a mask or lengths speak of: by the beginning of its name, then by its size."""
    fitting = [s for s in sets if size is None or s.size == size] or list(sets)
    words = name.lower().split("_")
    starts = [s for s in fitting if s.name.lower().split("_")[0] == words[0]]
    return (starts or fitting)[0]


def _mask(leaf: Leaf, sets: Sequence[Found]) -> Guess | None:
    value, name = leaf.value, leaf.name
    if named(name, _MASKS_OF_PAIRS) and value.shape[-2:] == (sets[0].size, sets[0].size):
        return None
    looks_so = is_binary(value) and not named(name, (*_NOT_A_MASK, *_TYPES))
    added = is_additive(value) and value.dim() > 2 and 1 in value.shape[1:-1]
    if not (named(name, _MASK) or added or (looks_so and value.shape in {s.lead for s in sets})):
        return None
    batch = sets[0].batch
    sizes = {s.size for s in sets}
    if not value.dim() or value.shape[-1] not in sizes:
        return None
    found = best_set(name, sets, value.shape[-1])
    whole = (*found.batch, found.size)
    between = value.shape[len(found.batch) : -1]
    shared = named(name, _MASK) and value.shape in ((found.size,), (1, found.size))
    fits = value.shape == whole or shared or (
        value.shape[: len(batch)] == batch and between and all(n == 1 for n in between)
        and value.dim() > len(whole)
    )  # fmt: skip
    if not fits:
        return None
    return _padding(leaf, found)


def _padding(leaf: Leaf, found: Found) -> Guess:
    """The reading as padding, with the others that fit a mask of this name."""
    name, sets = leaf.name, (found.name,)
    keeps, hint = _polarity(name, leaf.value)
    role = Role(Kind.PADDING, (), sets, keeps)
    if speaks_of_padding(name) or leaf.value.dim() > 2:
        inverted = (dataclasses.replace(role, keeps=False),) if hint else ()
        return Guess(role, "", hint, inverted)
    feature = Role(Kind.TOKENS, (-1,), sets)
    hint = f"pass roles={{{name!r}: {str(feature)!r}}} if it is a feature of each token"
    return Guess(role, "as it is 0 and 1", hint, (feature,))


def _polarity(name: str, value: Tensor) -> tuple[bool | None, str]:
    """Whether True stands for a token; None of masks that are added to scores."""
    if value.is_floating_point() and not is_binary(value):
        if not is_additive(value):
            low, high = value.amin().item(), value.amax().item()
            raise ValueError(
                f"{name} must hold truth values, 0 and 1, or 0 and -inf, got numbers from "
                f"{low:.3g} to {high:.3g}"
            )
        return None, ""
    if named(name, ("pad", "invalid")):
        return False, ""
    if name == "attention_mask" or not named(name, ("mask",)):
        return True, ""
    return True, f"pass roles={{{name!r}: 'padding:True=pad'}} if True is padding"


def mask_role(leaf: Leaf, found: Found) -> bool | None:
    """What True stands for in a mask that is said to be one."""
    return _polarity(leaf.name, leaf.value)[0]


def _pairs(leaf: Leaf, sets: Sequence[Found]) -> Guess | None:
    """Pairs of tokens of a set, or of two: rows and columns beside each other, in any order."""
    value, batch = leaf.value, sets[0].batch
    for dims, rows, columns in itertools.product(((-2, -1), (-3, -2)), sets, sets):
        if value.dim() < -dims[0] or rows.size < 2:
            continue
        lead, sizes = value.shape[: value.dim() + dims[0]], (rows.size, columns.size)
        if (value.shape[dims[0]], value.shape[dims[1]]) != sizes:
            continue
        crossed = rows is not columns
        if crossed and not (named(leaf.name, _OF_PAIRS) or value.dtype == torch.bool):
            continue
        may_be_tokens = value.shape == rows.lead and not named(leaf.name, _MASKS_OF_PAIRS)
        if _leads_pairs(leaf, lead, batch) and not may_be_tokens:
            names = (rows.name, columns.name) if crossed else (rows.name,)
            return Guess(Role(Kind.PAIRS, dims, names), "", _of_mask(leaf, dims))
    return None


def _of_mask(leaf: Leaf, dims: tuple[int, ...]) -> str:
    """How to say which pairs a mask of truth values hides."""
    if not named(leaf.name, _MASK) or not is_binary(leaf.value):
        return ""
    role = Role(Kind.PAIRS, dims if dims != (-2, -1) else (), (), True)
    return f"pass roles={{{leaf.name!r}: {str(role)!r}}} or True=hide to say what True is"


def _leads_pairs(leaf: Leaf, lead: Size, batch: Size) -> bool:
    """Whether what comes before rows and columns is nothing, sets, heads, or sets and heads."""
    if not lead or (batch and lead[: len(batch)] == batch):
        return True
    if batch and (lead[0] == 1 or (len(lead) == 1 and lead[0] % batch[0] == 0)):
        return True  # both in one dimension, as masks of nn.MultiheadAttention have them
    return len(lead) == 1 and named(leaf.name, _OF_PAIRS)  # heads


def is_second_set(leaf: Leaf, main: Found) -> bool:
    """Whether an input is another set of tokens (B, M, D), of another size than the first."""
    value = leaf.value
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    if named(leaf.name, (*_MASK, *_OF_SETS)) and not named(leaf.name, ("hidden_states", "embeds")):
        return False
    n = value.shape[-2] if value.dim() > 1 else 0
    like = main.leaf.value
    return (
        value.dim() == len(main.lead) + 1
        and value.shape[:-2] == main.batch
        and n > 1
        and (n != main.size)
        and not (is_additive(value) and not is_binary(value))
        and not _pairs(leaf, [main, main._replace(name=leaf.name, lead=value.shape[:-1])])
        and (bool(main.batch) or named(leaf.name, _SECOND) or value.shape[-1] == like.shape[-1])
    )


def listed_role(leaf: Leaf, found: Found, num_edges: int | None, is_last: bool) -> Guess:
    """The role of a further input of a graph or a ragged batch: by its number of rows."""
    value, name, n = leaf.value, leaf.name, found.size
    if not isinstance(value, Tensor) or not value.dim():
        return Guess(Role(Kind.OTHER))
    size, ids = value.shape[0], is_integer(value) and value.dim() == 1
    why = f"one row a token of {found.name}"
    of_nodes = Guess(Role(_kind(name), (-value.dim(),), (found.name,)), why)
    if size == n and ids and is_membership(leaf, found, num_edges, is_last):
        by_name = named(name, _MEMBERSHIP)
        hint = "" if by_name else f"pass roles={{{name!r}: 'tokens'}} if these are types"
        of_set, others = Role(Kind.MEMBERSHIP, (), (found.name,)), (Role(Kind.TOKENS),)
        return Guess(of_set, "the set of each token", hint, others if hint else ())
    if num_edges is not None and size == num_edges and (size != n or "edge" in name):
        return Guess(Role(Kind.EDGES, (-value.dim(),)), "one entry an edge")
    if num_edges is not None and size == n == num_edges and not ids and not named(name, _POSITIONS):
        raise ValueError(
            f"example has the same number of edges and nodes, {n}: whether {name} "
            "belongs to nodes or edges is unknown; name it edge_..., pass "
            f"roles={{{name!r}: 'edges'}}, or take another number"
        )
    if size == n:
        is_mask = value.dim() == 1 and num_edges is None and found.num_ragged is None
        if is_mask and (named(name, ("mask",)) or is_binary(value)) and not ids_of_types(leaf):
            return _padding(leaf, found)
        may_be_sets = ids and found.num_ragged is None
        return of_nodes._replace(hint=TYPES.format(name) if may_be_sets else "")
    if value.shape == (1, n):
        return Guess(Role(_kind(name), (-1,), (found.name,)))
    if found.num_ragged is not None and size == found.num_ragged:
        return Guess(Role(Kind.PER_SET))
    return Guess(Role(Kind.OTHER))


def bounds_role(leaf: Leaf, found: Found) -> Guess | None:
    """The role of an input that says where the sets of a list of tokens are, if it does."""
    kind, name, hint = bounds_in(leaf.value, found.size), leaf.name, ""
    by_name = named(name, _COUNTS if kind == "lengths" else _BOUNDS)
    if not kind or (kind == "starts" and not named(name, _STARTS)):
        return None
    if not by_name:
        few = len(leaf.value) in (1, found.size) or int(leaf.value.max()) < 2
        empty = kind == "lengths" and int(leaf.value.min()) == 0
        if few or empty or named(name, (*_TYPES, *_OF_SETS, *_MASK, *_POSITIONS)):
            return None
        hint = f"pass roles={{{name!r}: 'other'}} if these are no sizes of sets"
    role = Kind.LENGTHS if kind == "lengths" else Kind.PTR
    return Guess(Role(role, (), (found.name,)), "as its numbers fit the tokens", hint)


def ids_of_types(leaf: Leaf) -> bool:
    return is_integer(leaf.value) and named(leaf.name, (*_NOT_A_MASK, *_TYPES))


def is_membership(leaf: Leaf, found: Found, num_edges: int | None, is_last: bool) -> bool:
    """The index of the set of each token: named so, or sorted with every index from 0."""
    value, name, n = leaf.value, leaf.name, found.size
    if not is_integer(value) or value.shape != (n,) or found.num_ragged is not None:
        return False
    if named(name, ("mask",)) or name == "z":
        return False
    if named(name, _MEMBERSHIP):
        return num_edges is None or "batch" in name or n != num_edges
    steps = value.diff()
    is_sorted = n > 0 and int(value[0]) == 0 and bool(((steps == 0) | (steps == 1)).all())
    return is_sorted and not named(name, _TYPES) and is_last and bool(value.any())
