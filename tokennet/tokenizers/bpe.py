"""`BPE`: byte-pair encoding of text, by the `tokenizers` package."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from tokennet.checks import check_size, checked, require
from tokennet.tokenizers.text import TextTokenizer


@checked()
@dataclass(frozen=True, eq=False, repr=False)
class BPE(TextTokenizer):
    """Frequent strings of bytes are tokens: the byte-level byte-pair encoding of GPT-2.

    Use it for long texts, which have fewer tokens than as `Bytes`. Sennrich et al., 2016
    (arXiv 1508.07909), on bytes as in Radford et al., 2019. The vocabulary starts with the 256
    bytes, so that every text can be encoded and is decoded exactly. Needs the `tokenizers`
    package.

    Args:
        model: a byte-level `tokenizers.Tokenizer`; made by `train` or `load`.

    >>> bpe = BPE.train(["to be or not to be"] * 10, vocab_size=270)
    >>> [bpe.decode([i]) for i in bpe.encode("not to be")]
    ['no', 't', ' to', ' be']
    """

    model: Any

    @classmethod
    def train(
        cls,
        texts: str | Iterable[str],
        vocab_size: int,
        special_tokens: Sequence[str] = (),
        **options: Any,
    ) -> Self:
        """Merge the most frequent pairs of the texts until there are `vocab_size` tokens.

        There are fewer if the texts have no more pairs. Special tokens count, and come last.

        Raises:
            ImportError: the `tokenizers` package is not installed.
            ValueError: `vocab_size` has no room for bytes and special tokens.
        """
        check_size("vocab_size", vocab_size, 256 + len(special_tokens))
        package = require("tokenizers", "tokenizers")
        model = package.Tokenizer(package.models.BPE())
        model.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = package.decoders.ByteLevel()
        trainer = package.trainers.BpeTrainer(
            vocab_size=vocab_size - len(special_tokens),
            initial_alphabet=package.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        model.train_from_iterator([texts] if isinstance(texts, str) else texts, trainer)
        model.add_special_tokens(list(special_tokens))
        return cls(model, **options)

    @classmethod
    def load(cls, path: str | Path, **options: Any) -> Self:
        """Read a `tokenizer.json`, this library's or that of a Hugging Face model."""
        return cls(require("tokenizers", "tokenizers").Tokenizer.from_file(str(path)), **options)

    def save(self, path: str | Path) -> None:
        """Write a `tokenizer.json`, which Hugging Face libraries read too."""
        self.model.save(str(path))

    @property
    def vocab_size(self) -> int:
        return self.model.get_vocab_size()

    def encode(self, text: str) -> Tensor:
        self.model.encode_special_tokens = True  # not saved in files
        encoding = self.model.encode(self.check_text(text), add_special_tokens=False)
        return torch.tensor(encoding.ids, dtype=torch.long)

    def spell(self, ids: list[int]) -> str:
        return self.model.decode(ids, skip_special_tokens=False)

    def token_to_id(self, token: str) -> int:
        found = self.model.token_to_id(token)
        if found is None:
            raise ValueError(f"token must be in the vocabulary, got {token!r}")
        return found

    def __repr__(self) -> str:
        return f"BPE(vocab_size={self.vocab_size})"
