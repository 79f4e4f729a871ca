"""`TextTokenizer`, the base class of tokenizers of text; `Characters` and `Bytes`."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from tokennet._files import write_text
from tokennet.checks import check_items, check_type, checked
from tokennet.graphs import Causal
from tokennet.tokenizers.base import Tokenizer, indices_of
from tokennet.tokenizers.line import tokens_in_line
from tokennet.tokens import Tokens


@checked()
@dataclass(frozen=True)
class TextTokenizer(Tokenizer):
    """From a text to ids: `encode` returns (N,) int64, a call tokens z (N, 1) of the same ids.

    Subclass it for another vocabulary. Graph: `Causal`; pos (N, 1) is the index in the text.
    `Embedding(vocab_size, dim)` makes vectors of the ids. The names of special tokens in a text
    are encoded as text: special tokens, whose ids come after all others, are inserted by their
    ids, and decoded to their names.

    The inverse sorts tokens by `tokens.pos`, or keeps their order if that is None.

    >>> from tokennet.tokenizers import Bytes
    >>> isinstance(Bytes(), TextTokenizer), Bytes().vocab_size
    (True, 256)
    """

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of ids, special tokens among them."""

    @abstractmethod
    def encode(self, text: str) -> Tensor:
        """The ids (N,) int64 of a text."""

    @abstractmethod
    def spell(self, ids: list[int]) -> str:
        """The text of ids that are in the vocabulary."""

    @abstractmethod
    def token_to_id(self, token: str) -> int:
        """The id of a token, special or not.

        Raises:
            ValueError: there is no such token.
        """

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Write a JSON file that `load` reads."""

    def decode(self, ids: Tensor | Sequence[Any]) -> Any:
        """The text of ids (N,); of ids (..., N), lists of texts.

        Raises:
            ValueError: ids are not integers, or not in the vocabulary.
        """
        ids = torch.as_tensor(ids)
        if ids.dim() == 0 or (ids.numel() and (ids.is_floating_point() or ids.dtype == torch.bool)):
            raise ValueError(f"ids must be integers (..., N), got {ids.dtype} {tuple(ids.shape)}")
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocab_size:
            raise ValueError(
                f"ids must be 0 .. {self.vocab_size - 1}, got {int(ids.min())} .. {int(ids.max())}"
            )
        return self._decode(ids)

    def _decode(self, ids: Tensor) -> Any:
        if ids.dim() == 1:
            return self.spell(ids.long().tolist())
        return [self._decode(row) for row in ids]

    def tokenize(self, text: str) -> Tokens:
        return tokens_in_line(self.encode(text)[:, None], Causal)

    def restore(self, tokens: Tokens) -> Any:
        if tokens.dim != 1 or tokens.z.is_floating_point():
            raise ValueError(
                f"tokens must have integer ids (..., N, 1) as z, got {tokens.z.dtype} of shape "
                f"{tuple(tokens.z.shape)}"
            )
        ids = tokens.z[..., 0]
        if tokens.pos is not None:
            ids = ids[..., indices_of(tokens, 1)[:, 0].argsort(stable=True)]
        return self.decode(ids)

    def check_text(self, text: Any) -> str:
        """Return `text` if it is a string, or raise TypeError."""
        if not isinstance(text, str):
            raise TypeError(f"text must be a str, got {type(text).__name__}")
        return text


@dataclass(frozen=True)
class _Spelled(TextTokenizer):
    """A fixed vocabulary, and special tokens after it."""

    special_tokens: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        given = check_items("special_tokens", self.special_tokens, str, "strings")
        special = _no_repeats("special_tokens", given)
        object.__setattr__(self, "special_tokens", special)

    def token_to_id(self, token: str) -> int:
        if token in self.special_tokens:
            return self.vocab_size - len(self.special_tokens) + self.special_tokens.index(token)
        ids = self.encode(token)
        if len(ids) != 1:
            raise ValueError(f"token must be a single token, got {token!r} of {len(ids)}")
        return int(ids[0])

    def save(self, path: str | Path) -> None:
        saved = {each.name: getattr(self, each.name) for each in fields(self)}
        del saved["graph"]  # a function, which the caller passes to `load`
        saved["kind"] = type(self).__name__
        write_text(Path(path), json.dumps(saved, indent=1))

    @classmethod
    def load(cls, path: str | Path, **options: Any) -> Self:
        """Read what `save` wrote; options such as `graph` are passed on.

        Raises:
            ValueError: the file is of another kind of tokenizer.
        """
        saved = json.loads(Path(path).read_text(encoding="utf-8"))
        kind = saved.pop("kind", None) if isinstance(saved, dict) else None
        if kind != cls.__name__:
            raise ValueError(f"path must hold a saved {cls.__name__}, {path} holds {kind}")
        return cls(**saved, **options)


@checked()
@dataclass(frozen=True)
class Characters(_Spelled):
    """Every character of a text is a token; ids are indices in the alphabet.

    Use it for small alphabets.

    Args:
        alphabet: the characters that may occur, each once.
        special_tokens: names of the ids after the alphabet, such as "[MASK]".

    Raises:
        ValueError: a text has a character that is not in the alphabet.

    >>> characters = Characters.from_text("to be or not to be")
    >>> characters.alphabet, characters.encode("bob").tolist()
    (' benort', [1, 4, 1])
    >>> characters("bob")
    Tokens(z=(3, 1), graph=Causal(3): 3 tokens, 6 edges, density 0.667, pos=(3, 1))
    >>> characters.inverse(characters(["to be", "not"]))
    ['to be', 'not']
    """

    alphabet: str

    def __post_init__(self) -> None:
        super().__post_init__()
        check_type("alphabet", self.alphabet, str, "a string")
        _no_repeats("alphabet", self.alphabet)

    @classmethod
    def from_text(cls, text: str, special_tokens: Iterable[str] = (), **options: Any) -> Self:
        """The alphabet is the characters of `text`, sorted."""
        alphabet = "".join(sorted(set(text)))
        return cls(alphabet, special_tokens=tuple(special_tokens), **options)

    @cached_property
    def _id_of(self) -> dict[str, int]:
        return {character: i for i, character in enumerate(self.alphabet)}

    @property
    def vocab_size(self) -> int:
        return len(self.alphabet) + len(self.special_tokens)

    def encode(self, text: str) -> Tensor:
        try:
            ids = [self._id_of[character] for character in self.check_text(text)]
        except KeyError as error:
            raise ValueError(
                f"text must be written in the alphabet, got {error.args[0]!r} at "
                f"{text.index(error.args[0])}"
            ) from error
        return torch.tensor(ids, dtype=torch.long)

    def spell(self, ids: list[int]) -> str:
        tokens = (*self.alphabet, *self.special_tokens)
        return "".join(tokens[i] for i in ids)


@checked()
@dataclass(frozen=True)
class Bytes(_Spelled):
    """Every byte of the text in UTF-8 is a token: 256 ids for all scripts.

    Use it for any text without training: Xue et al., 2021 (ByT5, arXiv 2105.13626). Bytes that
    are not UTF-8, as a net may generate them, are decoded to the replacement character.

    Args:
        special_tokens: names of the ids from 256 on.

    >>> Bytes().encode("né").tolist()
    [110, 195, 169]
    >>> Bytes().decode([110, 195, 169])
    'né'
    """

    @property
    def vocab_size(self) -> int:
        return 256 + len(self.special_tokens)

    def encode(self, text: str) -> Tensor:
        return torch.tensor(list(self.check_text(text).encode()), dtype=torch.long)

    def spell(self, ids: list[int]) -> str:
        written = b"".join(
            bytes([i]) if i < 256 else self.special_tokens[i - 256].encode() for i in ids
        )
        return written.decode(errors="replace")


def _no_repeats(name: str, tokens: Iterable[str]) -> tuple[str, ...]:
    tokens = tuple(tokens)
    repeated = sorted({token for token in tokens if tokens.count(token) > 1})
    if repeated:
        raise ValueError(f"{name} must not repeat any, got {', '.join(map(repr, repeated))} twice")
    return tokens
