"""`task_from`: one way in, for whatever holds the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokennet.checks import lookup, require
from tokennet.compare.from_data.arrays import ArrayTask
from tokennet.compare.from_data.graph_data import LEVELS
from tokennet.compare.task import Task
from tokennet.tokenizers import Characters

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
         "test": "test"}  # fmt: skip


def task_from(data: Any, **options: Any) -> Task:
    """A task from data that you have, in a line; then `compare(task)`.

    Args:
        data: one of

            - a pair of arrays (x, y), or a torch `Dataset` of such pairs, see `ArrayTask`,
            - a PyG `Data`, a dataset or a list of `Data`; `level` is "node", "graph" or "link",
              by default "node" for one graph and "graph" for several,
            - a `Dataset` or `DatasetDict` of Hugging Face `datasets`: images, texts or vectors
              with classes or numbers; `column` and `label` name the columns,
            - a folder of images, one folder for each class, perhaps in train/, val/ and test/.
        options: `name` of the task, and those of the kind: `splits`, `patch`, `images` of arrays,
            `size` of images in a folder, `length` of texts.

    Raises:
        ValueError, TypeError: the data are of none of these kinds, or parts are missing.

    >>> import torch
    >>> task = task_from((torch.randn(50, 6, 2), torch.arange(50) % 3), name="noise")
    >>> task.name, task.nets[0], task.interface.out_features
    ('noise', 'attention@full', 3)
    """
    if isinstance(data, Task):
        return data
    if isinstance(data, str | Path):
        return _folder(Path(data), **options)
    if _is_pyg(data):
        return _graphs(data, **options)
    if hasattr(data, "column_names"):
        return _hugging_face(data, **options)
    if isinstance(data, tuple) and len(data) == 2:
        return ArrayTask(*data, **options)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return _pairs(data, **options)
    raise TypeError(
        "data must be a pair of arrays, a dataset of torch, PyG or Hugging Face, or a folder of "
        f"images, got {type(data).__name__}"
    )


def _is_pyg(data: Any) -> bool:
    if hasattr(data, "edge_index") and hasattr(data, "num_nodes"):
        return True
    if isinstance(data, str | tuple | Mapping) or not hasattr(data, "__len__") or not len(data):
        return False
    try:
        return hasattr(data[0], "edge_index")
    except (KeyError, TypeError, IndexError):
        return False


def _graphs(data: Any, level: str | None = None, name: str | None = None) -> Task:
    single = hasattr(data, "edge_index") and not hasattr(data, "indices")
    graphs = [data] if single else [*data]
    level = level or ("node" if len(graphs) == 1 else "graph")
    kind: Callable[..., Task] = lookup("level", level, LEVELS)
    if level != "graph" and len(graphs) > 1:
        raise ValueError(f"level must be graph for {len(graphs)} graphs, got {level!r}")
    if level != "link" and getattr(graphs[0], "y", None) is None:
        raise ValueError(f"data must have y for the level {level}, got none")
    named = {} if name is None else {"name": name}
    return kind(graphs if level == "graph" else graphs[0], **named)


def _pairs(data: Any, **options: Any) -> Task:
    """A torch `Dataset` of (x, y), all in memory."""
    pairs = [data[number] for number in range(len(data))]
    if not pairs or not isinstance(pairs[0], tuple | list) or len(pairs[0]) != 2:
        raise ValueError("data must be a dataset of pairs (x, y)")
    x = [torch.as_tensor(np.asarray(each)) for each, _ in pairs]
    y = torch.stack([torch.as_tensor(np.asarray(each)) for _, each in pairs])
    same = len({each.shape for each in x}) == 1
    return ArrayTask(torch.stack(x) if same else x, y, **options)


def _hugging_face(data: Any, column: str | None = None, label: str | None = None,
                  length: int = 128, **options: Any) -> Task:  # fmt: skip
    """A `Dataset`, or a `DatasetDict` whose parts are splits."""
    parts, splits = [data], options.pop("splits", None)
    if isinstance(data, Mapping):
        known = {NAMES[name]: part for name, part in data.items() if name in NAMES}
        if not {"train", "test"} <= set(known):
            if "train" not in known:
                raise ValueError(f"data must have the splits train and test, got {', '.join(data)}")
            known = {"train": known["train"]}
        parts = [*known.values()]
        ends = np.cumsum([0, *map(len, parts)])
        if len(known) > 1:
            splits = {n: np.arange(a, b) for n, a, b in zip(known, ends, ends[1:], strict=False)}
    columns, features = [*parts[0].column_names], parts[0].features
    label = label or next((name for name in ("label", "labels", "target", "y") if name in columns),
                          columns[-1])  # fmt: skip
    column = column or next(name for name in columns if name != label)
    for name, given in (("label", label), ("column", column)):
        lookup(name, given, dict.fromkeys(columns))
    y = [value for part in parts for value in part[label]]
    if isinstance(y[0], str):
        classes = {name: number for number, name in enumerate(sorted(set(y)))}
        y = [classes[each] for each in y]
    x = [value for part in parts for value in part[column]]
    options = {"name": "dataset", **options, "splits": splits}
    if isinstance(x[0], str):
        return _texts(x, y, length, options)
    if "Image" in type(features[column]).__name__ or hasattr(x[0], "convert"):
        return _pictures(x, y, None, options)
    return ArrayTask(x if len({np.shape(v) for v in x}) > 1 else np.asarray(x), y, **options)


def _texts(x: list[str], y: Any, length: int, options: dict[str, Any]) -> Task:
    """Characters as ids, at most `length` of each text."""
    characters = Characters.from_text("".join(x))
    sets = [characters.encode(text[:length] or " ")[:, None] for text in x]
    same = len({len(each) for each in sets}) == 1
    given = torch.stack(sets) if same else sets
    return ArrayTask(given, y, ids=characters.vocab_size, **options)


def _pictures(x: list[Any], y: Any, size: int | None, options: dict[str, Any]) -> Task:
    """Pictures of Pillow, of one size and with the same channels."""
    gray = all(picture.mode in ("L", "1") for picture in x)
    shape = x[0].size if size is None else (size, size)
    converted = [p.convert("L" if gray else "RGB") for p in x]
    converted = [p if p.size == shape else p.resize(shape) for p in converted]
    stacked = torch.as_tensor(np.stack([np.asarray(p) for p in converted]))  # (n, H, W) or with C
    images = stacked[:, None] if gray else stacked.permute(0, 3, 1, 2)
    return ArrayTask(images.contiguous(), y, **options)


def _folder(folder: Path, size: int | None = None, **options: Any) -> Task:
    """A folder for each class, perhaps in folders for the splits."""
    pillow = require("PIL.Image", "compare")
    if not folder.is_dir():
        raise ValueError(f"data must be a folder of images, got {str(folder)!r}")
    tops = {NAMES[each.name]: each for each in folder.iterdir() if each.name in NAMES}
    tops = tops if {"train", "test"} <= set(tops) else {"": folder}
    found = [
        (split, kind.name, file)
        for split, top in tops.items()
        for kind in sorted(top.iterdir()) if kind.is_dir()
        for file in sorted(kind.iterdir()) if file.suffix.lower() in PICTURES
    ]  # fmt: skip
    classes = {name: number for number, name in enumerate(sorted({kind for _, kind, _ in found}))}
    if len(classes) < 2:
        raise ValueError(f"data must have a folder of images for each class, got {folder}")
    pictures = []
    for _, _, file in found:
        with pillow.open(file) as opened:
            pictures.append(opened.copy())
    if len(tops) > 1:
        options["splits"] = {
            name: [n for n, (split, _, _) in enumerate(found) if split == name] for name in tops
        }
    options = {"name": folder.resolve().name, **options}
    return _pictures(pictures, [classes[kind] for _, kind, _ in found], size, options)
