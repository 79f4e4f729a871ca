"""Characters predicted from the two before: what a language model has to beat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class NGram:
    r"""Interpolated n-grams, smoothed by Witten and Bell (1991).

        p(c | h) = (n(h c) + d(h) p(c | h')) / (n(h) + d(h))

    n counts, d(h) is the number of different characters seen after the context h, h' is h
    without its first character; at the end of the recursion every character is as likely.

    Args:
        ids: (N,) the training text, integers below `size`.
        size: number of characters.
        order: 3 for trigrams.

    >>> model = NGram(np.array([0, 1, 0, 1, 0]), size=2, order=2)
    >>> model.probabilities(np.array([0, 1])).round(3).tolist()  # after nothing; after 0
    [0.571, 0.81]
    """

    def __init__(self, ids: NDArray[np.int64], size: int, order: int = 3) -> None:
        self.size, self.order = size, order
        self.counts = [
            np.bincount(_codes(ids, size, length), minlength=size**length).reshape(-1, size)
            for length in range(1, order + 1)
        ]

    def probabilities(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """(N,) of each character, given the `order - 1` before it, fewer at the start."""
        result = np.full(len(ids), 1 / self.size)
        for length, counts in enumerate(self.counts, start=1):
            if len(ids) < length:
                break
            code = _codes(ids, self.size, length)
            context, last = code // self.size, code % self.size
            rows = counts[context]
            different = (rows > 0).sum(1)
            seen = rows.sum(1) + different
            lower = result[length - 1 :]
            mixed = (rows[np.arange(len(rows)), last] + different * lower) / np.maximum(seen, 1)
            result[length - 1 :] = np.where(seen > 0, mixed, lower)
        return result

    def bits(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """(N,) -log2 of each probability."""
        return -np.log2(self.probabilities(ids))


def _codes(ids: NDArray[np.int64], size: int, length: int) -> NDArray[np.int64]:
    """One integer for each run of `length` characters."""
    runs = np.lib.stride_tricks.sliding_window_view(ids, length)
    return runs @ (size ** np.arange(length - 1, -1, -1))
