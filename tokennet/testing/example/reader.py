"""`Reader`: which parts of an example are tokens, and what the others have to do with them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tokennet.checks import lookup
from tokennet.testing.example.fits import check_members, check_sizes
from tokennet.testing.example.forms import Leaf, bounds_in, members_of
from tokennet.testing.example.guess import (
    AS_SAID,
    Found,
    Guess,
    best_set,
    bounds_role,
    dense_role,
    is_integer,
    is_membership,
    is_second_set,
    listed_role,
    mask_role,
    named,
    speaks_of_padding,
)
from tokennet.testing.example.roles import Kind, Role, check_set, counted_from_end
from tokennet.testing.example.standard import in_standard_form

_NOT_FIRST = ("mask", "padding", "length", "batch", "index", "ptr", "label", "target", "edge",
              "offset", "seqlen")  # fmt: skip
MEMBERS = (Kind.MEMBERSHIP, Kind.PTR, Kind.LENGTHS)
"""Roles that may say which tokens of a list make a set."""


@dataclass
class Reader:
    """Finds the sets of tokens first, then what everything else has to do with them."""

    leaves: list[Leaf]
    said: dict[int, Role]
    sets: list[Found] = field(default_factory=list)
    guesses: dict[int, Guess] = field(default_factory=dict)

    def read(self) -> list[Guess]:
        for number, role in self.said.items():
            value = self.leaves[number].value
            dims = value.dim() if isinstance(value, Tensor) else 0
            name = f"roles[{self.leaves[number].name!r}]"
            role = dataclasses.replace(role, dims=counted_from_end(name, role.dims, dims))
            self.guesses[number] = Guess(role, AS_SAID)
        self._ragged()
        self._of_types()
        self._first_set()
        self._edges()
        self._members()
        self._further_sets()
        self._others()
        self._complete()
        return [self.guesses[number] for number in range(len(self.leaves))]

    def _open(self) -> list[int]:
        """Numbers of the tensors that nothing is known of."""
        return [
            n for n, leaf in enumerate(self.leaves)
            if n not in self.guesses and isinstance(leaf.value, Tensor)
        ]  # fmt: skip

    def _ragged(self) -> None:
        for number, leaf in enumerate(self.leaves):
            if leaf.ragged:
                members = self.leaves[number + 1].value
                self._add(number, leaf.name, (-leaf.value.dim(),), "one tensor a set", members)
                self.guesses[number + 1] = Guess(Role(Kind.MEMBERSHIP, (), (leaf.name,)))

    def _add(
        self, number: int, name: str, dims: tuple[int, ...], why: str = "",
        members: Tensor | None = None, hint: str = "",
    ) -> None:  # fmt: skip
        """Let an input be the vectors of a set of tokens."""
        leaf, role = self.leaves[number], Role(Kind.TOKENS, dims, (name,))
        _, value, standard = in_standard_form(leaf, role, [])
        lead = value.shape[: value.dim() + standard.dims[0] + 1]
        count = None if members is None else int(members.max()) + 1 if len(members) else 0
        self.sets.append(Found(name, lead, leaf, count))
        self.guesses[number] = Guess(role, why, hint)

    def _of_types(self) -> None:
        """Inputs by type of node and of edge, as in `x_dict` and `edge_index_dict`."""
        edge_types = {
            key for leaf in self.leaves for key in leaf.path
            if isinstance(key, tuple) and len(key) == 3
        }  # fmt: skip
        types = {end for key in edge_types for end in (key[0], key[2])}
        for number in self._open():
            leaf = self.leaves[number]
            kind = next((key for key in leaf.path[1:2] if key in types), None)
            is_x = len(leaf.path) == 2 or leaf.path[-1] == "x"
            if kind is not None and is_x and kind not in {found.name for found in self.sets}:
                self._add(number, str(kind), (-leaf.value.dim(),), "nodes of a type")
        by_name = {found.name: found for found in self.sets}
        lists: dict[Any, str] = {}
        for number in self._open():
            leaf = self.leaves[number]
            key = next((key for key in leaf.path if key in edge_types), None)
            if key is not None and is_integer(leaf.value) and leaf.value.shape[:1] == (2,):
                lists[key] = leaf.name
                ends = (str(key[0]), str(key[2]))
                self.guesses[number] = Guess(Role(Kind.EDGE_INDEX, (), ends), "edges of a type")
        for number in self._open():
            leaf = self.leaves[number]
            key = next((key for key in leaf.path[1:] if key in edge_types or key in types), None)
            if key in lists:
                role = Role(Kind.EDGES, (-leaf.value.dim(),), (lists[key],))
                self.guesses[number] = Guess(role)
            elif str(key) in by_name and leaf.value.shape[:1] == (by_name[str(key)].size,):
                self.guesses[number] = listed_role(leaf, by_name[str(key)], None, False)

    def _first_set(self) -> None:
        said = [n for n, role in self.said.items() if role.kind is Kind.TOKENS]
        of_others = all(self.said[n].sets for n in said)  # names of further sets
        if not self.sets and of_others:
            self._guess_first(min(said, default=len(self.leaves)))
        for number in sorted(said):
            role, leaf = self.guesses[number].role, self.leaves[number]
            name = (role.sets or (leaf.name if not self.sets else self.sets[0].name,))[0]
            if name not in {found.name for found in self.sets}:
                self._add(number, name, role.dims or _usual_dims(leaf), AS_SAID)

    def _guess_first(self, before: int) -> None:
        """Take one of the inputs before this number for the tokens, if there are any."""
        has_images = any(
            role.kind is Kind.PER_SET and self.leaves[n].value.dim() > 3
            for n, role in self.said.items()
        )
        known = [n for n in self._open() if n < before and self.leaves[n].value.dim() > has_images]
        fitting = [n for n in known if not named(self.leaves[n].name, _NOT_FIRST)]
        if not self.said:
            fitting = fitting or known
        if not fitting:
            return
        number = fitting[0]
        if self.leaves[number].value.dim() == 1:  # types of atoms, with their positions beside them
            n = len(self.leaves[number].value)
            rows = (k for k in fitting if _is_rows(self.leaves[k].value, n))
            number = next(rows, number)
        leaf = self.leaves[number]
        if leaf.value.dim() < (2 if not is_integer(leaf.value) else 1) or not leaf.value.shape[:1]:
            raise ValueError(f"example must have shape (..., N, D), got {tuple(leaf.value.shape)}")
        self._add(number, leaf.name, _usual_dims(leaf))

    def _edges(self) -> None:
        if not self.sets:
            return
        x = self.sets[0].leaf.value
        for number in self._open():
            leaf = self.leaves[number]
            if _is_edge_list(leaf, x):
                self.guesses[number] = self._edge_list(leaf)
            elif "edge" in leaf.name and is_integer(leaf.value) and leaf.value.shape[1:] == (2,):
                hint = "(E, 2); layers of PyG take (2, E): pass it transposed"
                self.guesses[number] = Guess(Role(Kind.EDGE_INDEX, (0,)), "", hint)

    def _edge_list(self, leaf: Leaf) -> Guess:
        if len(self.sets) == 1:
            targets = self._targets(leaf)
            if targets is not None:
                self._add(targets, self.leaves[targets].name, (-2,), "targets of the edges")
        if len(self.sets) > 1:
            ends = (self.sets[0].name, self.sets[1].name)
            return Guess(Role(Kind.EDGE_INDEX, (), ends), "from sources to targets")
        size = self.sets[0].size
        if leaf.value.numel() and int(leaf.value.max()) >= size:
            raise ValueError(
                f"{leaf.name} names token {int(leaf.value.max())}, "
                f"but {self.sets[0].name} has {size} tokens"
            )
        return Guess(Role(Kind.EDGE_INDEX))

    def _targets(self, edges: Leaf) -> int | None:
        """The nodes that edges lead to where they are others than those that they come from."""
        first, last = self.sets[0].leaf, edges.value.amax(1).tolist() if edges.value.numel() else []
        for number in self._open():
            leaf = self.leaves[number]
            if leaf.value.dim() != 2 or not leaf.value.is_floating_point():
                continue
            beside = leaf.path[:-1] == first.path[:-1] != ()
            called = named(leaf.name, ("dst", "target", "_t")) and named(first.name, ("src", "_s"))
            fits = bool(last) and last[1] >= self.sets[0].size and last[1] < len(leaf.value)
            if beside or called or fits:
                return number
        return None

    def _num_edges(self) -> int | None:
        for number, guess in self.guesses.items():
            if guess.role.kind is Kind.EDGE_INDEX and "label" not in self.leaves[number].name:
                return self.leaves[number].value.shape[-1 if guess.role.dims != (0,) else 0]
        return None

    def _members(self) -> None:
        """The set of each token, which makes a ragged batch of a list of tokens."""
        for number, guess in list(self.guesses.items()):
            kind, leaf = guess.role.kind, self.leaves[number]
            if kind in MEMBERS and number in self.said and self.sets:
                own = best_set((guess.role.sets or ("",))[0], self.sets)
                check_members(leaf, kind, own)
                if kind is not Kind.LENGTHS or len(own.lead) == 1:
                    self._join(leaf, own, kind)
        self._further_ragged()
        for number in self._open():
            for found in self.sets:
                if len(found.lead) == 1 and is_membership(
                    self.leaves[number], found, self._num_edges(), number == len(self.leaves) - 1
                ):
                    self.guesses[number] = listed_role(
                        self.leaves[number], found, self._num_edges(), True
                    )
                    self._join(self.leaves[number], found)
                    break

        self._bounds()

    def _bounds(self) -> None:
        """Where the sets of a list of tokens begin and end, or how many tokens they have."""
        for number in self._open():
            leaf = self.leaves[number]
            for found in self.sets:
                bounds = bounds_role(leaf, found) if len(found.lead) == 1 else None
                if bounds is not None:
                    self.guesses[number] = bounds
                    check_members(leaf, bounds.role.kind, found)
                    self._join(leaf, found, bounds.role.kind)
                    break

    def _further_ragged(self) -> None:
        """Tokens of another number with the set of each, as in (x, batch, y, batch_y)."""
        for number in self._open():
            leaf = self.leaves[number]
            if leaf.value.dim() != 1 or not is_integer(leaf.value) or not len(leaf.value):
                continue
            n = len(leaf.value)
            if named(leaf.name, ("cu_seq", "ptr")) and int(leaf.value[0]) == 0:
                n = int(leaf.value[-1])
            if n in {0, *(found.size for found in self.sets)}:
                continue
            rows = [k for k in self._open() if _is_rows(self.leaves[k].value, n)]
            if rows and named(leaf.name, ("batch", "cu_seq", "ptr")) and self.sets:
                self._add(rows[0], self.leaves[rows[0]].name, (-2,))

    def _join(self, leaf: Leaf, found: Found, kind: Kind = Kind.MEMBERSHIP) -> None:
        members = leaf.value
        if kind is not Kind.MEMBERSHIP:
            members = members_of(members, bounds_in(members, found.size), found.size)
        count = int(members.max()) + 1 if members.numel() else 0
        at = self.sets.index(found)
        self.sets[at] = found._replace(num_ragged=count)

    @property
    def _is_listed(self) -> bool:
        """Whether tokens are a list (N, ...), of a graph or a ragged batch."""
        return self._num_edges() is not None or any(s.num_ragged is not None for s in self.sets)

    def _further_sets(self) -> None:
        if not self.sets or self._is_listed:
            return
        for number in self._open():
            leaf = self.leaves[number]
            if any(leaf.value.shape[:-1] == found.lead for found in self.sets[1:]):
                continue  # as keys and values
            if is_second_set(leaf, self.sets[0]) or self._has_a_mask_of_its_own(leaf):
                hint = f"pass roles={{{leaf.name!r}: 'per_set'}} if its rows have an order"
                self._add(number, leaf.name, (-2,), "", None, hint)

    def _has_a_mask_of_its_own(self, leaf: Leaf) -> bool:
        """context beside x, with x_mask and context_mask: two sets of one size."""
        if leaf.name in ("query", "key", "value"):
            return False
        own = f"{leaf.name.lower()}_"
        masks = [
            other for other in self.leaves
            if other.name.lower().startswith(own) and named(other.name, ("mask", "padding"))
        ]  # fmt: skip
        first = self.sets[0].leaf
        return (
            bool(masks) and leaf.value.shape[:-1] == first.value.shape[:-1] and leaf.value.dim() > 2
        )

    def _others(self) -> None:
        for number, leaf in enumerate(self.leaves):
            if number in self.guesses:
                continue
            if not self.sets:
                of_batch = isinstance(leaf.value, Tensor) and leaf.value.dim()
                self.guesses[number] = Guess(Role(Kind.PER_SET if of_batch else Kind.OTHER))
            elif self._is_listed:
                is_last = number == len(self.leaves) - 1
                is_rows = isinstance(leaf.value, Tensor) and leaf.value.dim() > 0
                own = best_set(leaf.name, self.sets, len(leaf.value) if is_rows else None)
                self.guesses[number] = listed_role(leaf, own, self._num_edges(), is_last)
            else:
                self.guesses[number] = dense_role(leaf, self.sets)

    def _complete(self) -> None:
        """Name the set in each role, and keep one mask a set: that which is called so."""
        masks: dict[str, int] = {}
        for number in sorted(self.guesses, key=self._is_no_mask):
            guess = self._with_set(number, self.guesses[number])
            if guess.role.kind is Kind.PADDING or self._is_of_dense(guess.role):
                if guess.role.sets[0] in masks and number not in self.said:
                    dims = (-1,)
                    guess = Guess(Role(Kind.TOKENS, dims, guess.role.sets), "moves with its tokens")
                masks.setdefault(guess.role.sets[0], number)
            self.guesses[number] = guess

    def _is_no_mask(self, number: int) -> tuple[bool, bool]:
        """By name, to sort by: masks first, then what else speaks of padding."""
        name = self.leaves[number].name
        return not named(name, ("mask",)), not speaks_of_padding(name)

    def _is_of_dense(self, role: Role) -> bool:
        """Whether these are lengths of sets that are padded to one size."""
        if role.kind is not Kind.LENGTHS:
            return False
        return best_set(role.sets[0], self.sets).num_ragged is None

    def _of_edges(self, leaf: Leaf, role: Role) -> Role:
        """The list of edges that an input has an entry for each of."""
        lists = [
            self.leaves[n].name for n, guess in self.guesses.items()
            if guess.role.kind is Kind.EDGE_INDEX
        ]  # fmt: skip
        if not lists:
            raise ValueError(f"roles[{leaf.name!r}] is {role}, but no input lists edges")
        for name in role.sets:
            lookup(f"roles[{leaf.name!r}]", name, dict.fromkeys(lists))
        first = min(lists, key=lambda name: "label" in name)
        return Role(role.kind, role.dims or (-leaf.value.dim(),), role.sets or (first,))

    def _with_set(self, number: int, guess: Guess) -> Guess:
        role, leaf = guess.role, self.leaves[number]
        if role.kind is Kind.EDGES:
            return guess._replace(role=self._of_edges(leaf, role))
        if role.kind in (Kind.PER_SET, Kind.OTHER):
            return guess
        if not self.sets:
            raise ValueError(f"roles[{leaf.name!r}] is {role}, but no input holds tokens")
        known = {found.name: found for found in self.sets}
        check_set(leaf.name, role, known)
        sets = role.sets or (best_set(leaf.name, self.sets).name,)
        dims, keeps = role.dims, role.keeps
        if role.kind in (Kind.TOKENS, Kind.POSITIONS) and not dims:
            dims = _usual_dims(leaf)
        if role.kind is Kind.PAIRS and not dims:
            dims = (-2, -1)
        if role.kind is Kind.PADDING and number in self.said and keeps is None:
            keeps = mask_role(leaf, known[sets[0]])
        role = Role(role.kind, dims, sets, keeps)
        if number in self.said:
            check_sizes(leaf, role, known)
        return guess._replace(role=role)


def _usual_dims(leaf: Leaf) -> tuple[int, ...]:
    return (-1,) if is_integer(leaf.value) or leaf.value.dim() == 1 else (-2,)


def _is_rows(value: Tensor, n: int) -> bool:
    return value.dim() == 2 and value.is_floating_point() and len(value) == n


def _is_edge_list(leaf: Leaf, x: Tensor) -> bool:
    value = leaf.value
    if not is_integer(value) or value.dim() != 2 or value.shape[0] != 2:
        return False
    if x.dim() != 2:  # ids of nodes, or a batch that shares the graph
        return "edge" in leaf.name
    return x.shape[0] != 2 or value.shape[1] != x.shape[-1] or x.is_floating_point()
