"""The files of data sets: where they lie, how they are downloaded; and stratified splits."""

from __future__ import annotations

import hashlib
import os
import shutil
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokennet.checks import require
from tokennet.compare.metric import Splits
from tokennet.ops.kernels.cache import cache_root


def load(name: str, loader: Callable[[str], Any]) -> Any:
    """Return `loader(root)` for the data set `name`, which may have to be downloaded.

    Raises:
        OSError: it could not be, with what else can be done.
    """
    root = data_root(name)
    try:
        return loader(str(root))
    except OSError as error:
        raise OSError(
            f"{name} could not be loaded or downloaded ({error}); "
            f"set TOKENNET_DATA to a folder that holds {name}/raw"
        ) from error


def data_root(name: str) -> Path:
    """Return a folder that PyG's loaders may write to, for the data set `name`.

    Downloads go to `~/.cache/tokennet` (under `XDG_CACHE_HOME` where set). If
    `TOKENNET_DATA` names a folder with `name/raw` in it, a copy of that is used and
    nothing is downloaded; the folder itself is never written to. Files that changed are
    copied anew.
    """
    cache = cache_root()
    local = os.environ.get("TOKENNET_DATA")
    if not local:
        return cache
    raw = Path(local).resolve() / name / "raw"
    if not raw.is_dir():
        raise ValueError(f"TOKENNET_DATA must hold the folder {name}/raw, got {local}")
    files = sorted(path for path in raw.iterdir() if path.is_file())
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    root = cache / f"local-{hashlib.sha256(repr((raw, stats)).encode()).hexdigest()[:12]}"
    target = root / name / "raw"
    if not target.is_dir():
        partial = root / name / f"raw.{os.getpid()}"
        shutil.copytree(raw, partial, copy_function=shutil.copyfile)
        try:
            partial.rename(target)
        except OSError:  # another process was first
            shutil.rmtree(partial)
    return root


def text_file(name: str, url: str) -> Path:
    """Return the file of a text: `TOKENNET_DATA` itself where it is a file, else its `name`.

    If `TOKENNET_DATA` names a folder, `name/input.txt` in it is used. Without it, the text is
    downloaded from `url` to `~/.cache/tokennet` once.

    Raises:
        ValueError: `TOKENNET_DATA` holds no such file.
        OSError: the text could not be downloaded.
    """
    local = os.environ.get("TOKENNET_DATA")
    if local:
        path = Path(local) if Path(local).is_file() else Path(local) / name / "input.txt"
        if not path.is_file():
            raise ValueError(
                f"TOKENNET_DATA must be a text or hold the file {name}/input.txt, got {local}"
            )
        return path
    path = data_root(name) / name / "input.txt"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            urllib.request.urlretrieve(url, partial)
        except OSError as error:
            raise OSError(
                f"{name} could not be downloaded ({error}); set TOKENNET_DATA to any text file"
            ) from error
        partial.replace(path)
    return path


def stratified_fold(labels: Tensor, folds: int, seed: int) -> dict[str, Tensor]:
    """A fold for the test and the next for validation; other folds for each seed.

    All have the classes in proportion.
    """
    splitter = require("sklearn.model_selection", "compare").StratifiedKFold(
        folds, shuffle=True, random_state=seed // folds
    )
    parts = [torch.tensor(part) for _, part in splitter.split(labels, labels)]
    test, val, *train = parts[seed % folds :] + parts[: seed % folds]
    return {"train": torch.cat(train).sort().values, "val": val, "test": test}


def with_validation(splits: Splits) -> Splits:
    """The splits with a "val": where there is none, a random tenth of the training examples.

    Fewer than 20 training examples are not divided.

    >>> found = with_validation({"train": torch.arange(50), "test": torch.arange(50, 60)})
    >>> [(name, len(index)) for name, index in found.items()]
    [('train', 45), ('val', 5), ('test', 10)]
    """
    train = splits["train"]
    if "val" in splits or len(train) < 20:
        return splits
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    val, rest = train[order].tensor_split([len(train) // 10])
    return {"train": rest.sort().values, "val": val.sort().values, "test": splits["test"]}
