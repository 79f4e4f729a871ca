"""Tasks on arrays: images, series, rows of a table, and sets of several sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokennet.checks import check_size
from tokennet.compare.metric import Splits, accuracy, error, majority, mean, median, squares
from tokennet.compare.task import Batch, StoredTask, TrainConfig
from tokennet.graphs import Causal, Full, Grid
from tokennet.nets import IOSpec
from tokennet.tokenizers import Patches
from tokennet.tokens import Tokens

CONFIG = TrainConfig(epochs=30, batch_size=64, lr=3e-3, warmup=0.1, size=30_000)
SPLITS = ("train", "val", "test")


class ArrayTask(StoredTask):
    """Examples in arrays, and their classes or numbers. Made by `task_from`.

    - x (n, H, W) with `images=True`, or (n, C, H, W): images, whose patches are tokens on a grid;
      bytes become numbers in 0 .. 1,
    - x (n, N, C): series or sets of N tokens, on the complete and the causal graph,
    - x (n, F): rows of a table; each column is a token of one channel, minus its mean and over
      its standard deviation in the training,
    - a list of (N_i, C): sets of several sizes; of integers (N_i, 1), ids.

    Whole numbers y (n,) are classes, and other numbers (n,) or (n, k) are estimated.

    Args:
        splits: numbers of the examples in "train", "test" and perhaps "val"; by default a random
            fifth is the test, the same for every seed.
        patch: side of the patches of images, by default at most 8 x 8 of them.
        ids: the number of different ids where x holds ids.
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        *,
        name: str = "arrays",
        splits: Mapping[str, Any] | None = None,
        images: bool = False,
        patch: int | None = None,
        ids: int | None = None,
    ) -> None:
        self.name = name  # type: ignore[misc]
        self.target = torch.as_tensor(np.asarray(y))
        count = len(self.target)
        if len(x) != count or count < 5:
            raise ValueError(f"x and y must have at least 5 examples, the same number of them, "
                             f"got {len(x)} and {count}")  # fmt: skip
        self._splits = split_of(count, splits)
        self.ids, self.ragged = ids, _is_ragged(x)
        self._target()
        if self.ragged:
            self._sets(x)
        else:
            self._arrays(torch.as_tensor(np.asarray(x)), images, patch)
        self.summary = f"{count:,} examples, {self.shown}"  # type: ignore[misc]

    def _target(self) -> None:
        if self.target.is_floating_point():
            self.target = self.target.float()
            self.outputs = self.target[0].numel()
            self.metrics = (error,)  # type: ignore[misc]
        elif self.target.dim() == 1:
            self.target = self.target.long()
            if self.target.min() < 0:
                raise ValueError(f"y must be classes from 0, got {int(self.target.min())}")
            self.outputs = int(self.target.max()) + 1
        else:
            told = f"y must be classes (n,) or real numbers, got {self.target.dtype}"
            raise ValueError(f"{told} of shape {tuple(self.target.shape)}")

    def _arrays(self, x: Tensor, images: bool, patch: int | None) -> None:
        if x.dim() == 4 or (x.dim() == 3 and images):
            return self._images(x if x.dim() == 4 else x[:, None], patch)
        if x.dim() == 2 and self.ids is None:
            known = x.double()[self._splits["train"]]
            x = (x.double() - known.mean(0)) / known.std(0).clamp(min=1e-9)
            x = x[..., None]
        if x.dim() != 3:
            raise ValueError(f"x must have 2, 3 or 4 dimensions, got {tuple(x.shape)}")
        self.z = x.float() if self.ids is None else x.long()
        n, channels = x.shape[1:]
        self.graphs = ("full", "causal")  # type: ignore[misc]
        self.on = {"full": Full(n), "causal": Causal(n)}
        self.pos = torch.arange(float(n))[:, None]
        self.nets = ("attention@full", "mlp@full", "mean@full", "none@full")  # type: ignore[misc]
        self._finish(channels, n, 1, f"{n} tokens of {channels} channels")

    def _images(self, x: Tensor, patch: int | None) -> None:
        x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
        largest = max(x.shape[-2:])
        patch = check_size("patch", math.ceil(largest / 8) if patch is None else patch, 1)
        self.tokenizer = Patches(patch, pad=True)
        tokens = self.tokenizer(x)
        rows, columns = tokens.graph.grid_shape or (1, 1)
        self.z = tokens.z
        self.size = tuple(x.shape[-2:])
        self.graphs = ("full", "grid")  # type: ignore[misc]
        n = tokens.num_tokens
        self.on = {"full": Full(n), "grid": Grid(rows, columns)}
        grid = torch.arange(float(rows)), torch.arange(float(columns))
        self.pos = torch.cartesian_prod(*grid).view(-1, 2)
        self.nets = (  # type: ignore[misc]
            "attention@full", "conv2d@grid", "attention@grid", "mlp@full", "none@full",
        )  # fmt: skip
        told = f"images {tuple(x.shape[1:])} as {n} patches"
        self._finish(tokens.dim, n, 2, told)
        self.interface = replace(self.interface, grid=(rows, columns))

    def _sets(self, x: Sequence[Any]) -> None:
        self.sets = [torch.as_tensor(np.asarray(each)) for each in x]
        self.sets = [z.long() if self.ids is not None else z.float() for z in self.sets]
        self.graphs, self.nets = ("full", "causal"), ("attention@full", "mean@full", "none@full")  # type: ignore[misc]
        sizes = [len(z) for z in self.sets]
        told = f"sets of {min(sizes)} to {max(sizes)} tokens"
        self._finish(self.sets[0].shape[-1], None, 1, told)

    def _finish(self, channels: int, n: int | None, axes: int, shown: str) -> None:
        self.shown = shown
        self.config = replace(CONFIG, positions="pos")  # type: ignore[misc]
        self.interface = IOSpec(
            channels if self.ids is None else self.ids, self.outputs, "mean", n,
            num_coordinates=axes, position_base=100.0, ids=self.ids is not None,
        )  # fmt: skip

    def splits(self, seed: int) -> Splits:
        return self._splits

    def batch(self, index: Tensor, graph: str) -> Batch:
        if not self.ragged:
            return super().batch(index, graph)
        kind = Full if graph == "full" else Causal
        sets = [self.sets[number] for number in index.tolist()]
        pos = [torch.arange(float(len(z)))[:, None] for z in sets]
        tokens = [Tokens(z, kind(len(z)), p) for z, p in zip(sets, pos, strict=True)]
        return Batch(Tokens.batch(tokens), self.target[index])

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        if target.is_floating_point():
            return squares(output, target)
        return super().loss(output, target)

    def to_images(self, tokens: Tokens) -> Tensor:
        if not hasattr(self, "tokenizer"):
            return super().to_images(tokens)
        height, width = self.size
        return self.tokenizer.restore(tokens)[..., :height, :width]

    def baselines(self, seed: int) -> Mapping[str, Mapping[str, float]]:
        """The best constant; and of arrays the answer of most of the three nearest examples."""
        splits = self.splits(seed)
        if self.target.is_floating_point():
            return median(self.target, splits) if self.target.dim() == 1 else {}
        found = dict(majority(self.target, splits))
        if not self.ragged and self.ids is None:
            known, asked = (self.z[splits[name]].flatten(1) for name in ("train", "test"))
            count = min(3, len(known))
            nearest = torch.cdist(asked, known).topk(count, largest=False).indices
            answer = self.target[splits["train"]][nearest].mode(1).values
            right = mean(answer == self.target[splits["test"]])
            found["3 nearest neighbors"] = {accuracy.name: right}
        return found


def _is_ragged(x: Any) -> bool:
    return isinstance(x, list | tuple) and len({np.shape(each) for each in x}) > 1


def split_of(count: int, given: Mapping[str, Any] | None) -> dict[str, Tensor]:
    """The splits that were given, or a random fifth for the test.

    Raises:
        ValueError: unknown names, or examples that there are not or that are in two splits.
    """
    if given is None:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        test, train = order.tensor_split([max(1, count // 5)])
        return {"train": train.sort().values, "test": test.sort().values}
    if not {"train", "test"} <= set(given) <= set(SPLITS):
        raise ValueError(f"splits must be train, test and perhaps val, got {', '.join(given)}")
    found = {name: torch.as_tensor(np.asarray(index)).long() for name, index in given.items()}
    every = torch.cat([*found.values()])
    if len(every.unique()) < len(every) or every.min() < 0 or every.max() >= count:
        raise ValueError(f"splits must hold each of 0 .. {count - 1} at most once")
    return found
